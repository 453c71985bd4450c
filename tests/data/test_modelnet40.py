"""ModelNet40: whole and right, or not there; an archive cannot write where it likes."""

import hashlib
import random
import stat
import zipfile
from pathlib import Path

import get_modelnet40 as modelnet40
import h5py
import numpy as np
import pytest
from file_server import FileServer
from get_modelnet40 import ARCHIVE, get_modelnet40, unpack
from scene_folders import full_disk, make_archive

from i2p_lib.data import load_dataset


@pytest.fixture
def archive(tmp_path) -> Path:
    return make_archive(tmp_path / "downloads.zip")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No weight folder of the reader's own is searched for the archive."""
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def get(root: Path, **more) -> Path:
    return get_modelnet40(root, progress=False, part=more.pop("part", True), **more)


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_an_archive_becomes_a_data_set_with_a_manifest(archive, tmp_path):
    """Promise: only the data set's files come, the loaders read them, and nothing else stays."""
    root = tmp_path / "sets/modelnet40"
    assert get(root, archive=archive) == root
    assert {p.name for p in root.iterdir()} == {
        "manifest.json", "ply_data_test0.h5", "ply_data_train0.h5", "shape_names.txt",
        "train_files.txt",
    }  # fmt: skip
    assert load_dataset("modelnet40", "test", root).points.shape == (6, 16, 3)
    assert left(root.parent) == {"modelnet40"} and archive.exists()
    assert get(root) == root  # the second call checks and leaves all as it is


def test_a_file_that_changed_is_found_by_the_manifest(archive, tmp_path):
    root = get(tmp_path / "set", archive=archive)
    (root / "shape_names.txt").write_text("airplane\nbed\n")
    with pytest.raises(ValueError, match="shape_names.txt: expected SHA-256"):
        get(root)


def test_the_archive_beside_the_folder_is_used(archive, tmp_path):
    archive.rename(tmp_path / ARCHIVE)
    assert (get(tmp_path / "set", mirrors=()) / "manifest.json").exists()


@pytest.mark.parametrize("etag", [True, False])
def test_mirrors_are_tried_in_turn_and_a_broken_download_goes_on(
    tmp_path, nowhere, etag
):
    """Promise: what came is kept, only the rest is fetched, and the archive goes when it is
    unpacked."""
    archive = make_archive(tmp_path / "a.zip", {"large": random.Random(0).randbytes(2_000_000)})
    gone, good = FileServer(b""), FileServer(archive.read_bytes(), etag=etag)
    gone.gone, good.break_after = True, 1_500_000
    try:
        with pytest.raises(ConnectionError, match="(?s)no mirror has.*404.*1048576 bytes are kept"):
            get(tmp_path / "set", mirrors=(gone.url, good.url))
        root = get(tmp_path / "set", mirrors=(gone.url, good.url))
    finally:
        gone.stop()
        good.stop()
    assert (root / "manifest.json").exists()
    assert good.asked[-1] == ("bytes=1048576-" if etag else None)
    assert left(tmp_path) == {"set", "a.zip"}


def test_without_any_mirror_the_message_says_where_to_place_the_file(tmp_path, nowhere):
    with pytest.raises(ConnectionError, match=f"MD5 c9ab8e.*place it as {tmp_path / ARCHIVE}"):
        get(tmp_path / "set", mirrors=())


def test_something_else_than_the_published_archive_is_not_kept(archive, tmp_path, nowhere):
    """Promise: a mirror that sends another file is passed over, and the MD5 is the gauge."""
    server = FileServer(archive.read_bytes())
    try:
        with pytest.raises(ConnectionError, match="expected MD5 c9ab8e6d"):
            get(tmp_path / "set", mirrors=(server.url,), part=False)
    finally:
        server.stop()
    assert not list(tmp_path.rglob(f"*{ARCHIVE}")) and not (tmp_path / "set").exists()
    with pytest.raises(ValueError, match="downloads.zip is not the published file"):
        get(tmp_path / "set", archive=archive, part=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../ply_data_train9.h5", "`..` in its name"),
        ("a/../../ply_data_train9.h5", "`..` in its name"),
        ("/tmp/ply_data_train9.h5", "an absolute name"),
        ("C:/ply_data_train9.h5", "an absolute name"),
        ("a\\..\\ply_data_train9.h5", "a backslash"),
        ("other/shape_names.txt", "the name of another member"),
        ("../not_wanted.txt", "`..` in its name"),
    ],
)
def test_an_archive_with_a_path_trick_is_refused_whole(tmp_path, name, message):
    archive = make_archive(tmp_path / "evil.zip", {name: b"x"})
    with pytest.raises(ValueError, match=f"evil.zip: member .* has {message}"):
        get(tmp_path / "sets/set", archive=archive)
    assert not left(tmp_path / "sets") and left(tmp_path) == {"evil.zip", "sets"}


def test_a_link_in_an_archive_is_refused(tmp_path):
    archive = make_archive(tmp_path / "evil.zip")
    link = zipfile.ZipInfo("ply_data_train9.h5")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="has a link"):
        unpack(archive, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused_by_what_it_declares_and_stopped_where_it_lies(tmp_path, monkeypatch):
    bomb = make_archive(tmp_path / "bomb.zip", {"ply_data_train1.h5": bytes(1_000_000)})
    monkeypatch.setattr(modelnet40, "_LARGEST", 900_000)
    with pytest.raises(ValueError, match="1000000 bytes, more than 900000"):
        unpack(bomb, tmp_path / "out", progress=False)
    monkeypatch.setattr(modelnet40, "_LARGEST", 2_000_000)
    monkeypatch.setattr(modelnet40, "_LARGEST_TOTAL", 900_000)
    with pytest.raises(ValueError, match="bytes in all, more than 900000"):
        unpack(bomb, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    content = bytearray(bomb.read_bytes())
    place = content.rindex(b"ply_data_train1.h5") - 46 + 24  # the size in the central directory
    assert int.from_bytes(content[place : place + 4], "little") == 1_000_000
    content[place : place + 4] = (10).to_bytes(4, "little")
    bomb.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        get(tmp_path / "set", archive=bomb)
    assert left(tmp_path) == {"bomb.zip"}


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_whole_archive_is_named(archive, tmp_path, content):
    archive.write_bytes(archive.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match="downloads.zip is damaged, cut short or no zip"):
        get(tmp_path / "sets/set", archive=archive)
    assert not left(tmp_path / "sets")


def test_a_disk_that_fills_leaves_nothing(archive, tmp_path):
    """Promise: the system's own refusal to write is said, and no folder stays."""
    with full_disk(1000), pytest.raises(OSError, match="ply_data_.*make room on the disk"):
        get(tmp_path / "sets/set", archive=archive)
    assert not left(tmp_path / "sets")


def test_the_published_counts_are_a_must(tmp_path, monkeypatch):
    """Promise: 9,840 and 2,468 clouds with ModelNet40's classes; one class off is found."""
    counts = np.array(list(modelnet40.CLASS_COUNTS.values()))
    assert counts.sum(axis=0).tolist() == [9_843, 2_468] and len(counts) == 40
    names, train = tuple(modelnet40.CLASS_COUNTS), counts[:, 0].copy()
    train[[0, 5]] -= 1
    with pytest.raises(ValueError, match="got 9,841"):
        modelnet40._check_counts(tmp_path, names, train, counts[:, 1])
    train[5] -= 1
    modelnet40._check_counts(tmp_path, names, train, counts[:, 1])
    with pytest.raises(ValueError, match="2,468 test clouds"):
        modelnet40._check_counts(tmp_path, names, train, np.roll(counts[:, 1], 1))
    with pytest.raises(ValueError, match="40 class names"):
        modelnet40._check_counts(tmp_path, names[::-1], train, counts[:, 1])


def test_files_placed_by_hand_are_held_against_their_published_hashes(archive, tmp_path):
    root = get(tmp_path / "set", archive=archive)
    (root / "manifest.json").unlink()
    with pytest.raises(ValueError, match="ply_data_train0.h5 is not the published file"):
        get(root, part=False)
    assert not (root / "manifest.json").exists()
    digest = hashlib.sha256((root / "ply_data_test0.h5").read_bytes()).hexdigest()
    get(root)
    assert digest in (root / "manifest.json").read_text()


def test_clouds_outside_the_unit_sphere_are_refused(archive, tmp_path, monkeypatch):
    root = get(tmp_path / "set", archive=archive)
    (root / "manifest.json").unlink()
    with h5py.File(root / "ply_data_train0.h5", "a") as file:
        file["data"][0, 0] = 5
    monkeypatch.setattr(modelnet40, "FILE_MD5", {})
    with pytest.raises(ValueError, match="unit sphere, got radius"):
        get(root, part=False)
