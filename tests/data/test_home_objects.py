"""The embedded data set is what its papers say: shapes, labels, splits, groups, provenance."""

import csv
import json
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
import yaml

from i2p_lib.data import dataset_card, load_dataset
from i2p_lib.data.modelnet import load_folder

FOLDER = dataset_card("home_objects").root()
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def provenance():
    with open(FOLDER / "provenance.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(project_root):
    text = (project_root / "data_scripts" / "home_objects_classes.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def clouds_named(provenance, names):
    rows = [row for row in provenance if row["name"] in names]
    assert rows, names
    sets = {split: load_dataset("home_objects", split) for split in SPLITS}
    return [(row["id"], sets[row["split"]].points[int(row["index"])]) for row in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_clouds_are_centred_in_the_unit_sphere_on_the_grid(split):
    points = load_dataset("home_objects", split).points
    assert points.dtype == np.float32
    radius = np.linalg.norm(points, axis=2).max(axis=1)
    assert radius.max() <= 1 and radius.min() > 0.999
    assert np.abs(points.mean(axis=1)).max() < 1 / 2048
    assert np.array_equal(points * 4096, np.round(points * 4096))


def test_every_class_has_enough_clouds_in_every_split():
    counts = {s: np.bincount(load_dataset("home_objects", s).labels, minlength=16) for s in SPLITS}
    assert counts["train"].min() >= 10  # ten shots can be drawn
    assert counts["val"].min() >= 3 and counts["test"].min() >= 4
    total = sum(counts.values())
    for split, share in {"train": 0.60, "val": 0.15, "test": 0.25}.items():
        assert np.abs(counts[split] - share * total).max() <= 1.5


def test_labels_follow_the_provenance_and_the_class_table(provenance, table):
    class_of = {name: k for k, members in table["classes"].items() for name in members}
    for split in SPLITS:
        cloud_set = load_dataset("home_objects", split)
        rows = [row for row in provenance if row["split"] == split]
        assert [int(row["index"]) for row in rows] == list(range(len(cloud_set)))
        assert [row["class"] for row in rows] == [
            cloud_set.class_names[label] for label in cloud_set.labels
        ]
        assert all(row["class"] == class_of[row["id"]] for row in rows)
    assert cloud_set.class_names == tuple(table["classes"])


def test_every_object_of_the_catalogues_is_used_or_excluded_with_a_reason(provenance, table):
    used = [name for members in table["classes"].values() for name in members]
    out = [name for members in table["excluded"].values() for name in members]
    assert len(set(used + out)) == len(used + out) == 820
    skipped = json.loads((FOLDER / "manifest.json").read_text())["skipped"]
    assert sorted(row["id"] for row in provenance) == sorted(set(used) - set(skipped))
    assert all(len(reason) > 10 for reason in table["excluded"])


def test_no_group_of_one_shape_parts_in_two_splits(provenance, table):
    splits, group_of = defaultdict(set), {row["id"]: row["group"] for row in provenance}
    for row in provenance:
        splits[row["group"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert all(len({group_of[name] for name in known}) == 1 for known in table["same_object"])


def test_no_cloud_is_there_twice():
    points = np.concatenate([load_dataset("home_objects", split).points for split in SPLITS])
    assert len({cloud.tobytes() for cloud in points}) == len(points)


def test_every_object_has_creator_and_licence(provenance):
    assert all(row["creator"] and row["name"] for row in provenance)
    licences = Counter((row["catalogue"], row["licence"]) for row in provenance)
    assert {c for c, licence in licences if licence == "CC0-1.0"} == {"Blend Swap CC-0"}
    text = (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    for (catalogue, licence), count in licences.items():
        assert f"| {catalogue} | {count} | {licence} |" in text


def test_street_lamps_and_standing_people_are_taller_than_wide(provenance):
    names = {"Street lamp", "Classic lamppost", "Female", "Male", "Wine bottle", "Palm tree"}
    for name, cloud in clouds_named(provenance, names):
        width, depth, height = np.ptp(cloud, axis=0)
        assert height > 1.5 * max(width, depth), name


def test_vehicles_beds_and_sofas_lie_flat(provenance):
    names = {"Bed", "Sofa", "Winchester sofa", "Truck", "Bus", "Smart car", "SUV", "Bicycle"}
    for name, cloud in clouds_named(provenance, names):
        width, depth, height = np.ptp(cloud, axis=0)
        assert height < max(width, depth), name


def test_table_tops_and_tree_crowns_are_above(provenance):
    names = {"Round table", "Oak table", "Glass table", "Coconut tree", "Cocktail glass"}
    for name, cloud in clouds_named(provenance, names):
        middle = (cloud[:, 2].max() + cloud[:, 2].min()) / 2
        assert (cloud[:, 2] > middle).mean() > 0.5, name


@pytest.mark.parametrize("victim", ["ply_data_test0.h5", "provenance.csv", "shape_names.txt"])
def test_a_changed_byte_in_any_file_is_found(tmp_path, victim):
    shutil.copytree(FOLDER, tmp_path / "copy")
    path = tmp_path / "copy" / victim
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{victim}: expected SHA-256"):
        load_folder(tmp_path / "copy", "home_objects", "train")


def test_a_lost_file_is_found(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "copy")
    (tmp_path / "copy" / "LICENSE.md").unlink()
    with pytest.raises(FileNotFoundError, match="LICENSE.md is missing"):
        load_dataset("home_objects", "train", root=tmp_path / "copy")


def test_the_manifest_names_every_file_and_the_set_stays_small():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    present = {path.name for path in FOLDER.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
