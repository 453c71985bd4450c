"""Training a segmentation run: its state, its epochs, and the files that it leaves behind.

As in `i2p_lib.train.loop`, all randomness of an epoch comes from generators seeded by (seed,
purpose, epoch), so that going on from a checkpoint gives the same bits as never having stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from i2p_lib.analysis import segmentation as metrics
from i2p_lib.data.scene_transforms import augment_scene
from i2p_lib.data.scenes import IGNORED, Scene, load_scenes, scene_card
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models.encodings import Encoding, encoding_for
from i2p_lib.models.segmenters import segmenter
from i2p_lib.runs.segment_spec import SegmentSpec
from i2p_lib.train.loop import (
    Diverged,
    _dropout_seed,
    build_optimizer,
    generator,
    learning_rate,
    seed_for,
)
from i2p_lib.train.segment_scores import kept_scenes, measure

KEPT_SCENES = 3


@dataclass
class SegmentState:
    """A run in training: what a hook may look at, and all that a checkpoint must hold.

    scenes: the splits "train", "val" and, where the run may read it, "test".
    """

    spec: SegmentSpec
    net: nn.Module
    optimizer: torch.optim.Optimizer
    encoding: Encoding
    scenes: dict[str, Sequence[Scene]]
    class_names: tuple[str, ...]
    device: torch.device
    epoch: int = 0
    history: list[dict] = field(default_factory=list)


Hook = Callable[[SegmentState], None]


def splits_of(spec: SegmentSpec) -> dict[str, Sequence[Scene]]:
    """Return the scenes that a run trains on, validates on and is tested on, read when used.

    Which they are is the protocol's (`PROTOCOLS`); limits take scenes evenly from a whole split.
    """
    names = {"train": spec.rules.train_on, "val": spec.rules.validate_on, "test": "test"}
    if spec.rules.test == "never":
        del names["test"]
    limits = {"train": spec.train_limit, "val": spec.test_limit, "test": spec.test_limit}
    return {name: _limited(load_scenes(spec.scenes, split), limits[name])
            for name, split in names.items()}  # fmt: skip


def _limited(scenes: Sequence[Scene], limit: int | None) -> Sequence[Scene]:
    if limit is None or limit >= len(scenes):
        return scenes
    return Subset(scenes, np.linspace(0, len(scenes) - 1, limit).round().astype(int).tolist())


def build_encoding(spec: SegmentSpec) -> Encoding:
    """Return the encoding of a spec; voxels count from the scene's middle, or from its sensor."""
    settings = spec.encoding_settings
    if spec.family == "unet":
        settings["centre"] = not scene_card(spec.scenes).around_sensor
    return encoding_for(spec.model, **settings)


def build_network(spec: SegmentSpec) -> nn.Module:
    """Return the network of a spec on the CPU, with its regime's parameters frozen."""
    card = scene_card(spec.scenes)
    net = segmenter(
        spec.model,
        len(card.class_names),
        len(card.feature_names),
        weights=spec.weights,
        seed=spec.seed,
        **spec.network_settings,
    )
    freeze(net, spec.regime)
    return net


def start(spec: SegmentSpec, device: torch.device) -> SegmentState:
    """Find the scenes and build the network and optimizer of a run that begins.

    Raises ValueError where a split that is trained on or measured has no scene.
    """
    scenes = splits_of(spec)
    for name, split in scenes.items():
        if not len(split):
            raise ValueError(f"{spec.scenes}: no scene in the split that is used as {name}")
    net = build_network(spec).to(device)
    optimizer = build_optimizer(net, spec)
    for group in optimizer.param_groups if spec.nesterov else ():
        group["nesterov"] = True
    class_names = scene_card(spec.scenes).class_names
    return SegmentState(spec, net, optimizer, build_encoding(spec), scenes, class_names, device)


def rate(spec: SegmentSpec, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimisation step `step` (from 0): a pure function.

    one_cycle, cosine: see `i2p_lib.train.loop.learning_rate`.
    poly: lr (1 - t) ** 0.9 over all steps (paper notes 3.3, S3DIS).
    warmup_cosine: linear over `warmup_steps`, then a cosine towards 0 (SemanticKITTI).
    """
    total = spec.epochs * steps_per_epoch
    if spec.schedule == "poly":
        return spec.lr * (1 - step / total) ** 0.9
    if spec.schedule == "warmup_cosine":
        if step < spec.warmup_steps:
            return spec.lr * (step + 1) / spec.warmup_steps
        share = (step - spec.warmup_steps) / max(1, total - spec.warmup_steps)
        return spec.lr * (1 + math.cos(math.pi * share)) / 2
    return learning_rate(spec, step, steps_per_epoch)


def train(state: SegmentState, hooks: Sequence[Hook] = ()) -> SegmentState:
    """Train from `state.epoch` to the last epoch; each hook is called after every epoch.

    Hooks are also called before the first epoch (`state.epoch` 0).
    Raises Diverged in a step whose loss is not finite.
    """
    spec = state.spec
    if state.epoch == 0:
        _call(hooks, state)
    while state.epoch < spec.epochs:
        epoch = state.epoch + 1
        row = {"epoch": epoch} | _train_epoch(state, epoch)
        began = time.perf_counter()
        row |= dict.fromkeys(("val_miou", "val_accuracy"), None)
        if epoch % spec.validate_every == 0 or epoch == spec.epochs:
            confusion = _confusion(state, "val")
            row["val_miou"] = metrics.mean_iou(confusion)
            row["val_accuracy"] = metrics.accuracy(confusion)
        row["eval_seconds"] = time.perf_counter() - began
        state.history.append(row)
        state.epoch = epoch
        _call(hooks, state)
    return state


def _call(hooks: Sequence[Hook], state: SegmentState) -> None:
    for hook in hooks:
        hook(state)


def _train_epoch(state: SegmentState, epoch: int) -> dict[str, float]:
    """Train one epoch; return its loss per scene, last rate, seconds and points per scene."""
    spec, began = state.spec, time.perf_counter()
    losses, scenes, points = 0.0, 0, 0
    state.net.train()
    with _dropout_seed(seed_for(spec.seed, "dropout", epoch), state.device):
        for step, now, batch, random in _batches(state, epoch):
            x, targets = state.encoding.encode(batch, state.device, random)
            for group in state.optimizer.param_groups:
                group["lr"] = now
            state.optimizer.zero_grad(set_to_none=True)
            loss = masked_cross_entropy(state.net(x), targets)
            if not math.isfinite(value := float(loss.detach())):
                names = ", ".join(scene.name for scene in batch)
                raise Diverged(
                    f"the loss became {value} in epoch {epoch}, step {step}, at a learning rate "
                    f"of {now:.3g}, on {names}: lower lr, or check these scenes"
                )
            loss.backward()
            state.optimizer.step()
            losses += value * len(batch)
            scenes += len(batch)
            points += sum(len(scene.points) for scene in batch)
    return {
        "train_loss": losses / scenes,
        "lr": now,
        "seconds": time.perf_counter() - began,
        "points": points / scenes,
    }


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy over the targets that count; 0 where none of them does.

    logits [M, C], targets [M] int64 with IGNORED.
    """
    total = cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp_min(1)


def _batches(
    state: SegmentState, epoch: int
) -> Iterator[tuple[int, float, list[Scene], torch.Generator]]:
    """Yield (step, rate, augmented scenes, generator) of one epoch in random order.

    Only the scenes of one batch are in memory.
    """
    spec, scenes = state.spec, state.scenes["train"]
    random = generator(spec.seed, "epoch", epoch)
    parts = torch.randperm(len(scenes), generator=random).split(spec.batch_size)
    for number, part in enumerate(parts):
        step = (epoch - 1) * len(parts) + number
        batch = [augmented(scenes[index], spec, random) for index in part.tolist()]
        yield step, rate(spec, step, len(parts)), batch, random


def augmented(scene: Scene, spec: SegmentSpec, random: torch.Generator) -> Scene:
    """Return a scene as the paper's recipe changes it for training; "none" leaves it alone."""
    if spec.augment == "none":
        return scene
    rules = scene_card(spec.scenes).augment
    tensors = torch.from_numpy(scene.points), torch.from_numpy(scene.features)
    points, features, kept = augment_scene(*tensors, random, rules)
    return replace(
        scene,
        points=points.numpy(),
        features=features.numpy(),
        labels=scene.labels[kept.numpy()],
    )


def _confusion(state: SegmentState, split: str) -> np.ndarray:
    classes = len(state.class_names)
    return measure(state.net, state.encoding, state.scenes[split], classes, state.device)


def finish(state: SegmentState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure what the protocol reads; return (metrics, what to keep).

    What to keep: "confusion", counts [C, C] of all points of the measured split (test, or val
    where test is never read), and "scenes", see `kept_scenes`.
    """
    spec, last = state.spec, state.history[-1]
    split = "test" if "test" in state.scenes else "val"
    confusion = _confusion(state, split)
    sizes = [(p.numel(), p.requires_grad) for p in state.net.parameters()]
    found = {
        "val_miou": last["val_miou"],
        "train_loss": last["train_loss"],
        "seconds_total": sum(row["seconds"] + row["eval_seconds"] for row in state.history),
        "seconds_training": sum(row["seconds"] for row in state.history),
        "parameters": sum(n for n, _ in sizes),
        "parameters_trained": sum(n for n, trained in sizes if trained),
        "classes": len(state.class_names),
        **{f"n_{name}": len(scenes) for name, scenes in state.scenes.items()},
    }
    if split == "test":
        found |= {
            "miou": metrics.mean_iou(confusion),
            "miou_absent_perfect": metrics.mean_iou(confusion, "perfect"),
            "accuracy": metrics.accuracy(confusion),
            "mean_class_accuracy": metrics.mean_class_accuracy(confusion),
        }
    if spec.rules.checkpoint == "best on test":
        best = max((row for row in state.history if row["val_miou"] is not None),
                   key=lambda row: row["val_miou"])  # fmt: skip
        found |= {"miou_best_test": best["val_miou"], "best_test_epoch": best["epoch"]}
    shown = _limited(state.scenes[split], KEPT_SCENES)
    return found, {
        "confusion": confusion,
        "scenes": kept_scenes(state.net, state.encoding, shown, state.device),
    }
