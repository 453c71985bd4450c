"""Labelled scenes: what one is, which sets of them there are, and the one way in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from i2p_lib.data import s3dis, semantic_kitti
from i2p_lib.data.making import made
from i2p_lib.data.manifests import content_hash, files_folder
from i2p_lib.data.modelnet import SPLITS
from i2p_lib.data.registry import dataset_hash
from i2p_lib.data.scene_files import IGNORED, SceneCard, split_scenes
from i2p_lib.data.scene_transforms import clip_to_cube


@dataclass(frozen=True)
class Scene:
    """One labelled scene.

    points    [N, 3] float32, metres, z up
    features  [N, F] float32 in 0..1: red, green, blue, or intensity (`SceneCard.feature_names`)
    labels    [N] int64: 0..C-1, or IGNORED for points that are not counted

    Raises ValueError, naming the scene, where an array is something else.
    """

    name: str
    points: np.ndarray
    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        count, widths = len(self.points), self.features.shape[-1:]
        for what, array, shape, kind in (
            ("points", self.points, [count, 3], np.float32),
            ("features", self.features, [count, *widths], np.float32),
            ("labels", self.labels, [count], np.int64),
        ):
            if list(array.shape) != shape or array.dtype != kind:
                raise ValueError(
                    f"{self.name}: {what}: expected {shape} {kind.__name__}, "
                    f"got {list(array.shape)} {array.dtype}"
                )
        if not count:
            raise ValueError(f"{self.name}: expected at least one point, got none")
        if not (finite := np.isfinite(self.points).all(axis=1)).all():
            raise ValueError(f"{self.name}: points: NaN or infinite coordinates, the first at "
                             f"point {finite.argmin()}")
        low, high = self.features.min(initial=0), self.features.max(initial=1)
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{self.name}: features: expected 0 to 1, got {low} to {high}")
        if self.labels.min() < IGNORED:
            raise ValueError(f"{self.name}: labels: expected {IGNORED} or more")

    def __len__(self) -> int:
        return len(self.points)


LAYOUTS = {"s3dis": s3dis, "semantic_kitti": semantic_kitti}
"""Layout -> its module, which has `CARDS` and `read_scene(folder, name)`; a new set adds itself."""

CARDS = {card.name: card for module in LAYOUTS.values() for card in module.CARDS}


def scene_names() -> tuple[str, ...]:
    """Return the names that `load_scenes` knows."""
    return tuple(CARDS)


def scene_card(name: str) -> SceneCard:
    """Return the card of a set of scenes; ValueError for an unknown name."""
    if name not in CARDS:
        raise ValueError(f"scenes: expected one of {', '.join(CARDS)}, got {name!r}")
    return CARDS[name]


def load_scenes(
    name: str, split: str, root: str | Path | None = None, released: bool = False
) -> Sequence[Scene]:
    """Return the scenes of a split ("train", "val", "test", or "trainval": both of the first).

    Nothing is read before a scene is asked for, and nothing is kept: `[i]` reads one scene from
    disk, each time anew.  What is in which split follows from the scenes' names alone, see
    `SceneCard.splits`.

    released: labels as the released code has them, see `read_scene` of the set's layout, and of
    test only the points that it counts: those within `card.augment.clip` of the middle.

    Raises ValueError for unknown names, FileNotFoundError where the set is not here or not whole.
    """
    card = scene_card(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    folder, manifest = card.opened(root)
    splits = split_scenes(card, manifest["scenes"])
    wanted = ("train", "val") if split == "trainval" else (split,)
    names = sorted(scene for scene, where in splits.items() if where in wanted)
    clip = card.augment.clip if released and split == "test" else math.inf
    return SceneFiles(card.layout, files_folder(folder, manifest), tuple(names), released, clip)


@dataclass(frozen=True)
class SceneFiles(Sequence[Scene]):
    """Scenes on disk, read one by one when they are asked for."""

    layout: str
    folder: Path
    names: tuple[str, ...]
    released: bool = False
    clip: float = math.inf

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        name = self.names[index]
        how = {"released": True} if self.released else {}
        arrays = LAYOUTS[self.layout].read_scene(self.folder, name, **how)
        if self.clip < math.inf:
            kept = clip_to_cube(torch.from_numpy(arrays[0]), self.clip).numpy()
            arrays = tuple(array[kept] for array in arrays)
        return Scene(name, *arrays)


def scene_hash(name: str, root: str | Path | None = None) -> str:
    """Return one SHA-256 over the content of a set of scenes, as its manifest names it.

    Files that changed since they were last read are read and checked, so a second call is cheap.
    Raises FileNotFoundError and ValueError for a set that is absent or damaged.
    """
    return content_hash(*scene_card(name).opened(root))


def describe_scenes(name: str, root: str | Path | None = None) -> str:
    """Return what a set of scenes holds: scenes and points of each split, classes, repairs."""
    card = scene_card(name)
    manifest = card.opened(root)[1]
    sizes, (*labelled, unlabelled) = manifest["scenes"], manifest["class_points"]
    splits, lines = split_scenes(card, sizes), []
    for split in card.splits:
        members = [sizes[scene] for scene, where in splits.items() if where == split]
        lines.append(f"{split}: {len(members):,} scenes, {sum(members):,} points")
    shares = ", ".join(f"{kind} {100 * count / max(1, sum(labelled)):.2g} %"
                       for kind, count in zip(card.class_names, labelled, strict=True))  # fmt: skip
    lines += [f"labelled points: {shares}", f"points of no class: {unlabelled:,}"]
    lines += [f"repaired {one['file']}:{one['line']}: {one['was']} read as {one['read']}"
              for one in manifest["repairs"]]  # fmt: skip
    return "\n".join(lines)


def prepare_scenes(name: str, progress: bool = True) -> Path:
    """Return the folder of a set of scenes; a simulated one is made where it is not there.

    See `i2p_lib.data.making.made`: it is made once, and anew where its script changed.
    Raises FileNotFoundError (how to get it) for a real set that is not here.
    """
    card = scene_card(name)
    if not card.simulated:
        return card.opened()[0]
    return made(name, card.made_by, [dataset_hash(one) for one in card.made_from], progress)
