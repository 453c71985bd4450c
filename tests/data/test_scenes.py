"""Scenes: one way in for real and simulated sets, and a hash that costs little the second time."""

import os
from pathlib import Path

import build_s3dis
import numpy as np
import pytest
from scene_folders import make_s3dis

from i2p_lib import files
from i2p_lib.data import making, manifests, registry, scenes
from i2p_lib.data.get import get_data
from i2p_lib.data.scenes import (
    Scene,
    SceneCard,
    load_scenes,
    prepare_scenes,
    scene_card,
    scene_hash,
    scene_names,
)


def convert(source: Path, output: Path) -> Path:
    build_s3dis.convert(source, output, part=True, progress=False)
    return output


@pytest.fixture
def root(tmp_path) -> Path:
    return convert(make_s3dis(tmp_path / "official"), tmp_path / "set")


def good(**changes) -> dict:
    arrays = {"points": np.zeros((4, 3), np.float32), "features": np.ones((4, 1), np.float32),
              "labels": np.array([0, 1, -1, 2])}  # fmt: skip
    return {"name": "one"} | arrays | changes


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": np.zeros((4, 2), np.float32)},
        {"points": np.zeros((4, 3))},
        {"points": np.full((4, 3), np.nan, np.float32)},
        {"points": np.zeros((0, 3), np.float32), "features": np.ones((0, 1), np.float32),
         "labels": np.zeros(0, np.int64)},
        {"features": np.ones((3, 1), np.float32)},
        {"features": np.full((4, 1), 255, np.float32)},
        {"features": np.full((4, 1), np.nan, np.float32)},
        {"labels": np.zeros(4, np.int32)},
        {"labels": np.array([0, 1, -2, 2])},
    ],
)  # fmt: skip
def test_a_scene_that_is_none_is_refused(wrong):
    assert len(Scene(**good())) == 4
    with pytest.raises(ValueError, match="^one: "):
        Scene(**good(**wrong))


def test_the_cards_say_all_a_reader_needs():
    for name in scene_names():
        card = scene_card(name)
        assert card.name == name and set(card.splits) == {"train", "val", "test"}
        assert card.how_to_get and card.licence and card.source
        assert card.simulated == name.startswith("simulated") == ("imulated" in card.title)
        widths = {"s3dis": (13, 3), "semantic_kitti": (19, 1)}
        shape = len(card.class_names), len(card.feature_names)
        assert shape == widths.get(card.layout, shape)
    with pytest.raises(ValueError, match="expected one of s3dis"):
        scene_card("s3di")


def test_unknown_splits_and_absent_sets_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="expected one of train, val, test, trainval"):
        load_scenes("s3dis", "valid", tmp_path)
    for call in (lambda n: load_scenes(n, "train", tmp_path), lambda n: scene_hash(n, tmp_path)):
        with pytest.raises(FileNotFoundError, match="To get it: ask for Stanford3d"):
            call("s3dis")


def test_splits_share_no_scene_and_lose_none(root):
    parts = {split: load_scenes("s3dis", split, root).names for split in scenes.SPLITS}
    assert len(parts["train"]) == 10 and len(parts["val"]) == 5 and len(parts["test"]) == 3
    assert sorted(parts["train"] + parts["val"]) == sorted(parts["trainval"])
    assert not set(parts["trainval"]) & set(parts["test"])


def test_the_hash_is_of_the_content_alone(root, tmp_path):
    """Promise: a copy made elsewhere has the same hash, other content another, a hidden change
    is an error."""
    first = scene_hash("s3dis", root)
    other = convert(tmp_path / "official", tmp_path / "elsewhere")
    assert scene_hash("s3dis", other) == first
    text = tmp_path / "official/Area_1/office_1/Annotations/wall_1.txt"
    text.write_text(text.read_text() + "1 2 3 4 5 6\n")
    convert(tmp_path / "official", other)
    assert scene_hash("s3dis", other) != first
    room = root / "Area_1/office_1.h5"
    room.write_bytes(room.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="office_1.h5: expected SHA-256"):
        scene_hash("s3dis", root)
    room.unlink()
    with pytest.raises(FileNotFoundError, match="office_1.h5 is missing, but .*manifest.json"):
        scene_hash("s3dis", root)


def test_a_second_hash_reads_no_file(root, monkeypatch):
    """Promise: only files that were written since their last check are read, unless anew."""
    read = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or real(path))
    monkeypatch.setattr(files, "SETTLED", -1)
    first = scene_hash("s3dis", root)
    assert len(read) == 18 and scene_hash("s3dis", root) == first and len(read) == 18
    os.utime(root / "Area_2/office_1.h5", (1, 1))
    assert scene_hash("s3dis", root) == first and read[18:] == ["office_1.h5"]
    monkeypatch.setattr(files, "_NOTED", {})  # as in another process
    assert scene_hash("s3dis", root) == first and len(read) == 19
    (root / ".verified.json").unlink()
    monkeypatch.setattr(files, "_NOTED", {})
    assert scene_hash("s3dis", root) == first and len(read) == 37
    manifests.audit(root)
    assert len(read) == 55


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("{}", "expected the keys"), ('{"layout": 1}', "expected the keys")],
)
def test_a_damaged_manifest_is_named(root, text, message):
    (root / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=f"manifest.json.*{message}"):
        load_scenes("s3dis", "train", root)


def test_a_set_of_another_layout_is_refused(root):
    with pytest.raises(ValueError, match="expected the layout semantic_kitti, got s3dis"):
        load_scenes("semantic_kitti", "train", root)


# --- simulated sets ---------------------------------------------------------------------------

STAND_IN = """
import sys
from pathlib import Path
sys.path[:0] = {paths}
import scene_folders, {build} as build
output = Path(sys.argv[-1])
official = output / "official" if "{build}" == "build_s3dis" else output
if not official.exists():
    scene_folders.{make}(official)
build.convert(official, output, part=True)
"""


@pytest.fixture(params=["simulated_rooms", "simulated_streets"])
def simulated(request, monkeypatch, tmp_path, project_root):
    """Return the name of a set whose script is a small stand-in: what the true ones write is
    tested with them, here it is what becomes of it."""
    name, kind = request.param, request.param.removeprefix("simulated_")
    parts = {"rooms": ("build_s3dis", "make_s3dis"),
             "streets": ("build_semantic_kitti", "make_kitti")}[kind]  # fmt: skip
    paths = [str(project_root / folder) for folder in (".", "data_scripts", "tests/data")]
    script = tmp_path / "project" / "data_scripts" / f"simulate_{kind}.py"
    script.parent.mkdir(parents=True)
    script.write_text(STAND_IN.format(paths=paths, build=parts[0], make=parts[1]))
    monkeypatch.setattr(making, "project_root", lambda: tmp_path / "project")
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "data"))
    return name


def test_a_simulated_set_is_made_and_read_like_a_real_one(simulated):
    with pytest.raises(FileNotFoundError, match=f"i2p data get {simulated}"):
        load_scenes(simulated, "train")
    folder = prepare_scenes(simulated, progress=False)
    assert folder == scene_card(simulated).root()
    card = scene_card(simulated)
    for split in ("train", "val", "test"):
        scene = load_scenes(simulated, split)[0]
        assert scene.features.shape[1] == len(card.feature_names)
        assert scene.labels.max() < len(card.class_names)
    first = scene_hash(simulated)
    folder.rename(folder.parent / "moved")
    assert scene_hash(simulated, folder.parent / "moved") == first


def test_a_run_rests_on_the_content_of_a_set_and_not_on_its_script(simulated, tmp_path):
    """Promise: a changed script that makes the same scenes leaves the hash of every key."""
    prepare_scenes(simulated, progress=False)
    before = scene_hash(simulated), (scene_card(simulated).root() / making.NOTE).read_text()
    (script,) = tmp_path.glob("project/data_scripts/*.py")
    script.write_text(script.read_text() + "# changed")
    prepare_scenes(simulated, progress=False)
    after = scene_hash(simulated), (scene_card(simulated).root() / making.NOTE).read_text()
    assert after[0] == before[0] and after[1] != before[1]


def test_a_simulated_set_takes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="it is generated"):
        get_data("simulated_rooms", tmp_path)


# --- what a set says of itself ----------------------------------------------------------------


def test_a_set_says_how_the_released_code_treats_it():
    """Promise: rooms are augmented as rooms, scans as scans; simulated sets as what they stand
    for; and a third set as its own card says, not as a street."""
    for name, turned, sensor in (("s3dis", False, False), ("semantic_kitti", True, True)):
        cards = [card for card in map(scene_card, scene_names()) if card.layout == name]
        assert len(cards) == 2 and cards[0].treatment != cards[1].treatment
        for card in cards:
            assert card.augment == scene_card(name).augment
            assert (card.augment.rotate, card.around_sensor) == (turned, sensor)


def test_a_card_is_a_file_and_says_only_in_what_it_differs(tmp_path, monkeypatch):
    """Promise: a set in a known layout is one file; what decides a result is in its treatment."""
    (tmp_path / "s3dis.yml").write_text((SceneCard.CARDS / "s3dis.yml").read_text())
    (tmp_path / "mine.yml").write_text("like: s3dis\ntitle: Mine\ntest_part: Area_1\n")
    monkeypatch.setattr(SceneCard, "CARDS", tmp_path)
    registry.cards.cache_clear()
    mine, theirs = scene_card("mine"), scene_card("s3dis")
    assert (mine.name, mine.title, mine.class_names) == ("mine", "Mine", theirs.class_names)
    assert mine.augment == theirs.augment and mine.treatment != theirs.treatment
    (tmp_path / "mine.yml").write_text("like: s3dis\naugment: {clip: 0}\n")
    registry.cards.cache_clear()
    with pytest.raises(ValueError, match="mine.yml is no card: (.|\n)*clip"):
        scene_names()
    registry.cards.cache_clear()
