"""What a segmentation run will cost: one measured scene, and how many scenes there are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from i2p_lib.data.scenes import Scene, load_scenes, scene_card
from i2p_lib.runs.cost import timed_pass, trained_bytes
from i2p_lib.runs.execute import one_thread
from i2p_lib.runs.segment_spec import SegmentSpec
from i2p_lib.train.segment import build_encoding, build_network, masked_cross_entropy, splits_of

SMALL = 16  # the pass that warms up takes every so manieth point


def setup_of(spec: SegmentSpec) -> dict[str, Any]:
    """Return what a measured scene depends on: network, encoding, and whether data are here."""
    return {
        "model": spec.model,
        "scenes": spec.scenes,
        "measured_on": "scene" if _present(spec.scenes) else "stand-in",
        **spec.encoding_settings,
        **spec.network_settings,
    }


def seconds_of(
    spec: SegmentSpec, counts: tuple[int, int, int], step: dict[str, float]
) -> float:
    """Return the seconds of a run on so many scenes (`scene_counts`), from a measured one."""
    train, val, test = counts
    measured = -(-spec.epochs // spec.validate_every) * val + test
    return spec.epochs * train * step["seconds_per_scene"] + measured * step["seconds_to_measure"]


def scene_counts(spec: SegmentSpec) -> tuple[int, int, int]:
    """Return how many scenes a run trains on, validates on and is tested on.

    Of a real set that is not here, the published numbers; ValueError for another one.
    """
    if _present(spec.scenes):
        splits = splits_of(spec)
        return len(splits["train"]), len(splits["val"]), len(splits.get("test", ()))
    card = scene_card(spec.scenes)
    if not card.part_sizes:
        raise ValueError(f"{spec.scenes} is not here, so its size is not known")
    test = card.part_sizes[card.test_part]
    whole = sum(card.part_sizes.values()) - test
    val = round(card.val_share * whole)
    sizes = {"trainval": whole, "train": whole - val, "val": val, "test": test}
    n_train, n_val = sizes[spec.rules.train_on], sizes[spec.rules.validate_on]
    n_test = 0 if spec.rules.test == "never" else test
    most = spec.test_limit or test + val
    return min(n_train, spec.train_limit or n_train), min(n_val, most), min(n_test, most)


def measure_scene(spec: SegmentSpec, device: torch.device) -> dict[str, Any]:
    """Train one scene, and segment it; return seconds, bytes of activations, and of parameters."""
    scene = load_scenes(spec.scenes, "train")[0] if _present(spec.scenes) else stand_in(spec.scenes)
    plain = spec.but(weights="random", regime="all")
    net, encoding = build_network(plain).to(device).train(), build_encoding(spec)

    def step(part: Scene) -> tuple[float, int]:
        def loss() -> torch.Tensor:
            x, targets = encoding.encode([part], device)
            return masked_cross_entropy(net(x), targets)

        return timed_pass(net, loss, device)

    step(thinned(scene, SMALL))
    seconds, saved = step(scene)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    with one_thread():
        encoding.predict(net, scene, device).cpu()
    return {
        "seconds_per_scene": seconds,
        "seconds_to_measure": clock() - began,
        "saved_per_scene": saved,
        "parameter_bytes": trained_bytes(net),
    }


def thinned(scene: Scene, step: int) -> Scene:
    """Return every `step`-th point of a scene."""
    arrays = {name: getattr(scene, name)[::step] for name in ("points", "features", "labels")}
    return replace(scene, **arrays)


def stand_in(name: str) -> Scene:
    """Return a scene of about the extent of those of a set that is not here, to time a step on.

    The six faces of a box or, around a sensor, ground whose density falls with the distance.
    """
    card, random = scene_card(name), np.random.default_rng(0)
    count = card.typical_points
    if not card.around_sensor:
        sides = np.array((7.0, 6.0, 3.0))
        points, face = random.uniform(0, 1, (count, 3)) * sides, random.integers(0, 6, count)
        points[np.arange(count), face // 2] = sides[face // 2] * (face % 2)
    else:
        turn, distance = random.uniform(0, 2 * np.pi, count), random.uniform(2, 50, count)
        height = random.uniform(-1.8, -1.6, count)
        points = np.stack([distance * np.cos(turn), distance * np.sin(turn), height], 1)
    return Scene(
        "stand-in",
        points.astype(np.float32),
        random.uniform(0, 1, (count, len(card.feature_names))).astype(np.float32),
        random.integers(0, len(card.class_names), count),
    )


def _present(name: str) -> bool:
    try:
        return len(load_scenes(name, "train")) > 0
    except FileNotFoundError:
        return False
