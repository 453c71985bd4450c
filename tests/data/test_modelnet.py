"""The reader of ModelNet40's layout reads it right and says what is wrong with a damaged folder."""

import json

import h5py
import numpy as np
import pytest

from i2p_lib.data import dataset_hash, registry
from i2p_lib.data.modelnet import held_out, load_folder, read_class_names
from i2p_lib.files import note, sha256


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
        (np.zeros((30, 16, 2), np.float32), r"\[N, P, 3 or more\] float32, got \[30, 16, 2\]"),
        (np.zeros((30, 48), np.float32), r"\[N, P, 3 or more\] float32, got \[30, 48\]"),
        (np.zeros((30, 16, 3), np.int64), "float32, got .* int64"),
        (np.full((30, 16, 3), 1e300), "30 clouds hold NaN or infinite"),
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


def test_names_and_listings_of_other_systems_are_read(tiny_modelnet, capsys):
    """Promise: one name a line, with blanks and a byte order mark; both separators; the list
    decides which files are read, and the hash rests on those alone."""
    text = "\ufeffnight stand\r\nbed\r\n\r\ncar\n"
    (tiny_modelnet / "shape_names.txt").write_bytes(text.encode())
    assert read_class_names(tiny_modelnet) == ("night stand", "bed", "car")
    text = "\ufeffdata\\my set\\ply_data_train0.h5\r\n"
    (tiny_modelnet / "train_files.txt").write_bytes(text.encode())
    before = dataset_hash("modelnet40", tiny_modelnet)
    assert len(load_folder(tiny_modelnet, "modelnet40", "trainval")) == 30
    assert "train_files.txt does not name ply_data_train1.h5: left out" in capsys.readouterr().err
    (tiny_modelnet / "ply_data_train1.h5").unlink()
    registry._hash.cache_clear()
    assert dataset_hash("modelnet40", tiny_modelnet) == before
    (tiny_modelnet / "shape_names.txt").write_text("chair", encoding="utf-16")
    with pytest.raises(ValueError, match="shape_names.txt: expected a text in UTF-8"):
        read_class_names(tiny_modelnet)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_other_floats_are_read_as_float32_and_it_is_said_once(tiny_modelnet, kind, capsys):
    note.cache_clear()
    points = np.random.default_rng(1).random((30, 16, 3)).astype(kind)
    damage(tiny_modelnet, points)
    found = load_folder(tiny_modelnet, "modelnet40", "trainval").points
    assert found.dtype == np.float32 and (found[:30] == points.astype(np.float32)).all()
    load_folder(tiny_modelnet, "modelnet40", "train")
    assert capsys.readouterr().err.count("read as float32") == 1


def test_the_only_cloud_of_a_class_is_trained_on(tiny_modelnet, capsys):
    (tiny_modelnet / "train_files.txt").write_text("ply_data_train0.h5")
    labels = np.ones(30, np.uint8)
    labels[4] = 0
    damage(tiny_modelnet, labels=labels)
    assert np.bincount(load_folder(tiny_modelnet, "modelnet40", "train").labels).tolist() == [1, 26]
    assert load_folder(tiny_modelnet, "modelnet40", "val").labels.tolist() == [1, 1, 1]
    assert "so that val has none: airplane" in capsys.readouterr().err


def a_group(file):
    file.create_group("data")


def a_link(file):
    file["data"] = h5py.ExternalLink("ply_data_test0.h5", "data")


def a_link_in_disguise(file):
    file["elsewhere"] = h5py.ExternalLink("ply_data_test0.h5", "/")
    file["data"] = h5py.SoftLink("/elsewhere/data")


def huge(file):
    file.create_dataset("data", (2**31, 1000, 3), "f4", chunks=(1, 1000, 3))


def texts(file):
    file["data"] = ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(a_group, "got a group"), (a_link, "got a link to ply_data_test0.h5"),
     (a_link_in_disguise, "in another file"), (huge, "would take 24,000.0 GiB of memory"),
     (texts, "expected numbers, got .2,. object")],
)  # fmt: skip
def test_what_is_no_array_of_the_file_is_refused_before_memory_is_taken(
    tiny_modelnet, change, message
):
    with h5py.File(tiny_modelnet / "ply_data_train0.h5", "a") as file:
        del file["data"]
        change(file)
    with pytest.raises(ValueError, match=f"ply_data_train0.h5: 'data'.* {message}"):
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
