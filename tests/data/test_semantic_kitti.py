"""SemanticKITTI: scans are read where they lie, and whatever is wrong with one is named."""

import json

import build_semantic_kitti as script
import numpy as np
import pytest
from scene_folders import full_disk, make_kitti

from i2p_lib.data import semantic_kitti
from i2p_lib.data.scenes import load_scenes, scene_card, scene_hash, split_scenes

SCAN, LABELS = (f"sequences/08/{kind}" for kind in ("velodyne/000001.bin", "labels/000001.label"))


@pytest.fixture
def source(tmp_path):
    return make_kitti(tmp_path / "official")


def convert(source, output, **more):
    return script.convert(source, output, part=True, progress=False, **more)


def test_a_scan_is_its_bytes_and_its_mapped_labels(source, tmp_path):
    """Promise: points and intensity bit for bit, the 34 raw labels as the official map says."""
    root = tmp_path / "set"
    convert(source, root)
    scene = load_scenes("semantic_kitti", "test", root)[1]
    raw = np.fromfile(source / SCAN, np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(np.hstack([scene.points, scene.features]), raw)
    names = ["unlabelled", *semantic_kitti.CLASS_NAMES]
    said = {  # raw label -> class, read off the comments of semantic-kitti.yaml
        0: "unlabelled", 1: "unlabelled", 10: "car", 11: "bicycle", 13: "other-vehicle",
        15: "motorcycle", 16: "other-vehicle", 18: "truck", 20: "other-vehicle", 30: "person",
        31: "bicyclist", 32: "motorcyclist", 40: "road", 44: "parking", 48: "sidewalk",
        49: "other-ground", 50: "building", 51: "fence", 52: "unlabelled", 60: "road",
        70: "vegetation", 71: "trunk", 72: "terrain", 80: "pole", 81: "traffic-sign",
        99: "unlabelled", 252: "car", 253: "bicyclist", 254: "person", 255: "motorcyclist",
        256: "other-vehicle", 257: "other-vehicle", 258: "truck", 259: "other-vehicle",
    }  # fmt: skip
    lower = np.fromfile(source / LABELS, np.uint32) % 2**16
    assert [names[label + 1] for label in scene.labels] == [said[one] for one in lower.tolist()]
    released = load_scenes("semantic_kitti", "test", root, released=True)[1]
    other = {label for label, a, b in zip(lower, scene.labels, released.labels, strict=True)
             if a != b}  # fmt: skip
    assert other == {13, 16, 60, 256, 257} and set(released.labels[scene.labels < 0]) == {-1}


def test_the_published_numbers_agree_with_each_other():
    assert sum(script.SCANS.values()) == 23_201 and script.SCANS["08"] == 4_071
    assert set(script.CONTENT) == set(semantic_kitti.LEARNING_MAP)
    assert sum(script.CONTENT.values()) == pytest.approx(1, abs=1e-4)
    assert set(semantic_kitti.LEARNING_MAP.values()) == set(range(-1, 19))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: (s / SCAN).write_bytes(b"0" * 100), ValueError,
         "000001.bin: expected x, y, z, intensity.* multiple of 16 bytes, got 100"),
        (lambda s: (s / SCAN).write_bytes(b""), ValueError, "000001.bin.*got 0"),
        (lambda s: (s / LABELS).write_bytes(b"0" * 196), ValueError,
         "000001.label: expected 200 bytes for the 50 points of 000001.bin, got 196"),
        (lambda s: np.full(50, 17, np.uint32).tofile(s / LABELS), ValueError,
         "000001.label: label 17 of point 0 is not among"),
        (lambda s: (s / LABELS).unlink(), FileNotFoundError, "000001: its scan is there"),
        (lambda s: (s / SCAN).unlink(), FileNotFoundError, "000001: its labels is there"),
        (lambda s: np.full(200, np.nan, np.float32).tofile(s / SCAN), ValueError, "NaN"),
        (lambda s: np.full(200, 2, np.float32).tofile(s / SCAN), ValueError,
         "08/000001: features.* to 2"),
        (lambda s: np.tile(np.float32([900, 0, 0, 1]), 50).tofile(s / SCAN), ValueError,
         "metres from the sensor, got 900"),
        (lambda s: (s / "sequences").rename(s / "seq"), FileNotFoundError, "holds `sequences`"),
        (lambda s: [(s / p).rename((s / p).with_stem("1")) for p in (SCAN, LABELS)], ValueError,
         "six digits, got 08/1"),
    ],
    ids=["cut", "empty", "other length", "label", "no labels", "no scan", "nan", "intensity", "far",
         "folder", "name"],
)  # fmt: skip
def test_a_wrong_scan_is_named_and_no_manifest_written(source, tmp_path, spoil, error, message):
    spoil(source)
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "set")
    assert not (tmp_path / "set/manifest.json").exists()


def test_a_scan_that_changed_after_the_check_is_named_when_it_is_read(source, tmp_path):
    convert(source, tmp_path / "set")
    scenes = load_scenes("semantic_kitti", "test", tmp_path / "set")
    (source / SCAN).write_bytes(b"0" * 100)
    with pytest.raises(ValueError, match="000001.bin.*multiple of 16"):
        scenes[1]
    with pytest.raises(ValueError, match="000001.bin: expected SHA-256"):
        scene_hash("semantic_kitti", tmp_path / "set")


def test_scans_that_moved_after_the_check_are_told_with_the_command(source, tmp_path):
    convert(source, tmp_path / "set")
    scenes = load_scenes("semantic_kitti", "test", tmp_path / "set")
    (source / "sequences").rename(tmp_path / "sequences")
    what = "none of its 18 files is in .*official any more.*i2p data get semantic_kitti --from"
    for use in (lambda: load_scenes("semantic_kitti", "test", tmp_path / "set"),
                lambda: scene_hash("semantic_kitti", tmp_path / "set")):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=what):
            use()
    with pytest.raises(FileNotFoundError, match="000001.bin is missing; so are its labels.*--from"):
        scenes[1]


def test_hidden_files_beside_the_scans_are_none(source, tmp_path):
    """Promise: what macOS writes beside files on other disks does not count."""
    for path in (SCAN, LABELS):
        (source / path).with_name("._" + path.rpartition("/")[2]).write_bytes(b"x")
    (source / SCAN).with_name("._000007.bin").write_bytes(b"x")
    assert len(convert(source, tmp_path / "set")["scenes"]) == 9


def test_a_check_that_was_stopped_goes_on(source, tmp_path, monkeypatch):
    """Promise: what was checked is not read again, what changed is; notes go with the end."""
    monkeypatch.setattr(script, "_TOGETHER", 2)
    kept = (source / SCAN).read_bytes()
    (source / SCAN).write_bytes(b"")
    with pytest.raises(ValueError, match="000001.bin"):
        convert(source, tmp_path / "set")
    (source / SCAN).write_bytes(kept)
    read = []
    real = semantic_kitti.read_scene
    monkeypatch.setattr(
        script, "read_scene", lambda folder, name: read.append(name) or real(folder, name)
    )
    manifest = convert(source, tmp_path / "set")
    assert read == ["08/000000", "08/000001", "08/000002"] and len(manifest["scenes"]) == 9
    assert {f.name for f in (tmp_path / "set").iterdir()} == {"manifest.json"}


def test_a_disk_that_fills_leaves_no_manifest(source, tmp_path):
    with full_disk(500), pytest.raises(OSError):
        convert(source, tmp_path / "set")
    assert not [f for f in (tmp_path / "set").rglob("*") if f.is_file()]
    assert len(convert(source, tmp_path / "set")["scenes"]) == 9


def test_scans_stay_where_they_are(source, tmp_path):
    """Promise: the manifest of another folder names the official one; its own is moved with it."""
    assert convert(source, tmp_path / "set")["scenes_in"] == str(source)
    assert convert(source, source)["scenes_in"] == "."
    source.rename(tmp_path / "moved")
    assert len(load_scenes("semantic_kitti", "test", tmp_path / "moved")[0]) == 50


def test_a_part_is_not_taken_for_the_official_set(source, tmp_path):
    with pytest.raises(ValueError, match="expected 23,201 labelled scans"):
        script.convert(source, tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_the_official_counts_with_other_classes_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SCANS", {"00": 4, "04": 2, "08": 3})
    with pytest.raises(ValueError, match="more than 2 times off: .*road 0.0682 .published 0.205"):
        script.convert(source, tmp_path / "set", progress=False)


def test_val_is_the_end_of_each_sequence_and_test_is_08():
    """Promise: scans that follow each other are not torn apart."""
    names = [f"{seq}/{n:06d}" for seq, count in script.SCANS.items() for n in range(count)]
    splits = split_scenes(scene_card("semantic_kitti"), names)
    assert sum(where == "test" for where in splits.values()) == 4_071
    first = [where for name, where in sorted(splits.items()) if name.startswith("04/")]
    assert first == ["train"] * 244 + ["val"] * 27
    assert split_scenes(scene_card("semantic_kitti"), ["00/000000"]) == {"00/000000": "train"}


def test_two_scans_are_never_held_at_once(source, tmp_path):
    """Promise: a split is a list of names; scenes are read when they are asked for."""
    convert(source, tmp_path / "set")
    scenes = load_scenes("semantic_kitti", "trainval", tmp_path / "set")
    assert len(scenes) == 6 and scenes[0] is not scenes[0]
    (source / "sequences/00/velodyne/000000.bin").unlink()
    assert len(scenes) == 6
    with pytest.raises(FileNotFoundError, match="000000.bin is missing"):
        next(iter(scenes))


def test_the_manifest_counts_points_of_classes(source, tmp_path):
    convert(source, tmp_path / "set")
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    counts = sum(
        np.bincount(scene.labels + 1, minlength=20)
        for split in ("trainval", "test")
        for scene in load_scenes("semantic_kitti", split, tmp_path / "set")
    )
    assert manifest["class_points"] == [*counts[1:].tolist(), int(counts[0])]
    assert len(manifest["files"]) == 18 and set(manifest["scenes"].values()) == {50}
