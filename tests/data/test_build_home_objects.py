"""The build script makes the committed data set, and its rules hold on small cases."""

import csv
import os
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from i2p_lib.data import dataset_card

SOURCE = Path(os.environ.get("I2P_FURNITURE", "/usr/share/sweethome3d"))
CUBE = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1)) + (
    "usemtl missing\nf 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"
)


@pytest.fixture(scope="module")
def script(data_script):
    return data_script("build_home_objects")


@pytest.fixture(scope="module")
def building(data_script):
    return data_script("_building")


def catalogue(folder: Path, rotation: str = "") -> Path:
    """Write a catalogue of one cube, which it stretches to 10 wide, 20 deep and 40 high."""
    path = folder / "Mini.sh3f"
    turned = f"modelRotation#1={rotation}\n" if rotation else ""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cube/cube.obj", "mtllib none.mtl\no part\n" + CUBE)
        file.writestr(
            "PluginFurnitureCatalog.properties",
            "# comment\nid#1=Scopia#cube\nname#1=Bill 10\\u20ac\nmodel#1=/cube/cube.obj\n"
            f"width#1=10\ndepth#1=20\nheight#1=40\n{turned}creator#1=Me\n".encode("latin-1"),
        )
    return path


def read(folder: Path) -> dict:
    """Return id -> (provenance row, cloud, label) of a built folder."""
    with open(folder / "provenance.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        with h5py.File(folder / f"ply_data_{row['split']}0.h5") as file:
            index = int(row["index"])
            found[row["id"]] = (row, file["data"][index], int(file["label"][index, 0]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    not SOURCE.exists(),
    reason=f"needs Debian's sweethome3d-furniture at {SOURCE}, or I2P_FURNITURE=its .deb or folder",
)
def test_one_class_built_again_is_the_committed_one(script, building, tmp_path):
    arguments = [str(SOURCE), "--output", str(tmp_path), "--limit-classes", "sofa"]
    assert script.main(arguments) == 0
    built, committed = read(tmp_path), read(dataset_card("home_objects").root())
    sofas = {name for name, (row, _, _) in committed.items() if row["class"] == "sofa"}
    assert set(built) == sofas
    for name in sofas:
        row, cloud, label = built[name]
        expected_row, expected, expected_label = committed[name]
        assert label == expected_label
        assert row | {"index": ""} == expected_row | {"index": ""}
        assert np.abs(cloud - expected).max() <= 1.01 / building.GRID


def test_the_catalogue_is_read_with_its_escapes(script, tmp_path):
    (item,) = script.read_catalogue(catalogue(tmp_path))
    assert item.id == "Scopia#cube" and item.catalogue == "Scopia"
    assert item.properties["name"] == "Bill 10€"


def test_a_model_gets_the_catalogues_size_and_stands_upright(script, tmp_path):
    (item,) = script.read_catalogue(catalogue(tmp_path))
    assert script.load_mesh(item).extents.tolist() == pytest.approx([10, 20, 40])


def test_model_rotation_is_applied_before_the_size(script, tmp_path):
    # the first axis becomes the third: the cube's face x = 0 (vertices 1 to 4) is then at z = 0
    (item,) = script.read_catalogue(catalogue(tmp_path, "0 0 1 0 1 0 -1 0 0"))
    mesh = script.load_mesh(item)
    assert mesh.extents.tolist() == pytest.approx([10, 20, 40])
    assert np.ptp(mesh.vertices[:4, 1]) == pytest.approx(0)


def test_a_cloud_is_the_same_every_time_and_normalised(script, tmp_path):
    (item,) = script.read_catalogue(catalogue(tmp_path))
    cloud = script.sample_cloud(item)
    assert cloud.shape == (2048, 3) and cloud.dtype == np.float32
    assert np.array_equal(cloud, script.sample_cloud(item))
    assert 0.999 < np.linalg.norm(cloud, axis=1).max() <= 1


def box(seed, size):
    points = np.random.default_rng(seed).uniform(-0.5, 0.5, (1024, 3)) * size
    return points.astype(np.float32)


def test_two_draws_of_one_shape_are_grouped_turned_or_not_and_others_are_not(building):
    clouds = {
        "a": box(0, (1, 0.5, 0.2)), "b": box(1, (1, 0.5, 0.2)), "turned": box(2, (0.5, 1, 0.2)),
        "other": box(3, (1, 1, 1)), "elsewhere": box(4, (1, 0.5, 0.2)), "named": box(5, (1, 1, 0)),
    }
    labels = dict.fromkeys(clouds, 0) | {"elsewhere": 1}
    group = building.group_objects(clouds, labels, [["other", "named", "not sampled"]])
    assert group["a"] == group["b"] == group["turned"]
    assert group["other"] == group["named"]
    assert len(set(group.values())) == 3


def test_a_split_keeps_groups_whole_and_meets_its_shares(building):
    groups = {f"o{i}": f"o{i - i % 3 if i < 12 else i}" for i in range(40)}
    split = building.split_class(groups)
    assert Counter(split.values()) == {"train": 24, "val": 6, "test": 10}
    assert all(split[name] == split[group] for name, group in groups.items())
    assert split == building.split_class(dict(reversed(groups.items())))


def test_an_object_missing_from_the_class_table_stops_the_build(script):
    table = {"classes": {"box": {"Scopia#a": "A"}}, "excluded": {"odd": {"Scopia#gone": "G"}}}
    with pytest.raises(ValueError, match="not in the catalogues: .'Scopia#gone'.; not in"):
        script.check_table(table, {"Scopia#a": None, "Scopia#new": None})


def test_unreadable_models_are_skipped_and_said(script, tmp_path):
    (item,) = script.read_catalogue(catalogue(tmp_path))
    broken = script.Item("Scopia#b", item.properties | {"model": "/gone.obj"}, item.archive)
    clouds, skipped = script.sample_all(
        {"box": [item.id, broken.id]}, {item.id: item, broken.id: broken}
    )
    assert list(clouds) == [item.id] and "gone.obj" in skipped[broken.id]


def test_help_has_examples(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = capsys.readouterr().out
    assert "Examples:" in text and "--limit-classes" in text
