"""Photographs: those that come with the dependencies, and a folder of the reader's."""

import numpy as np
import pytest
from PIL import Image

from i2p_lib.data.photographs import LARGEST, photographs


@pytest.fixture
def folder(tmp_path):
    """Nine files of two classes, whose grey says their number."""
    for number in range(9):
        path = tmp_path / ("cats" if number < 3 else "dogs") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (40, 30), number).save(path)
    (tmp_path / "notes.txt").write_text("no photograph")
    return tmp_path


def test_the_shipped_photographs_are_named_and_cut_alike_every_time():
    """Promise: without a folder there are photographs, the same ones, five views of each."""
    ours = photographs()
    assert {"china", "flower", "grace_hopper"} <= set(ours.label_names)
    assert len(ours) == 5 * len(ours.label_names)
    assert all(v.dtype == np.uint8 and v.ndim == 3 and v.shape[2] == 3 for v in ours.views)
    assert f"{len(ours)} views of {len(ours.label_names)} photographs" in ours.describe()
    assert "CC BY 2.0" in ours.describe()
    again = photographs()
    assert all((a == b).all() for a, b in zip(ours.views, again.views, strict=True))
    whole, *corners = ours.views[:5]
    assert (corners[0] == whole[: len(corners[0]), : len(corners[0])]).all()
    assert {c.shape[0] for c in corners} == {min(whole.shape[:2]) // 2}


def test_a_folder_gives_its_sub_folders_as_classes_and_an_even_choice(folder):
    every = photographs(folder)
    assert [int(view[0, 0, 0]) for view in every.views] == list(range(9))
    assert [every.label_names[k] for k in every.labels] == ["cats"] * 3 + ["dogs"] * 6
    assert every.owner.tolist() == list(range(9))
    few = photographs(folder, most=3)
    assert [int(view[0, 0, 0]) for view in few.views] == [0, 3, 6]
    assert "3 of the 9 files" in few.describe() and str(folder.parent) not in few.describe()


def test_a_large_photograph_is_scaled_down_by_a_whole_number(tmp_path):
    Image.new("RGB", (3 * LARGEST + 60, 2 * LARGEST + 10)).save(tmp_path / "large.jpg")
    assert photographs(tmp_path).views[0].shape == (LARGEST + 5, (3 * LARGEST + 60) // 2, 3)


def test_a_folder_without_photographs_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none: give another folder as `images`"):
        photographs(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.jpg cannot be read as a photograph"):
        photographs(tmp_path)
