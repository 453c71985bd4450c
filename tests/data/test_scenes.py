"""Scenes: one way in for real and simulated sets, and a hash that costs little the second time."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scene_folders import make_kitti, make_s3dis

from i2p_lib.data import scene_files, scenes
from i2p_lib.data.scenes import (
    Scene,
    convert_scenes,
    load_scenes,
    prepare_scenes,
    scene_card,
    scene_hash,
    scene_names,
    scene_root,
)


@pytest.fixture
def root(tmp_path) -> Path:
    make_s3dis(tmp_path / "official")
    return convert_scenes("s3dis", tmp_path / "official", tmp_path / "set", part=True,
                          progress=False)  # fmt: skip


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
        assert (len(card.class_names), len(card.feature_names)) in ((13, 3), (19, 1))
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
    other = convert_scenes("s3dis", tmp_path / "official", tmp_path / "elsewhere", part=True,
                           progress=False)  # fmt: skip
    assert scene_hash("s3dis", other) == first
    text = tmp_path / "official/Area_1/office_1/Annotations/wall_1.txt"
    text.write_text(text.read_text() + "1 2 3 4 5 6\n")
    convert_scenes("s3dis", tmp_path / "official", other, part=True, progress=False)
    assert scene_hash("s3dis", other) != first
    room = root / "Area_1/office_1.h5"
    room.write_bytes(room.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="office_1.h5: expected SHA-256"):
        scene_hash("s3dis", root)
    room.unlink()
    with pytest.raises(FileNotFoundError, match="office_1.h5 is missing, but .*manifest.json"):
        scene_hash("s3dis", root)


def test_a_second_hash_reads_no_file(root, monkeypatch):
    """Promise: only files whose size or time changed since their last check are read."""
    read = []
    real = scene_files.sha256
    monkeypatch.setattr(scene_files, "sha256", lambda path: read.append(path.name) or real(path))
    first = scene_hash("s3dis", root)
    assert not read  # the conversion has just hashed them
    os.utime(root / "Area_2/office_1.h5", (1, 1))
    assert scene_hash("s3dis", root) == first and read == ["office_1.h5"]
    assert scene_hash("s3dis", root) == first and read == ["office_1.h5"]
    (root / ".verified.json").unlink()
    assert scene_hash("s3dis", root) == first and len(read) == 19


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


@pytest.fixture(params=["simulated_rooms", "simulated_streets"])
def generator(request, monkeypatch, tmp_path):
    """Return the name of a set and the calls of its generator, which is a small stand-in: what
    the true generators write is tested with them, here it is what becomes of it."""
    name, calls = request.param, []
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    module = pytest.importorskip(f"i2p_lib.data.{name}")

    def simulate(folder, seed, progress):
        calls.append(seed)
        make = make_s3dis if name == "simulated_rooms" else make_kitti
        if not Path(folder).exists():
            make(Path(folder))

    monkeypatch.setattr(module, name.replace("simulated", "simulate"), simulate)
    return name, calls


def test_a_simulated_set_is_made_once_and_read_like_a_real_one(generator):
    name, calls = generator
    with pytest.raises(FileNotFoundError, match=f"i2p data get {name}"):
        load_scenes(name, "train")
    folder = prepare_scenes(name, progress=False)
    assert folder == scene_root(name) == prepare_scenes(name, progress=False)
    assert calls == [0]
    card = scene_card(name)
    for split in ("train", "val", "test"):
        scene = load_scenes(name, split)[0]
        assert scene.features.shape[1] == len(card.feature_names)
        assert scene.labels.max() < len(card.class_names)
    assert not list(folder.parent.glob(f".{name}-*"))  # nothing of its making stays
    first = scene_hash(name)
    folder.rename(folder.parent / "moved")
    assert scene_hash(name, folder.parent / "moved") == first


def test_other_settings_make_the_set_anew(generator, monkeypatch):
    name, calls = generator
    folder = prepare_scenes(name, progress=False)
    monkeypatch.setitem(scenes.SETTINGS, name, {"seed": 5})
    prepare_scenes(name, progress=False)
    assert calls == [0, 5]
    assert json.loads((folder / "manifest.json").read_text())["settings"]["seed"] == 5


def test_an_interrupted_making_leaves_no_set_and_goes_on(generator, monkeypatch):
    """Promise: until it is whole the set is absent; what was generated is used."""
    name, calls = generator
    layout = scenes._LAYOUTS[scene_card(name).layout]
    with monkeypatch.context() as patch:
        patch.setattr(layout, "write_manifest", _stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_scenes(name, progress=False)
    assert not scene_root(name).exists()
    prepare_scenes(name, progress=False)
    assert len(load_scenes(name, "test"))


def _stop(*_):
    raise KeyboardInterrupt


def test_a_simulated_set_takes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="it is generated"):
        convert_scenes("simulated_rooms", tmp_path, tmp_path / "set")
