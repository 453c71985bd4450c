"""What sets of scenes share: the form of a card, and which scenes are in which split.

`manifest.json` of a set, written last:

    layout        whose files these are, such as "s3dis"
    scenes_in     the folder of the files; "." is the manifest's own
    scenes        points of each scene by its name
    class_points  labelled points of each class, and of none as the last number
    repairs       lines that were repaired: file, line, what it was, what was read
    files         SHA-256 of each file by its name in `scenes_in`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.manifests import MANIFEST, read_manifest
from i2p_lib.data.registry import Card
from i2p_lib.data.scene_transforms import SceneAugment

IGNORED = -1  # the label of points that are not counted
_KEYS = ("layout", "scenes_in", "scenes", "class_points", "repairs", "files")


@dataclass(frozen=True, kw_only=True)
class SceneCard(Card):
    """The card of a set of scenes: what it is, and how the paper treats it.

    layout: the module that reads it.  made_by: the script that makes it; a simulated set is made
    on demand, a real one from its official files (`how_to_get`).  made_from: point sets whose
    content it rests on.
    augment: the released recipe's augmentation.  around_sensor: the origin is a sensor that points
    thin out from, and voxels count from it; else they count from the scene's middle.
    test_part: the part (area, sequence) that is the test split; val_share: how much of each other
    part is val: its end, where `val_last`, else scenes chosen by a hash of their place.
    sizes: published scenes of each split of a real set.
    typical_points: of one scene, for a forecast without the set.
    trained_too: classes that are ignored here, but that the released code trains; its mIoU leaves
    their points out and counts each of them as 1.
    """

    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    layout: str
    augment: SceneAugment
    test_part: str
    typical_points: int
    simulated: bool = False
    around_sensor: bool = False
    val_share: float = 0.10
    val_last: bool = False
    trained_too: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def released_names(self) -> tuple[str, ...]:
        """The names of all classes that the released code trains."""
        return self.class_names + self.trained_too

    def like(self, name: str, **facts: str | tuple[str, ...]) -> SceneCard:
        """Return the card of a set in this one's layout that a script makes from nothing."""
        how = f"`i2p data get {name}` generates it in about a minute"
        return replace(self, name=name, simulated=True, size_mb=30.0, how_to_get=how,
                       sizes={}, **facts)  # fmt: skip

    def opened(self, root: str | Path | None = None) -> tuple[Path, dict]:
        """Return the set's folder and its manifest.

        Raises FileNotFoundError (how to get it) and ValueError as `read_manifest` does, and
        ValueError for a set of another layout.
        """
        folder = self.root(root)
        try:
            manifest = read_manifest(folder, _KEYS)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"scenes {self.name}: {error}. To get it: {self.how_to_get}"
            ) from None
        if (found := manifest["layout"]) != self.layout:
            raise ValueError(
                f"{folder / MANIFEST}: expected the layout {self.layout}, got {found}"
            )
        return folder, manifest


def split_scenes(card: SceneCard, names: Iterable[str]) -> dict[str, str]:
    """Return "train", "val" or "test" for each scene, named such as Area_1/office_3 or 08/000123.

    Of each part but `card.test_part`, val is `card.val_share`, at least one scene of two or more.
    """
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(name.split("/")[0], []).append(name)
    splits = {}
    for part, scenes in parts.items():
        held = max(len(scenes) > 1, round(card.val_share * len(scenes)))
        order = np.arange(len(scenes))[::-1]
        if not card.val_last:
            order = fixed_order(order, f"val {part}")
        val = set(order[:held].tolist())
        for place, scene in enumerate(scenes):
            other = "val" if place in val else "train"
            splits[scene] = "test" if part == card.test_part else other
    return splits
