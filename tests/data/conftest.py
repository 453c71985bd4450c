"""Fixtures of the data tests: a tiny data set in ModelNet40's layout, and the build scripts."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data_script() -> Callable[[str], ModuleType]:
    """Return the import of a script of data_scripts by its name."""
    return importlib.import_module


@pytest.fixture
def tiny_modelnet(tmp_path: Path) -> Path:
    """Return a folder with 3 classes: two train files of 30 clouds, a test file of 6; no val."""
    generator = np.random.default_rng(0)
    for number, (stem, count) in enumerate([("train0", 30), ("train1", 30), ("test0", 6)]):
        points = generator.standard_normal((count, 16, 3)).astype(np.float32)
        points[:, 0, 0] = number  # tells the files apart
        labels = (np.arange(count) % 3).astype(np.uint8)[:, None]
        with h5py.File(tmp_path / f"ply_data_{stem}.h5", "w") as file:
            file["data"], file["label"] = points, labels
    listed = "data/modelnet40_ply_hdf5_2048/ply_data_train{}.h5\n"
    (tmp_path / "train_files.txt").write_text(listed.format(1) + listed.format(0))
    (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    return tmp_path
