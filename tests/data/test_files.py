"""Results are written whole or not at all."""

import hashlib

import pytest

from i2p_lib.files import atomic_write, sha256


def test_atomic_write_makes_the_folder_and_leaves_only_the_result(tmp_path):
    path = tmp_path / "new" / "result.json"
    with atomic_write(path) as temp:
        assert temp.suffix == ".json" and temp.parent == path.parent
        temp.write_text("{}")
        assert not path.exists()
    assert path.read_text() == "{}"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_write_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with atomic_write(path) as temp:
            temp.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_as_readable_as_any_file_of_the_process(tmp_path):
    """Promise: processes of other users see a shared store, whatever the writer does."""
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "result") as temp:
        temp.chmod(0o600)
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"points")
    assert sha256(path) == hashlib.sha256(b"points").hexdigest()
