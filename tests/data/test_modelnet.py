"""The reader of ModelNet40's layout reads it right and says what is wrong with a damaged folder."""

import json

import h5py
import numpy as np
import pytest

from i2p_lib.data import dataset_hash, registry
from i2p_lib.data.modelnet import held_out, load_folder
from i2p_lib.files import sha256


def damage(folder, points=None, labels=None):
    path = folder / "ply_data_train0.h5"
    with h5py.File(path) as file:
        points = file["data"][()] if points is None else points
        labels = file["label"][()] if labels is None else labels
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = points, labels


def test_files_are_read_in_sorted_order_whatever_the_listing_says(tiny_modelnet):
    whole = load_folder(tiny_modelnet, "modelnet40", "trainval")
    assert whole.points.shape == (60, 16, 3) and whole.points.dtype == np.float32
    assert whole.labels.shape == (60,) and whole.labels.dtype == np.int64
    assert whole.points[:, 0, 0].tolist() == [0] * 30 + [1] * 30
    assert whole.class_names == ("airplane", "bathtub", "bed")


def test_val_is_a_fixed_tenth_of_every_class_of_train(tiny_modelnet):
    train = load_folder(tiny_modelnet, "modelnet40", "train")
    val = load_folder(tiny_modelnet, "modelnet40", "val")
    whole = load_folder(tiny_modelnet, "modelnet40", "trainval")
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    both = np.concatenate([train.points, val.points]).reshape(60, -1)
    assert sorted(map(tuple, both)) == sorted(map(tuple, whole.points.reshape(60, -1)))
    assert held_out(np.arange(60) % 3).tolist() == [6, 20, 25, 29, 31, 42]


def test_a_split_is_read_once_and_cannot_be_written_to(tiny_modelnet):
    first = load_folder(tiny_modelnet, "modelnet40", "test")
    assert load_folder(tiny_modelnet, "modelnet40", "test") is first
    with pytest.raises(ValueError, match="read-only"):
        first.points[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0] = 0


def test_unknown_split_is_refused(tiny_modelnet):
    with pytest.raises(ValueError, match="train, val, test"):
        load_folder(tiny_modelnet, "modelnet40", "valid")


def test_truncated_file_is_named(tiny_modelnet):
    path = tiny_modelnet / "ply_data_train1.h5"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="ply_data_train1.h5 is not a whole HDF5 file .900 bytes"):
        load_folder(tiny_modelnet, "modelnet40", "train")


def test_a_page_saved_instead_of_the_data_is_named(tiny_modelnet):
    (tiny_modelnet / "ply_data_test0.h5").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="ply_data_test0.h5 is not a whole HDF5 file"):
        load_folder(tiny_modelnet, "modelnet40", "test")


def test_missing_key_is_named(tiny_modelnet):
    with h5py.File(tiny_modelnet / "ply_data_train0.h5", "a") as file:
        del file["label"]
    with pytest.raises(ValueError, match="ply_data_train0.h5 .*'label'.*with 'data' and"):
        load_folder(tiny_modelnet, "modelnet40", "train")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_coordinates_are_counted_and_located(tiny_modelnet, value):
    points = np.random.default_rng(1).random((30, 16, 3)).astype(np.float32)
    points[7, 3, 1] = value
    damage(tiny_modelnet, points)
    with pytest.raises(ValueError, match="ply_data_train0.h5.* 1 clouds hold NaN.* number 7"):
        load_folder(tiny_modelnet, "modelnet40", "train")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((30, 16, 4), np.float32), r"expected \[N, P, 3\] float32, got \[30, 16, 4\]"),
        (np.zeros((30, 48), np.float32), r"expected \[N, P, 3\] float32, got \[30, 48\]"),
        (np.zeros((30, 16, 3), np.float64), "float32, got .* float64"),
        (np.zeros((30, 0, 3), np.float32), "at least one point"),
        (np.zeros((30, 16, 3), np.float32), "30 clouds are empty"),
        (np.ones((30, 8, 3), np.float32) * np.arange(8)[:, None].astype(np.float32),
         "different sizes"),
    ],
)
def test_wrong_points_are_refused(tiny_modelnet, points, message):
    damage(tiny_modelnet, points)
    with pytest.raises(ValueError, match=message):
        load_folder(tiny_modelnet, "modelnet40", "train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((30, 1), 3, np.uint8), "expected 0 to 2 .*got 3 to 3"),
        (np.full((30, 1), -1, np.int64), "expected 0 to 2 .*got -1 to -1"),
        (np.zeros((29, 1), np.uint8), r"expected \[30, 1\]"),
        (np.zeros((30, 1), np.float32), "integer type, got .* float32"),
    ],
)
def test_wrong_labels_are_refused(tiny_modelnet, labels, message):
    damage(tiny_modelnet, labels=labels)
    with pytest.raises(ValueError, match=message):
        load_folder(tiny_modelnet, "modelnet40", "train")


def test_a_listed_file_that_is_gone_is_named(tiny_modelnet):
    (tiny_modelnet / "ply_data_train1.h5").unlink()
    with pytest.raises(FileNotFoundError, match="expected ply_data_train1.h5, found ply_data_tra"):
        load_folder(tiny_modelnet, "modelnet40", "train")


def test_missing_class_names_are_named(tiny_modelnet):
    (tiny_modelnet / "shape_names.txt").unlink()
    with pytest.raises(FileNotFoundError, match="shape_names.txt is missing"):
        load_folder(tiny_modelnet, "modelnet40", "train")


def test_a_manifest_is_checked_where_there_is_one(tiny_modelnet):
    path = tiny_modelnet / "ply_data_test0.h5"
    (tiny_modelnet / "manifest.json").write_text(json.dumps({"files": {path.name: sha256(path)}}))
    assert len(load_folder(tiny_modelnet, "modelnet40", "test")) == 6
    with h5py.File(path, "a") as file:
        file["data"][0, 0, 0] = 0.5
    with pytest.raises(ValueError, match="ply_data_test0.h5: expected SHA-256 .* got"):
        load_folder(tiny_modelnet, "modelnet40", "train")


def test_a_broken_manifest_is_named(tiny_modelnet):
    (tiny_modelnet / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="manifest.json: expected the keys"):
        load_folder(tiny_modelnet, "modelnet40", "test")


def test_the_hash_follows_the_contents_of_the_files(tiny_modelnet):
    def fresh(folder):
        registry._hash.cache_clear()
        return dataset_hash("modelnet40", folder)

    before = fresh(tiny_modelnet)
    assert fresh(tiny_modelnet.rename(tiny_modelnet.with_name("moved"))) == before
    moved = tiny_modelnet.with_name("moved")
    (moved / "train_files.txt").unlink()
    assert fresh(moved) == before
    with h5py.File(moved / "ply_data_test0.h5", "a") as file:
        file["data"][0, 0, 0] = 0.5
    assert fresh(moved) != before
