"""Pictures: those that come with the dependencies, and a folder of the reader's."""

import struct

import numpy as np
import pytest
from PIL import Image

from i2p_lib.data.pictures import LARGEST, pictures


@pytest.fixture
def folder(tmp_path):
    """Nine files of two classes, whose grey says their number."""
    for number in range(9):
        path = tmp_path / ("cats" if number < 3 else "dogs") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (40, 30), number).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cats" / "._0.png").write_text("what macOS writes beside it")
    return tmp_path


def test_the_pictures_that_come_along_are_named_and_cut_alike_every_time():
    """Promise: without a folder there are photographs, five views each, and twenty fractals."""
    ours = pictures()
    photographs = len(ours.label_names) - 20
    assert {"china", "flower", "grace_hopper", "fractal 19"} <= set(ours.label_names)
    assert np.bincount(ours.owner).tolist() == [5] * photographs + [1] * 20
    assert all(v.dtype == np.uint8 and v.ndim == 3 and v.shape[2] == 3 for v in ours.views)
    assert f"{5 * photographs + 20} views of {photographs + 20} pictures" in ours.describe()
    assert f"the {photographs} photographs" in ours.describe()
    assert all(0.02 < (v > 0).mean() < 0.98 for v in ours.views[-20:])
    assert "CC BY 2.0" in ours.describe()
    again = pictures()
    assert all((a == b).all() for a, b in zip(ours.views, again.views, strict=True))
    whole, *corners = ours.views[:5]
    assert (corners[0] == whole[: len(corners[0]), : len(corners[0])]).all()
    assert {c.shape[0] for c in corners} == {min(whole.shape[:2]) // 2}


def test_a_folder_gives_its_sub_folders_as_classes_and_an_even_choice(folder):
    every = pictures(folder)
    assert [int(view[0, 0, 0]) for view in every.views] == list(range(9))
    assert [every.label_names[k] for k in every.labels] == ["cats"] * 3 + ["dogs"] * 6
    assert every.owner.tolist() == list(range(9))
    few = pictures(folder, most=3)
    assert [int(view[0, 0, 0]) for view in few.views] == [0, 3, 6]
    assert "3 of the 9 files" in few.describe() and str(folder.parent) not in few.describe()


def test_a_large_photograph_is_scaled_down_by_a_whole_number(tmp_path):
    Image.new("RGB", (3 * LARGEST + 60, 2 * LARGEST + 10)).save(tmp_path / "large.jpg")
    assert pictures(tmp_path).views[0].shape == (LARGEST + 5, (3 * LARGEST + 60) // 2, 3)


def test_a_folder_without_photographs_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none: give another folder as `images`"):
        pictures(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.jpg cannot be read as a picture"):
        pictures(tmp_path)


def test_a_picture_that_would_not_fit_is_refused_by_what_its_header_says(tmp_path):
    """Promise: file and reason, before memory is taken."""
    Image.new("RGB", (4, 4)).save(tmp_path / "wide.bmp")
    data = bytearray((tmp_path / "wide.bmp").read_bytes())
    data[18:26] = struct.pack("<ii", 30_000, 30_000)
    (tmp_path / "wide.bmp").write_bytes(data)
    with pytest.raises(ValueError, match="wide.bmp cannot be read .*900000000 pixels"):
        pictures(tmp_path)
