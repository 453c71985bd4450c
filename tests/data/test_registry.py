"""Data sets are found by name, and a missing one says where to put it."""

import h5py
import numpy as np
import pytest

from i2p_lib.data import (
    dataset_card,
    dataset_hash,
    dataset_names,
    load_dataset,
    registry,
)
from i2p_lib.data.registry import DatasetCard


def test_the_names_are_those_of_the_interface():
    assert {"home_objects", "kicad_parts", "modelnet40"} <= set(dataset_names())


def test_a_card_is_a_file_and_one_with_an_unknown_field_is_refused(tmp_path, monkeypatch):
    """Promise: a new point set is one file in `cards`, named as the set."""
    registry.cards.cache_clear()
    (tmp_path / "parts.yml").write_text((DatasetCard.CARDS / "kicad_parts.yml").read_text())
    monkeypatch.setattr(DatasetCard, "CARDS", tmp_path)
    assert dataset_names() == ("parts",) and dataset_card("parts").classes == 42
    registry.cards.cache_clear()
    (tmp_path / "parts.yml").write_text("titel: wrong")
    with pytest.raises(ValueError, match="parts.yml is no card: (.|\n)*titel"):
        dataset_names()
    registry.cards.cache_clear()


def test_unknown_names_are_refused_with_the_known_ones():
    for call in (dataset_card, dataset_hash, lambda name: load_dataset(name, "train")):
        known = ", ".join(dataset_names())
        with pytest.raises(ValueError, match=f"{known}, or the name .* got 'modelnet10'"):
            call("modelnet10")


def test_files_with_other_columns_than_the_card_says_are_refused(tiny_modelnet):
    for file in tiny_modelnet.glob("*.h5"):
        with h5py.File(file, "r+") as stored:
            points = stored["data"][()]
            del stored["data"]
            stored["data"] = np.concatenate([points, points[..., :1]], axis=2)
    with pytest.raises(ValueError, match=r"expected \[N, P, 3\] \(x, y, z\), got 4 columns"):
        load_dataset("modelnet40", "test", root=tiny_modelnet)


def test_the_card_of_home_objects_tells_the_truth():
    card = dataset_card("home_objects")
    for split, count in card.splits.items():
        cloud_set = load_dataset("home_objects", split)
        assert cloud_set.points.shape == (count, card.points, 3)
        assert len(cloud_set.class_names) == card.classes
    size = sum(path.stat().st_size for path in dataset_card("home_objects").root().iterdir())
    assert size / 1e6 == pytest.approx(card.size_mb, abs=0.1)


def test_missing_modelnet40_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    where = str(tmp_path / "modelnet40_ply_hdf5_2048")
    for call in (dataset_hash, lambda name: load_dataset(name, "train")):
        with pytest.raises(FileNotFoundError) as caught:
            call("modelnet40")
        assert where in str(caught.value) and "ply_data_train0.h5" in str(caught.value)


def test_modelnet40_is_found_by_environment_and_by_argument(tiny_modelnet, monkeypatch):
    by_argument = load_dataset("modelnet40", "test", root=tiny_modelnet)
    moved = tiny_modelnet.rename(tiny_modelnet.with_name("modelnet40_ply_hdf5_2048"))
    monkeypatch.setenv("I2P_DATA", str(moved.parent))
    by_environment = load_dataset("modelnet40", "test")
    assert by_environment.name == "modelnet40"
    assert np.array_equal(by_argument.points, by_environment.points)
    assert len(dataset_hash("modelnet40")) == 64
