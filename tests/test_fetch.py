"""Fetching weights: whole and checked, or not there; an interrupted download goes on."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from file_server import FileServer
from filelock import FileLock
from get_weights import fetch_card, main

from i2p_lib.weights import (
    WeightCard,
    fetch_weights,
    files,
    verified,
    weight_card,
    weight_cards,
)

CONTENT = random.Random(0).randbytes(3_000_000)
HALF = 1_500_000


@pytest.fixture
def server():
    running = FileServer(CONTENT)
    yield running
    running.stop()


def card_of(server: FileServer, **changes) -> WeightCard:
    facts = {
        "model": "resnet18", "weights": "made", "pretraining": "none", "source": "this test",
        "licence": "none", "file_name": "weights.pth", "size": len(CONTENT), "url": server.url,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }  # fmt: skip
    return WeightCard(**(facts | changes))


def fetch(card: WeightCard, folder: Path) -> Path:
    return fetch_card(card, folder, progress=False)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith((".lock", ".sha256"))}


def test_a_fetched_file_is_whole_and_alone(server, tmp_path):
    """Promise: the file has its name and every byte; nothing else stays; no second download."""
    path = fetch(card_of(server), tmp_path)
    assert path == tmp_path / "weights.pth" and path.read_bytes() == CONTENT
    assert names(tmp_path) == {"weights.pth"}
    fetch(card_of(server), tmp_path)
    assert len(server.asked) == 1


def test_a_file_without_a_whole_published_hash_stays_what_its_first_download_was(tmp_path):
    """Promise: its hash is kept beside it, it is called unverified, and another one is refused."""
    first, other = FileServer(CONTENT), FileServer(CONTENT[::-1])
    card = card_of(first, sha256="")
    path = fetch(card, tmp_path)
    assert "SHA-256: not published (unverified)" in card.text("present")
    assert "unverified" not in card_of(first).text("present")
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match="expected the SHA-256 that .*sha256 keeps"):
        verified(card, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="sent something else .* nothing is kept: .*sha256 keeps"):
        fetch(card_of(other, sha256=""), tmp_path)
    assert names(tmp_path) == set() and fetch(card, tmp_path).read_bytes() == CONTENT
    first.stop()
    other.stop()


@pytest.mark.parametrize(
    ("etag", "published"), [(True, True), (True, False), (False, True)],
    ids=["version and hash", "version alone", "hash alone"],
)  # fmt: skip
def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path, etag, published):
    """Promise: after the server died in the middle, only the rest is fetched, and it is right."""
    first = FileServer(CONTENT, etag=etag)
    card = card_of(first) if published else card_of(first, sha256="", size=0)
    first.break_after = HALF
    with pytest.raises(ConnectionError, match="bytes are kept.*goes on from there"):
        fetch(card, tmp_path)
    first.stop()
    kept = (tmp_path / ".weights.pth.part").stat().st_size
    assert 0 < kept <= HALF and "weights.pth" not in names(tmp_path)
    with pytest.raises(ConnectionError, match="elsewhere and place it as .*/weights.pth"):
        fetch(card, tmp_path)  # no server at all now
    second = FileServer(CONTENT, port=first.port, etag=etag)
    assert fetch(card, tmp_path).read_bytes() == CONTENT
    assert second.asked == [f"bytes={kept}-"]
    assert names(tmp_path) == {"weights.pth"}
    second.stop()


def test_a_part_of_another_version_is_never_gone_on_with(tmp_path):
    """Promise: without a published hash, a file that changed meanwhile is fetched anew."""
    server = FileServer(CONTENT)
    card = card_of(server, sha256="", size=0)
    server.break_after = HALF
    with pytest.raises(ConnectionError):
        fetch(card, tmp_path)
    server.content = CONTENT[::-1]
    assert fetch(card, tmp_path).read_bytes() == CONTENT[::-1]
    server.stop()


def test_without_version_and_hash_a_part_is_begun_anew(tmp_path):
    """Promise: where nothing could tell whether a rest belongs to the part, it is not joined."""
    server = FileServer(CONTENT, etag=False)
    card = card_of(server, sha256="", size=0)
    server.break_after = HALF
    with pytest.raises(ConnectionError):
        fetch(card, tmp_path)
    assert fetch(card, tmp_path).read_bytes() == CONTENT and server.asked == [None, None]
    server.stop()


def test_a_server_that_ignores_ranges_sends_the_whole_file(tmp_path):
    """Promise: an answer with the whole file replaces the part and is not appended to it."""
    server = FileServer(CONTENT, ranges=False)
    server.break_after = HALF
    with pytest.raises(ConnectionError):
        fetch(card_of(server), tmp_path)
    assert fetch(card_of(server), tmp_path).read_bytes() == CONTENT
    server.stop()


def test_a_part_that_is_complete_needs_no_byte_more(server, tmp_path):
    """Promise: stopped between the last byte and the check, it is checked and named."""
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT)
    assert fetch(card_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_begun_anew(server, tmp_path):
    """Promise: a part that cannot be right does not stand in the way."""
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT + b"more")
    assert fetch(card_of(server), tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_and_nothing_is_kept(server, tmp_path):
    """Promise: wrong bytes of the right length never get the name, nor stay as a part."""
    with pytest.raises(ValueError, match="sent something else .*expected SHA-256 0000"):
        fetch(card_of(server, sha256="0" * 64), tmp_path)
    assert names(tmp_path) == set()


def test_a_wrong_length_is_refused_before_it_comes(server, tmp_path):
    """Promise: the announced length is held against the published one first."""
    with pytest.raises(ValueError, match="offers 3000000 bytes; the published .* has 10"):
        fetch(card_of(server, size=10), tmp_path)
    assert names(tmp_path) == set()


def test_a_page_that_is_gone_is_named(server, tmp_path):
    """Promise: an answer that is no file (404) is an error with the address."""
    server.gone = True
    with pytest.raises(ConnectionError, match="404.*weights.pth"):
        fetch(card_of(server), tmp_path)
    assert names(tmp_path) == set()


def test_two_processes_do_not_fetch_the_same_file(server, tmp_path):
    """Promise: the second one says so at once and writes nothing."""
    with FileLock(tmp_path / ".weights.pth.lock"):
        with pytest.raises(RuntimeError, match="another process is fetching"):
            fetch(card_of(server), tmp_path)
    assert server.asked == [] and names(tmp_path) == set()


def test_a_damaged_file_that_is_here_is_reported_not_replaced(server, tmp_path):
    """Promise: nothing of the reader's is overwritten; the message says to remove it."""
    (tmp_path / "weights.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match="Remove it and get it again"):
        fetch(card_of(server), tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == b"mine" and server.asked == []


def test_a_file_without_an_address_says_what_to_do(server, tmp_path):
    """Promise: what a person must download, or bring, is said with the page and the folder."""
    by_hand = card_of(server, url="", page="https://example.org/folder")
    with pytest.raises(FileNotFoundError, match="by hand from https://example.org/folder, into"):
        fetch(by_hand, tmp_path)
    kept = card_of(server, url="", released=False, how_to_get="train your own")
    with pytest.raises(FileNotFoundError, match="never released.*train your own"):
        fetch(kept, tmp_path)


def test_the_file_may_be_read_by_others(server, tmp_path):
    """Promise: a shared weight folder works: the mode follows the umask."""
    mask = os.umask(0o022)
    try:
        assert fetch(card_of(server), tmp_path).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_the_library_and_the_script_bring_a_file_by_its_name(server, tmp_path, monkeypatch, capfd):
    """Promise: the library lets the script fetch a card's file, checks it, and passes on what the
    script says where that fails."""
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path))
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match="Remove it and get it again"):
        fetch_weights(weight_card("resnet18"))
    assert main(["resnet18"]) == 1 and "Remove it and get it again" in capfd.readouterr().err
    asked = []
    monkeypatch.setattr(files, "run_script", lambda *words: asked.append(words))
    with pytest.raises(FileNotFoundError, match="are not here: expected resnet50-"):
        fetch_weights(weight_card("resnet50"), tmp_path / "new")
    words = ["resnet50:imagenet1k", "--output", str(tmp_path / "new")]
    assert asked == [("data_scripts/get_weights.py", words)]
    with pytest.raises(FileNotFoundError, match="never released"):
        fetch_weights(next(card for card in weight_cards() if not card.released))
    assert len(asked) == 1
