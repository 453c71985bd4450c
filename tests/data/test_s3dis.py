"""S3DIS: texts are read as they are, repaired where only one reading is possible, or refused."""

import json

import build_s3dis as script
import h5py
import numpy as np
import pytest
from _s3dis_text import read_annotation
from scene_folders import TEXTS, full_disk, make_s3dis

from i2p_lib.data.scenes import describe_scenes, load_scenes, scene_card, split_scenes

HALLWAY = "Area_5/hallway_6/Annotations/ceiling_1.txt"


@pytest.fixture
def source(tmp_path):
    return make_s3dis(tmp_path / "official", {"Area_1": ("office_1",), "Area_5": ("hallway_6",)})


def convert(source, output, **more):
    return script.convert(source, output, part=True, progress=False, **more)


def write_text(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("1 2 3 4 5 6\n")


def write(path, lines: bytes):
    path.write_bytes(lines)
    return path


def test_every_number_of_a_text_is_read(tmp_path):
    """Promise: points and colours equal numpy's own reading of the text, in its order."""
    generator = np.random.default_rng(1)
    table = np.hstack([generator.uniform(-40, 40, (500, 3)).round(3),
                       generator.integers(0, 256, (500, 3))])  # fmt: skip
    path = tmp_path / "chair_1.txt"
    np.savetxt(path, table, "%.3f %.3f %.3f %d %d %d")
    points, colours, repairs = read_annotation(path)
    reference = np.loadtxt(path)
    np.testing.assert_array_equal(points, reference[:, :3].astype(np.float32))
    np.testing.assert_array_equal(colours, reference[:, 3:])
    assert points.dtype == np.float32 and colours.dtype == np.uint8 and not repairs


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b"22.350 6.692 3.048 185\x10187 182", [22.35, 6.692, 3.048, 185, 187, 182]),
        (b"22.350 6.692 3.048 185\x00187 182", [22.35, 6.692, 3.048, 185, 187, 182]),
        (b"0.577500 -12.407500 2.604000 167.\x1000000 175.000000 177.000000",
         [0.5775, -12.4075, 2.604, 167, 175, 177]),
        (b"19.302 -9.1\x160 1.785 146 137 106", [19.302, -9.16, 1.785, 146, 137, 106]),
    ],
    ids=["space lost", "space became NUL", "digit in a colour", "digit in a coordinate"],
)  # fmt: skip
def test_the_stray_bytes_of_the_official_set_are_repaired_and_listed(tmp_path, line, values):
    path = write(tmp_path / "a_1.txt", b"1 2 3 4 5 6\n" + line + b"\r\n\n7 8 9 10 11 12")
    points, colours, repairs = read_annotation(path)
    np.testing.assert_allclose(np.hstack([points, colours])[1], values, rtol=1e-6)
    assert len(points) == 3 and [one["line"] for one in repairs] == [2]
    assert "\\x" in repairs[0]["was"] and repairs[0]["read"].count(" ") == 5


@pytest.mark.parametrize(
    "line",
    [b"1 2 3 4 5", b"1 2 3 4 5 6 7", b"1 2 3 4 5 256", b"1 2 3 4 5 -1", b"1 2 3 4 5 6.5",
     b"1 2 x 4 5 6", b"nan 2 3 4 5 6", b"1e39 2 3 4 5 6",
     b"1 2 3 4 5 \x06", b"\xff 2 3 4 5 6 7", b"1 2 3\x004 5 6 7"],
)  # fmt: skip
def test_a_line_that_is_not_six_numbers_is_named(tmp_path, line):
    """Promise: file, line number and text; a stray byte without a reading is no repair."""
    path = write(tmp_path / "a_1.txt", b"1 2 3 4 5 6\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"a_1\.txt:3: expected six numbers"):
        read_annotation(path)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    points, _, repairs = read_annotation(write(tmp_path / "a_1.txt", b"\xef\xbb\xbf1 2 3 4 5 6\n"))
    assert points.tolist() == [[1, 2, 3]] and not repairs


def test_a_text_without_points_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a_1.txt.*got none"):
        read_annotation(write(tmp_path / "a_1.txt", b"\n"))


def test_rooms_become_scenes_with_the_labels_of_their_files(source, tmp_path):
    """Promise: each point of each annotation, its colour over 255, its class; stairs ignored."""
    root = tmp_path / "set"
    convert(source, root)
    [scene] = load_scenes("s3dis", "test", root)
    assert scene.name == "Area_5/hallway_6"
    expected = np.vstack([np.loadtxt(source / "Area_5/hallway_6/Annotations" / f"{text}.txt")
                          for text in sorted(TEXTS)])  # fmt: skip
    np.testing.assert_array_equal(scene.points, expected[:, :3].astype(np.float32))
    np.testing.assert_allclose(scene.features * 255, expected[:, 3:], atol=1e-4)
    counts = {label: int((scene.labels == label).sum()) for label in set(scene.labels.tolist())}
    assert counts == {-1: 5, 0: 40, 2: 50, 8: 10}
    assert "repaired" not in describe_scenes("s3dis", root)


def test_a_repair_of_a_room_is_in_the_manifest_and_said(source, tmp_path):
    text = source / HALLWAY
    text.write_bytes(text.read_bytes() + b"22.350 6.692 3.048 185\x10187 182\n")
    manifest = convert(source, tmp_path / "set")
    [repair] = manifest["repairs"]
    assert (repair["file"], repair["line"]) == (HALLWAY, 41)
    assert f"repaired {HALLWAY}:41" in describe_scenes("s3dis", tmp_path / "set")
    again = convert(source, tmp_path / "set")  # nothing is read anew, nothing is forgotten
    assert again == manifest


def test_a_conversion_that_was_stopped_goes_on(source, tmp_path, monkeypatch):
    """Promise: without a manifest the set is absent; done rooms stay; the result is the same."""
    whole = convert(source, tmp_path / "whole")
    (source / HALLWAY).rename(tmp_path / "kept")
    (source / HALLWAY).write_text("1 2 3\n")
    with pytest.raises(ValueError, match="ceiling_1.txt:1"):
        convert(source, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="not here, or not whole"):
        load_scenes("s3dis", "train", tmp_path / "set")
    done = tmp_path / "set/Area_1/office_1.h5"
    before = done.stat().st_mtime_ns
    (tmp_path / "kept").rename(source / HALLWAY)
    assert convert(source, tmp_path / "set") == whole
    assert done.stat().st_mtime_ns == before


def test_a_changed_text_is_converted_again(source, tmp_path):
    convert(source, tmp_path / "set")
    text = source / HALLWAY
    text.write_text(text.read_text() + "1 2 3 4 5 6\n")
    assert convert(source, tmp_path / "set")["scenes"]["Area_5/hallway_6"] == 106


def test_a_half_written_room_is_made_anew(source, tmp_path):
    whole = convert(source, tmp_path / "set")
    room = tmp_path / "set/Area_1/office_1.h5"
    room.write_bytes(room.read_bytes()[:700])
    assert convert(source, tmp_path / "set") == whole


def test_a_number_of_workers_below_one_is_refused(source, tmp_path, capsys):
    words = [str(source), "--output", str(tmp_path / "set"), "--part", "--workers=-3"]
    assert script.main(words) == 1
    assert capsys.readouterr().err == "error: workers must be 1 or more, got -3\n"


def test_workers_write_the_same_set(source, tmp_path):
    assert convert(source, tmp_path / "two", workers=2) == convert(source, tmp_path / "one")


@pytest.mark.parametrize("limit", [200, 2_000, 4_000])
def test_a_disk_that_fills_leaves_no_set(source, tmp_path, limit):
    """Promise: the system's own refusal to write ends in a message, and nothing seems whole."""
    with full_disk(limit), pytest.raises(OSError, match="office_1.h5 could not.*Make room on"):
        convert(source, tmp_path / "set")
    assert not [f for f in (tmp_path / "set").rglob("*") if f.is_file()]
    with pytest.raises(FileNotFoundError, match="not whole"):
        load_scenes("s3dis", "test", tmp_path / "set")
    assert len(convert(source, tmp_path / "set")["scenes"]) == 2


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: write_text(s / "Area_1/office_2/office_2.txt"), FileNotFoundError,
         "office_2/Annotations"),
        (lambda s: write_text((s / HALLWAY).with_name("wall_1 (copy).txt")), ValueError,
         r"wall_1 \(copy\).txt and wall_1.txt are one object, wall_1.* take the duplicate out"),
        (lambda s: (s / "Area_1").rename(s / "Area1"), None, ""),
        (lambda s: (s / HALLWAY).rename(s / HALLWAY.replace("ceiling", "roof")), ValueError,
         "roof_1.txt: class 'roof'"),
        (lambda s: (s / HALLWAY).write_text("4000 2 3 4 5 6\n"), ValueError, "metres, got 4000"),
    ],
    ids=["room without annotations", "duplicate", "other folders", "unknown class", "millimetres"],
)  # fmt: skip
def test_a_wrong_folder_is_refused(source, tmp_path, spoil, error, message):
    spoil(source)
    if error is None:
        assert [name[:6] for name in convert(source, tmp_path / "set")["scenes"]] == ["Area_5"]
        return
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "set")


def test_an_empty_folder_is_no_room_and_said_to_be_left_out(source, tmp_path, capsys):
    whole = convert(source, tmp_path / "whole")
    (source / "Area_1/stray/Annotations").mkdir(parents=True)
    assert convert(source, tmp_path / "set") == whole
    assert "Area_1/stray: an empty folder, left out" in capsys.readouterr().err


def test_no_rooms_at_all_says_what_folder_is_meant(tmp_path):
    with pytest.raises(FileNotFoundError, match="Stanford3dDataset_v1.2_Aligned_Version"):
        convert(tmp_path, tmp_path / "set")


def test_a_part_is_not_taken_for_the_official_set(source, tmp_path):
    """Promise: 272 rooms in six areas, before any text is read."""
    assert sum(script.ROOMS.values()) == 272
    with pytest.raises(ValueError, match="expected 272 rooms"):
        script.convert(source, tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_the_official_counts_with_other_points_are_refused(tmp_path, monkeypatch):
    """Promise: the number of points and the classes' shares are held against the record."""
    source = make_s3dis(tmp_path / "official", {"Area_1": ("office_1",)})
    monkeypatch.setattr(script, "ROOMS", {"Area_1": 1})
    with pytest.raises(ValueError, match="273 million"):
        script.convert(source, tmp_path / "set", progress=False)
    monkeypatch.setattr(script, "POINTS", (100, 110))
    with pytest.raises(ValueError, match=r"more than 3 times off: floor 0 \(published 0\.154"):
        script.convert(source, tmp_path / "set", progress=False)
    assert not (tmp_path / "set/manifest.json").exists()


def test_val_is_a_tenth_of_each_area_and_test_is_area_5():
    rooms = [f"{area}/r_{n}" for area, count in script.ROOMS.items() for n in range(count)]
    splits = split_scenes(scene_card("s3dis"), rooms)
    assert sum(where == "test" for where in splits.values()) == 68
    held = {area: sum(splits[room] == "val" for room in rooms if room.startswith(area))
            for area in script.ROOMS}  # fmt: skip
    assert held == {"Area_1": 4, "Area_2": 4, "Area_3": 2, "Area_4": 5, "Area_5": 0, "Area_6": 5}
    assert split_scenes(scene_card("s3dis"), rooms[::-1]) == splits
    assert split_scenes(scene_card("s3dis"), ["Area_1/a"]) == {"Area_1/a": "train"}


def test_a_damaged_room_is_named_when_it_is_read(source, tmp_path):
    convert(source, tmp_path / "set")
    scenes = load_scenes("s3dis", "test", tmp_path / "set")
    room = tmp_path / "set/Area_5/hallway_6.h5"
    with h5py.File(room, "a") as file:
        file["labels"][0] = 13
    with pytest.raises(ValueError, match="hallway_6.h5: labels"):
        scenes[0]
    room.write_bytes(b"short")
    with pytest.raises(ValueError, match="hallway_6.h5 is not a whole HDF5 file.*convert S3DIS"):
        scenes[0]
    room.unlink()
    with pytest.raises(FileNotFoundError, match="hallway_6.h5 is missing"):
        scenes[0]


def test_manifest_lists_every_file_and_point(source, tmp_path):
    convert(source, tmp_path / "set")
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert set(manifest["files"]) == {"Area_1/office_1.h5", "Area_5/hallway_6.h5"}
    assert manifest["scenes"] == {"Area_1/office_1": 105, "Area_5/hallway_6": 105}
    assert sum(manifest["class_points"]) == 210 and manifest["class_points"][-1] == 10
