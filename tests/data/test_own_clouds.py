"""A folder of one's own becomes a set: every format, faults told together, splits written down."""

import shutil
from pathlib import Path

import h5py
import laspy
import numpy as np
import pytest
import trimesh
from pypcd4 import PointCloud

from i2p_lib.data import load_dataset
from i2p_lib.data.cloud_files import BadCloud, read_cloud
from i2p_lib.data.own import PointClouds
from i2p_lib.data.own_building import BadClouds, suggest_voxel_size
from i2p_lib.data.own_scenes import Scenes
from i2p_lib.data.registry import cloud_names, dataset_card
from i2p_lib.data.scenes import IGNORED, load_scenes

MESHES = ("ply", "off", "obj", "stl", "glb")
TABLES = ("npy", "npz", "xyz", "csv", "pcd", "las", "laz")


def write_cloud(path: Path, points: np.ndarray) -> None:
    """Write points [N, 3] in the format of the path's ending."""
    match path.suffix:
        case ".npy":
            np.save(path, points.astype(">f8"))
        case ".npz":
            np.savez(path, points=points.astype(np.float16))
        case ".xyz":  # a byte order mark and Windows line ends
            lines = "\r\n".join(" ".join(map(str, row)) for row in points.tolist())
            path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
        case ".csv":  # UTF-16, as some spreadsheets write it
            rows = "\n".join(",".join(map(str, row)) for row in points.tolist())
            path.write_text(f"X,Y,Z\n{rows}\n", encoding="utf-16")
        case ".pcd":
            PointCloud.from_xyz_points(points.astype(np.float32)).save(path)
        case ".las" | ".laz":
            header = laspy.LasHeader(point_format=0)
            header.scales = [1e-4] * 3
            las = laspy.LasData(header)
            las.x, las.y, las.z = points.T
            las.write(str(path))
        case _:
            trimesh.creation.box(np.ptp(points, axis=0)).export(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Boxes and slabs in all formats, under a path with a space and an umlaut."""
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    root, random = tmp_path / "my clöuds", np.random.default_rng(0)
    for name, size in (("a box", (1, 1, 1)), ("slab", (2, 2, 0.1))):
        (root / name).mkdir(parents=True)
        for number, ending in enumerate((*MESHES, *TABLES)):
            points = random.uniform(-0.5, 0.5, (300 + number, 3)) * size * random.uniform(0.8, 1.2)
            write_cloud(root / name / f"{number:02d}.{ending}", points + 7)
    return root


@pytest.mark.parametrize("ending", TABLES)
def test_a_cloud_of_each_format_has_the_points_that_were_written(
    ending: str, tmp_path: Path
) -> None:
    points = np.random.default_rng(1).uniform(-1, 1, (100, 3))
    write_cloud(tmp_path / f"cloud.{ending}", points)
    found = read_cloud(tmp_path / f"cloud.{ending}")
    assert found.faces is None
    np.testing.assert_allclose(found.points, points, atol=1e-3 if ending == "npz" else 1e-4)


@pytest.mark.parametrize("ending", MESHES)
def test_points_of_a_mesh_lie_on_its_surface(ending: str, tmp_path: Path) -> None:
    trimesh.creation.box((2, 4, 6)).export(tmp_path / f"box.{ending}")
    points = read_cloud(tmp_path / f"box.{ending}").drawn(500, seed=3)
    inside = np.abs(points) / (1, 2, 3)
    np.testing.assert_allclose(inside.max(axis=1), 1, atol=1e-6)


def test_a_folder_becomes_a_set_once_and_every_cloud_is_counted(folder: Path) -> None:
    clouds = PointClouds.from_folder(folder, points=128, progress=False)
    assert clouds.class_names == ("a box", "slab") and clouds.channels == 3
    assert clouds.counts().to_numpy().tolist() == [[9, 1, 2], [9, 1, 2]]
    train = load_dataset(clouds.name, "train")
    assert train.points.shape == (18, 128, 3) and train.class_names == clouds.class_names
    np.testing.assert_allclose(train.points.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(train.points, axis=2).max(axis=1), 1, atol=1e-5)
    names = cloud_names(clouds.name, "test")
    labels = [clouds.class_names[n] for n in load_dataset(clouds.name, "test").labels]
    assert [name.split("/")[0] for name in names] == labels
    before = {file: file.stat().st_mtime_ns for file in (folder.parent / "data").rglob("*.h5")}
    again = PointClouds.from_folder(folder, points=128, progress=False)
    assert again.name == clouds.name
    assert before == {file: file.stat().st_mtime_ns for file in before}
    write_cloud(folder / "slab" / "new.npy", np.random.default_rng(5).normal(size=(50, 3)))
    assert PointClouds.from_folder(folder, points=128, progress=False).name != clouds.name


def test_all_bad_files_are_told_at_once_and_skipped_on_demand(folder: Path) -> None:
    (folder / "slab" / "cut.off").write_text("OFF\n3 1 0\n0 0 0\n1 0")
    (folder / "slab" / "line.xyz").write_text("0 0 0\n1 1\n2 2 2\n")
    (folder / "slab" / "equal.txt").write_text("1 2 3\n1 2 3\n")
    shutil.copy(folder / "slab" / "00.ply", folder / "a box" / "twin.ply")
    shutil.copy(folder / "slab" / "01.off", folder / "slab" / "copy.off")
    (folder / "slab" / "._00.ply").write_bytes(b"\0")
    with pytest.raises(BadClouds) as error:
        PointClouds.from_folder(folder, points=64, progress=False)
    for part in ("cut.off: expected a whole .off",
                 "line.xyz: line 2: expected 3 numbers, got '1 1'",
                 "equal.txt: all 2 points are equal",
                 "00.ply: holds the same bytes as",
                 "of another class", "skip_bad=True"):  # fmt: skip
        assert part in str(error.value)
    assert not list((folder.parent / "data").glob("*/card.yml")), "nothing is left half built"
    clouds = PointClouds.from_folder(folder, points=64, skip_bad=True, progress=False)
    left_out = sorted(Path(file).name for file in clouds.skipped["file"])
    assert left_out == ["00.ply", "copy.off", "cut.off", "equal.txt", "line.xyz"]
    assert "left out: 5 files" in str(clouds)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("comma.csv", "0,5;1,5;2,5\n1,5;2,5;3,5\n", "decimal commas"),
    ("flat.npy", np.zeros((3, 200)), "is it transposed"),
    ("one.npy", np.zeros((1, 3)), "all 1 points are equal"),
    ("huge.npy", np.full((9, 3), 1e300), "expected coordinates below"),
])
def test_what_would_be_read_wrongly_is_refused(
    name: str, content: str | np.ndarray, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content) if isinstance(content, str) else np.save(path, content)
    with pytest.raises(BadCloud, match=said):
        read_cloud(path)


def test_a_ply_that_is_cut_is_refused(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 9\n" + "".join(
        f"property float {axis}\n" for axis in "xyz")  # fmt: skip
    (tmp_path / "cut.ply").write_text(head + "end_header\n" + "0 1 2\n3 4 5\n")
    with pytest.raises(BadCloud, match=r"9 vertices|whole .ply"):
        read_cloud(tmp_path / "cut.ply")


def test_a_link_to_nothing_is_left_out_with_its_reason(folder: Path) -> None:
    (folder / "slab" / "gone.npy").symlink_to("nowhere.npy")
    clouds = PointClouds.from_folder(folder, points=64, progress=False)
    assert clouds.skipped["reason"].tolist() == ["leads to no file"]


def test_given_splits_stay_and_missing_ones_are_drawn(folder: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(folder, folder.parent / "given" / split)
    for file in (folder.parent / "given" / "test").rglob("*.n*"):
        file.unlink()
    for number, file in enumerate((folder.parent / "given" / "test").rglob("*.*")):
        points = np.random.default_rng(number).uniform(size=(99, 3))
        file.unlink()
        write_cloud(file.with_suffix(".npy"), points)
    clouds = PointClouds.from_folder(folder.parent / "given", points=64, progress=False)
    counts = clouds.counts()
    assert counts["test"].tolist() == [10, 10] and counts["val"].tolist() == [1, 1]
    split_of = dict(zip(clouds.sources["file"], clouds.sources["split"], strict=True))
    assert all(where == "test" for file, where in split_of.items() if file.startswith("test/"))


def test_colours_are_features_where_all_files_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(4):
            rows = np.hstack([random.normal(size=(80, 3)), random.integers(0, 256, (80, 3))])
            np.savetxt(tmp_path / "own" / name / f"{number}.txt", rows, fmt="%.5f")
    clouds = PointClouds.from_folder(tmp_path / "own", points=64, progress=False)
    assert clouds.card.features == ("red", "green", "blue") and clouds.channels == 6
    colours = load_dataset(clouds.name, "train").points[..., 3:]
    assert colours.min() >= 0 and 0.9 < colours.max() <= 1
    np.save(tmp_path / "own" / "a" / "plain.npy", random.normal(size=(80, 3)))
    plain = PointClouds.from_folder(tmp_path / "own", points=64, progress=False)
    assert plain.channels == 3
    with pytest.raises(BadClouds, match="plain.npy: lacks the features blue, green, red"):
        PointClouds.from_folder(tmp_path / "own", features=["red", "green", "blue"],
                                progress=False)  # fmt: skip


def test_another_axis_is_turned_up_and_units_can_stay(folder: Path) -> None:
    plain = PointClouds.from_folder(folder, points=64, progress=False)
    turned = PointClouds.from_folder(folder, points=64, up="y", progress=False)
    one, other = (load_dataset(c.name, "test").points for c in (plain, turned))
    np.testing.assert_allclose(other, one[..., [0, 2, 1]] * (1, -1, 1), atol=1e-6)
    kept = PointClouds.from_folder(folder, points=64, center=False, unit_sphere=False,
                                   progress=False)  # fmt: skip
    assert load_dataset(kept.name, "train").points.max() > 7, "clouds lie about 7 from the origin"


def test_clouds_of_an_h5_file_are_read_with_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    points = np.random.default_rng(0).normal(size=(12, 40, 3)).astype(np.float32)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["data"], file["label"] = points, np.arange(12)[:, None] % 2
        file["class_names"] = ["a chair", "a table"]
    clouds = PointClouds.from_folder(tmp_path / "mine.h5", points=32, progress=False)
    assert clouds.class_names == ("a chair", "a table") and len(clouds.sources) == 12


@pytest.mark.parametrize(("change", "said"), [
    ({"up": "w"}, "up: expected x, y or z"), ({"points": 3}, "points: expected 16"),
    ({"center": False}, "leave center on"),
])  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_read(
    folder: Path, change: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        PointClouds.from_folder(folder, **change)


def test_a_folder_without_classes_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of clouds"):
        PointClouds.from_folder(tmp_path / "nothing")
    (tmp_path / "lone.xyz").write_text("0 0 0\n")
    with pytest.raises(ValueError, match="a folder for each of two or more classes"):
        PointClouds.from_folder(tmp_path)


def test_the_suggested_voxel_follows_the_unit_and_the_density() -> None:
    dense = np.random.default_rng(0).uniform(size=(4, 20_000, 3))
    sparse = dense[:, :500]
    size = suggest_voxel_size(dense)[0]
    assert size == pytest.approx(1 / 20, rel=0.5)
    assert suggest_voxel_size(sparse)[0] > 1.5 * size
    assert suggest_voxel_size(1000 * dense)[0] == pytest.approx(1000 * size, rel=0.1)
    assert dataset_card("home_objects").voxel_size is None


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five rooms of a floor, a wall and points that are not counted."""
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    root, random = tmp_path / "rooms", np.random.default_rng(0)
    root.mkdir()
    for number in range(5):
        points = random.uniform(0, 3, (300, 3)) + 1000
        labels = random.choice([0, 4, 9], 300)
        rows = np.column_stack([points, random.integers(0, 256, (300, 3)), labels])
        if number % 2:
            np.savetxt(root / f"room {number}.txt", rows, fmt="%.4f")
        else:
            np.save(root / f"room {number}.npy", rows)
    (root / "scenes.yml").write_text("classes: {0: floor, 4: a wall}\nignored: [9]\n")
    return root


def test_rooms_become_scenes_with_classes_and_points_that_do_not_count(rooms: Path) -> None:
    scenes = Scenes.from_folder(rooms, progress=False)
    assert scenes.card.class_names == ("floor", "a wall")
    assert scenes.sources["split"].value_counts().to_dict() == {"train": 3, "val": 1, "test": 1}
    (one,) = load_scenes(scenes.name, "test")
    assert set(np.unique(one.labels)) == {IGNORED, 0, 1}
    assert one.points.min() >= 0 and one.points.max() <= 3.01
    assert one.features.shape == (300, 3) and one.features.max() <= 1
    assert [len(load_scenes(scenes.name, split)) for split in ("train", "val")] == [3, 1]


def test_a_label_without_a_name_is_refused_with_its_file(rooms: Path) -> None:
    (rooms / "scenes.yml").write_text("classes: {0: floor, 4: a wall}\n")
    with pytest.raises(BadClouds, match=r"room 0.npy: labels \[9\] have no name"):
        Scenes.from_folder(rooms, progress=False)
    (rooms / "scenes.yml").write_text("klasses: []\n")
    with pytest.raises(ValueError, match="scenes.yml: expected classes, ignored"):
        Scenes.from_folder(rooms, progress=False)
