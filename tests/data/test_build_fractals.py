"""The database of fractal images: what is in the file, and that bad settings leave none."""

import fractals
import h5py
import numpy as np
import pytest
from PIL import Image

TINY = ["--categories", "2", "--each", "4", "--held-out", "2", "--size", "24", "--seed", "1"]


@pytest.fixture(scope="module")
def script(data_script):
    return data_script("build_fractals")


@pytest.fixture(scope="module")
def built(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fractals")
    assert script.main([*TINY, "--output", str(folder)]) == 0
    return folder


def test_the_file_holds_the_instances_of_its_categories(built):
    """Promise: both splits, by category, pixel for pixel, with the maps that made them."""
    categories = fractals.find_categories(2, seed=1)
    with h5py.File(built / "fractals.h5") as file:
        assert dict(file.attrs) == {"seed": 1, "size": 24, "least_fill_rate": 0.2}
        for label, category in enumerate(categories):
            stored = file[f"categories/{label:05d}"]
            assert np.array_equal(stored, category.maps)
            assert stored.attrs["fill_rate"] == category.fill_rate
        for split, each in (("train", 4), ("held_out", 2)):
            images, labels = file[f"{split}/images"][:], file[f"{split}/labels"][:]
            assert labels.tolist() == [0] * each + [1] * each
            for place, image in enumerate(images):
                wanted = (categories, labels[place], place % each, 24, 1, split)
                assert np.array_equal(image, fractals.fractal_image(*wanted))


def test_the_contact_sheet_shows_them(built):
    """Promise: a picture of both categories, mostly neither all black nor all white."""
    sheet = np.asarray(Image.open(built / "contact_sheet.png").convert("L"))
    assert sheet.shape[1] > 900 and len(np.unique(sheet)) > 10
    assert 0.1 < (sheet < 30).mean() < 0.9


@pytest.mark.parametrize("change, message", [
    (["--size", "8"], "16 pixels or more, got 8"), (["--each", "0"], "one instance or more"),
    (["--fill-rate", "0.9"], "between 0 and 0.38"), (["--categories", "0"], "count of 1 or more"),
])  # fmt: skip
def test_bad_settings_write_nothing(script, tmp_path, capsys, change, message):
    """Promise: exit status 1, one line that says what to change, and no half file."""
    assert script.main([*TINY, *change, "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
