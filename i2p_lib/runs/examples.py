"""What is known of a run's data before it starts: their number, and a few of them to time.

Each function answers for a run on clouds; what it registers answers for one on scenes.
"""

from __future__ import annotations

from functools import lru_cache, singledispatch

import numpy as np
import torch

from i2p_lib.data import dataset_card, load_dataset
from i2p_lib.data.scenes import Scene, load_scenes, scene_card
from i2p_lib.runs.spec import AnySpec, SegmentSpec
from i2p_lib.train.classify import Classify
from i2p_lib.train.clouds import Split, Splits
from i2p_lib.train.segment import Segment, build_encoding, splits_of
from i2p_lib.train.task import Task

STAND_IN = "home_objects"
CPU_CLOUDS = 2  # a CPU's time grows with the clouds; a GPU is measured with the run's own batch


@singledispatch
def sizes(spec: AnySpec) -> dict[str, int]:
    """Return how many clouds or scenes a run trains on, validates on and is tested on.

    Of data that are not here, the published numbers; ValueError where there are none.
    """
    files, classes = _clouds(spec.data)
    found = _limited(spec, files)
    return found | ({"train": spec.shots * classes} if spec.shots is not None else {})


@sizes.register
def _(spec: SegmentSpec) -> dict[str, int]:
    if _scenes_here(spec.scenes):
        return {"test": 0} | {name: len(split) for name, split in splits_of(spec).items()}
    card = scene_card(spec.scenes)
    if not card.part_sizes:
        raise ValueError(f"{spec.scenes} is not here, so its size is not known")
    test = card.part_sizes[card.test_part]
    whole = sum(card.part_sizes.values()) - test
    val = round(card.val_share * whole)
    return _limited(spec, {"trainval": whole, "train": whole - val, "val": val, "test": test})


def _limited(spec: AnySpec, files: dict[str, int]) -> dict[str, int]:
    """Return the items of each split as it is used, from those of the splits of the files."""
    limits = {"train": spec.train_limit, "val": spec.test_limit, "test": spec.test_limit}
    used = {name: files[file] for name, file in spec.rules.splits().items()}
    return {"test": 0} | {name: min(count, limits[name] or count) for name, count in used.items()}


@lru_cache(maxsize=16)
def _clouds(data: str) -> tuple[dict[str, int], int]:
    """Return the clouds of each split, from the files or else from the card, and the classes."""
    if _clouds_here(data) == data:
        parts = {name: load_dataset(data, name) for name in ("train", "val", "trainval", "test")}
        return {n: len(part.labels) for n, part in parts.items()}, len(parts["train"].class_names)
    card = dataset_card(data)
    whole = card.splits["train"] + card.splits["val"]
    val = card.splits["val"] or whole // 10
    files = {"train": whole - val, "val": val, "trainval": whole, "test": card.splits["test"]}
    return files, card.classes


def _clouds_here(data: str) -> str:
    """Return the set itself, or the one that stands in for it where it is not on this machine."""
    return data if dataset_card(data).root().is_dir() else STAND_IN


def _scenes_here(name: str) -> bool:
    try:
        return len(load_scenes(name, "train")) > 0
    except FileNotFoundError:
        return False


@singledispatch
def setup(spec: AnySpec, device: str) -> dict:
    """Return what the time of a run's step depends on, as JSON can hold it."""
    names = ("model", "recipe", "voxel_size", "points", "amp")
    return {name: getattr(spec, name) for name in names} | {
        "data": _clouds_here(spec.data),
        "items": CPU_CLOUDS if device == "cpu" else spec.batch_size,
    }


@setup.register
def _(spec: SegmentSpec, device: str) -> dict:
    return {
        "model": spec.model,
        "data": spec.scenes,
        "measured_on": "scene" if _scenes_here(spec.scenes) else "stand-in",
        "items": 1,
        **spec.encoding_settings,
        **spec.network_settings,
    }


@singledispatch
def example(spec: AnySpec, items: int, device: torch.device) -> Task:
    """Return the task of a run on so many items of its data, or on stand-ins, as "train"."""
    whole = load_dataset(_clouds_here(spec.data), "train")
    points = torch.tensor(whole.points[:items, : spec.points]).to(device)
    classes = _clouds(spec.data)[1]
    split = Split(points, torch.tensor(whole.labels[:items]) % classes)
    names = tuple(map(str, range(classes)))
    return Classify(spec, Splits(split, split, None, names))


@example.register
def _(spec: SegmentSpec, items: int, device: torch.device) -> Segment:
    here, card = _scenes_here(spec.scenes), scene_card(spec.scenes)
    scene = load_scenes(spec.scenes, "train")[0] if here else stand_in(spec.scenes)
    encoding = build_encoding(spec)
    return Segment(spec, {"train": [scene] * items}, card.class_names, encoding, None, device)


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
