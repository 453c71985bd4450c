"""Segmentation runs in the store: trained once, resumed to the same bits, damaged or diverged."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix, jaccard_score
from tiny_scenes import ROOM

from i2p_lib.analysis import segmentation as metrics
from i2p_lib.data.scenes import load_scenes
from i2p_lib.runs import DamagedRun, execute, run, status, store
from i2p_lib.runs.needs import missing_inputs
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.store import Entry
from i2p_lib.train import segment
from i2p_lib.train.loop import Diverged, train
from i2p_lib.train.optimise import learning_rate

TIMES = ["seconds", "eval_seconds"]
PAPER = load_profile("paper")


class Stop(BaseException):
    """Stands for a process that is interrupted."""


def test_a_finished_run_holds_its_numbers_and_files(rooms):
    _, (result, _) = rooms
    assert list(result.history["epoch"]) == [1, 2]
    kept = {"history.csv", "metrics.json", "confusion.csv", "model.safetensors"}
    assert kept <= {file.name for file in result.folder.iterdir()}
    assert result.metrics["n_train"] == 5 and result.metrics["n_test"] == 2
    counts = result.confusion().to_numpy()
    assert counts.shape == (13, 13) and counts.sum() == 2 * 240  # without stairs
    assert result.metrics["miou"] == metrics.mean_iou(counts)
    assert result.metrics["miou_absent_perfect"] == metrics.mean_iou(counts, "perfect")


def test_the_stored_network_gives_scikit_learns_numbers_on_the_original_points(rooms):
    """Promise: mIoU counts every labelled point of the files, and is scikit-learn's."""
    _, (result, _) = rooms
    net, encoding = result.network(), segment.build_encoding(ROOM)
    scenes = load_scenes("s3dis", "test")
    labels = np.concatenate([scene.labels for scene in scenes])
    found = np.concatenate([encoding.predict(net, s).argmax(1).numpy() for s in scenes])
    counted = labels >= 0
    assert np.array_equal(
        confusion_matrix(labels[counted], found[counted], labels=range(13)),
        result.confusion().to_numpy(),
    )
    wanted = jaccard_score(labels[counted], found[counted], labels=np.unique(labels[counted]),
                           average="macro")  # fmt: skip
    assert result.metrics["miou"] == pytest.approx(wanted)


def test_the_kept_scenes_are_points_of_the_files_with_their_labels(rooms):
    _, (result, _) = rooms
    scenes = {scene.name: scene for scene in load_scenes("s3dis", "test")}
    kept = result.scenes()
    assert kept.keys() == scenes.keys()
    for name, scene in kept.items():
        assert np.array_equal(scene["points"], scenes[name].points)
        assert np.array_equal(scene["labels"], scenes[name].labels)
        assert scene["predictions"].min() >= 0 and scene["predictions"].max() < 13


def test_a_run_that_was_interrupted_ends_with_the_same_bits(rooms, tmp_path, monkeypatch):
    _, (whole, _) = rooms
    monkeypatch.setattr(execute, "CHECKPOINT_SECONDS", 0.0)

    def stop(state):
        if state.epoch == 1:
            raise Stop

    entry = Entry.of(ROOM, tmp_path)
    with pytest.raises(Stop):
        execute.train_entry(entry, hooks=[stop])
    assert (entry.folder / store.CHECKPOINT).exists()
    again = run(ROOM, store=tmp_path, progress=False)
    assert "go on after epoch 1" in (again.folder / "log.txt").read_text()
    assert again.history.drop(columns=TIMES).equals(whole.history.drop(columns=TIMES))
    for name in ("model.safetensors", "scenes.safetensors"):
        left, right = (load_file(r.folder / name) for r in (again, whole))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_a_stored_run_is_found_and_a_damaged_one_is_refused(rooms, tmp_path, monkeypatch):
    source, _ = rooms
    copied = shutil.copytree(source, tmp_path / "copied")
    monkeypatch.setattr(execute, "train", None)  # nothing may train any more
    result = run(ROOM, store=copied)
    assert list(status([ROOM], store=copied)["state"]) == ["done"]
    with open(result.folder / "confusion.csv", "a") as file:
        file.write("1\n")
    with pytest.raises(DamagedRun, match="confusion.csv should hold"):
        run(ROOM, store=copied)


def test_the_key_covers_scenes_weights_and_the_sources_of_segmentation(scene_data):
    parts = store.key_parts(ROOM)
    sources = {"source train/segment.py", "source models/unet.py", "source sparse/conv.py",
               "source data/s3dis.py"}  # fmt: skip
    assert {"spec", "data", "weights", "protocol"} | sources <= parts.keys()
    assert "source data/semantic_kitti.py" not in parts and '"test_part":"Area_5"' in parts["data"]
    other = store.key_parts(ROOM.but(scenes="semantic_kitti"))
    assert other["data"] != parts["data"]


def test_scenes_that_are_not_here_are_a_need_with_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    (need,) = missing_inputs(ROOM)
    assert need.name == "scenes s3dis" and need.known and "i2p data get s3dis" in need.how
    (unknown,) = missing_inputs(ROOM.but(scenes="s3dos"))
    assert not unknown.known and "expected one of s3dis" in unknown.how


def test_a_diverged_run_says_where(scene_data):
    state = execute.begin(ROOM.but(batch_size=1))
    with torch.no_grad():
        next(state.net.parameters()).fill_(math.inf)
    with pytest.raises(Diverged, match="in epoch 1, step 0.*on Area_.*lower lr"):
        train(state)


@pytest.mark.parametrize("schedule", ["poly", "warmup_cosine"])
def test_the_rates_of_the_released_recipes(schedule):
    warm = 4 if schedule == "warmup_cosine" else 0
    spec = SegmentSpec(epochs=5, lr=0.1, schedule=schedule, warmup_steps=warm)
    rates = [learning_rate(spec, step, steps_per_epoch=4) for step in range(20)]
    assert all(a > b for a, b in zip(rates[warm:], rates[warm + 1 :], strict=False))
    if schedule == "poly":
        assert rates[0] == 0.1 and rates[10] == pytest.approx(0.1 * 0.5**0.9)
    else:
        assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
        assert rates[12] == pytest.approx(0.05)


def test_targets_that_do_not_count_have_no_gradient():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    segment.masked_cross_entropy(logits, torch.tensor([0, -1, 2, -1])).backward()
    assert (logits.grad[[1, 3]] == 0).all() and (logits.grad[[0, 2]] != 0).any()
    none = segment.masked_cross_entropy(logits.detach(), torch.full((4,), -1))
    assert float(none) == 0


@pytest.mark.slow
@pytest.mark.parametrize("spec", PAPER.experiment("rooms")[::2] + PAPER.experiment("streets")[:3:2],
                         ids=lambda spec: f"{spec.scenes}-{spec.model}")  # fmt: skip
def test_each_network_of_the_paper_trains_on_official_files(spec, scene_data, monkeypatch):
    """Promise: with the real data in place, the paper's specs run: only sizes are other here."""
    small = {"height": 32, "width": 64} if spec.family == "range" else {}
    small |= {"voxel_size": 0.5} if spec.family == "unet" else {}
    small |= {"block_points": 64} if spec.family == "pointnet2_ssg" else {}
    warm = {"warmup_steps": 2} if spec.warmup_steps else {}
    tiny = spec.but(epochs=1, train_limit=2, test_limit=1, weights="random", **small, **warm)
    state = execute.begin(tiny)
    before = [p.detach().flatten()[:99].clone() for p in state.net.parameters() if p.ndim > 1]
    train(state)
    after = [p.detach().flatten()[:99] for p in state.net.parameters() if p.ndim > 1]
    assert math.isfinite(state.history[0]["train_loss"])
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["rooms", "streets"])
def test_one_command_runs_the_recipe_of_a_set(experiment, scene_data, tmp_path, monkeypatch):
    """Promise: `i2p run --profile paper --experiment rooms` is the paper's recipe.

    The command here differs by the profile's file alone: one epoch, larger voxels, smaller images.
    """
    from i2p_lib.cli import main

    text = PAPER.path.read_text()
    for old, new in (("epochs: 400", "epochs: 1"), ("epochs: 15,", "epochs: 1,"),
                     ("normalize: false, voxel_size: 0.05",
                      "normalize: false, voxel_size: 0.5, train_limit: 2"),
                     ("model: pointnet2_ssg, weights: [random, imagenet1k_pixels], epochs",
                      "model: pointnet2_ssg, weights: random, block_points: 64, epochs"),
                     ("range:hrnet_w48\", weights: [random, imagenet1k, cityscapes], height: 64, "
                      "width: 2048", "range:efficientnet_lite0\", weights: random, height: 32, "
                      "width: 64")):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "paper.yml"
    path.write_text(text)
    monkeypatch.setenv("I2P_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path / "no weights"))
    assert main(["run", "--profile", str(path), "--experiment", experiment, "--workers", "1"]) == 0
    done = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/metrics.json")]
    assert len(done) == 2 and all(0 <= one["miou_best_test"] <= 1 for one in done)
