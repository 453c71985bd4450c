"""Labelled scenes: what one is, which sets of them there are, and the one way in.

`manifest.json` of a set, written last:

    layout        whose files these are, such as "s3dis"
    scenes_in     the folder of the files; "." is the manifest's own
    scenes        points of each scene by its name
    class_points  labelled points of each class, and of none as the last number
    repairs       lines that were repaired: file, line, what it was, what was read
    files         SHA-256 of each file by its name in `scenes_in`
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.making import made
from i2p_lib.data.manifests import MANIFEST, content_hash, files_folder, read_manifest
from i2p_lib.data.modelnet import SPLITS, VAL_SHARE
from i2p_lib.data.registry import HERE, Card, cards, dataset_hash, named_card
from i2p_lib.data.scene_transforms import SceneAugment, clip_to_cube

IGNORED = -1  # the label of points that are not counted
_KEYS = ("layout", "scenes_in", "scenes", "class_points", "repairs", "files")
Names = Annotated[tuple[str, ...], Field(strict=False)]


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
        for what, array, shape, kind in (("points", self.points, [count, 3], np.float32),
                                         ("features", self.features, [count, *widths], np.float32),
                                         ("labels", self.labels, [count], np.int64)):
            if list(array.shape) != shape or array.dtype != kind:
                raise ValueError(f"{self.name}: {what}: expected {shape} {kind.__name__}, "
                                 f"got {list(array.shape)} {array.dtype}")
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


class SceneCard(Card):
    """The card of a set of scenes: what it is, and how the paper treats it.

    layout: the module of this package that reads it.  made_by: the script that makes it; a
    simulated set is made on demand, a real one from its official files (`how_to_get`).
    made_from: point sets whose content it rests on.
    augment: the released recipe's augmentation.  around_sensor: the origin is a sensor that points
    thin out from, and voxels count from it; else they count from the scene's middle.
    test_part: the part (area, sequence) that is the test split.  val_last: whether val is the end
    of each other part; else it is scenes chosen by a hash of their place.
    sizes: published scenes of each split of a real set.
    typical_points: of one scene, for a forecast without the set.
    names, features: the classes and the features of a point, where the layout has none of its own.
    trained_too: classes that are ignored here, but that the released code trains; its mIoU leaves
    their points out and counts each of them as 1.
    """

    CARDS: ClassVar[Path] = HERE / "scene_cards"
    KIND: ClassVar[str] = "scenes"
    MARK: ClassVar[str] = MANIFEST

    layout: str
    augment: Annotated[SceneAugment, BeforeValidator(lambda facts: SceneAugment(**facts))]
    test_part: str
    typical_points: int
    simulated: bool = False
    around_sensor: bool = False
    val_last: bool = False
    names: Names = ()
    features: Names = ()
    trained_too: Names = ()
    made_from: Names = ()
    sizes: dict[str, int] = {}

    @property
    def reader(self) -> ModuleType:
        """The module of the layout: CLASS_NAMES, FEATURE_NAMES and `read_scene(folder, name)`."""
        return import_module(f"{__package__}.{self.layout}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return self.names or self.reader.CLASS_NAMES

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What the features of a point are, such as "intensity"."""
        return self.features or self.reader.FEATURE_NAMES

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def released_names(self) -> tuple[str, ...]:
        """The names of all classes that the released code trains."""
        return self.class_names + self.trained_too

    @property
    def treatment(self) -> str:
        """All but what is for people, as a text: a run's key rests on it."""
        return self.model_dump_json(exclude=set(Card.model_fields))

    def opened(self, root: str | Path | None = None) -> tuple[Path, dict]:
        """Return the set's folder and its manifest.

        Raises FileNotFoundError (how to get it) and ValueError as `read_manifest` does,
        FileNotFoundError where all files are gone, and ValueError for a set of another layout.
        """
        folder = self.root(root)
        try:
            manifest = read_manifest(folder, _KEYS)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"scenes {self.name}: {error}. To get it: "
                                    f"{self.how_to_get}") from None
        if (found := manifest["layout"]) != self.layout:
            raise ValueError(f"{folder / MANIFEST}: expected the layout {self.layout}, got {found}")
        place, files = files_folder(folder, manifest), manifest["files"]
        if files and not any((place / name).is_file() for name in files):
            raise FileNotFoundError(f"scenes {self.name}: none of its {len(files):,} files is in "
                                    f"{place} any more: put them back, or make the set again from "
                                    f"where they are now: {self.how_to_get}")
        return folder, manifest


def scene_names() -> tuple[str, ...]:
    """Return the names that `load_scenes` knows."""
    return tuple(cards(SceneCard))


def scene_card(name: str) -> SceneCard:
    """Return the card of a set of scenes; ValueError for an unknown name."""
    return named_card(SceneCard, name)


def load_scenes(name: str, split: str, root: str | Path | None = None,
                released: bool = False) -> Sequence[Scene]:
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
    return SceneFiles(card, files_folder(folder, manifest), tuple(names), released, clip)


def split_scenes(card: SceneCard, names: Iterable[str]) -> dict[str, str]:
    """Return "train", "val" or "test" for each scene, named such as Area_1/office_3 or 08/000123.

    Of each part but `card.test_part`, val is `VAL_SHARE`, at least one scene of two or more; or val
    is the part of that name, where there is one.
    """
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(name.split("/")[0], []).append(name)
    splits = {}
    for part, scenes in parts.items():
        held = max(len(scenes) > 1, round(VAL_SHARE * len(scenes)))
        if "val" in parts:
            held = len(scenes) if part == "val" else 0
        order = np.arange(len(scenes))[::-1]
        if not card.val_last:
            order = fixed_order(order, f"val {part}")
        val = set(order[:held].tolist())
        for place, scene in enumerate(scenes):
            other = "val" if place in val else "train"
            splits[scene] = "test" if part == card.test_part else other
    return splits


@dataclass(frozen=True)
class SceneFiles(Sequence[Scene]):
    """Scenes on disk, read one by one when they are asked for."""

    card: SceneCard
    folder: Path
    names: tuple[str, ...]
    released: bool = False
    clip: float = math.inf

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        name = self.names[index]
        how = {"released": True} if self.released else {}
        arrays = self.card.reader.read_scene(self.folder, name, **how)
        if self.clip < math.inf:
            kept = clip_to_cube(torch.from_numpy(arrays[0]), self.clip).numpy()
            arrays = tuple(array[kept] for array in arrays)
        return Scene(name, *arrays)


def scene_hash(name: str, root: str | Path | None = None) -> str:
    """Return one SHA-256 over the content of a set of scenes, as its manifest names it.

    Files that changed since they were last read are read and checked.
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
