"""What sets of scenes share: the form of a card, the splits, the manifest and its hash.

`manifest.json` of a set, written last:

    layout        whose files these are, such as "s3dis"
    scenes_in     the folder of the files; "." is the manifest's own
    scenes        points of each scene by its name
    class_points  labelled points of each class, and of none as the last number
    repairs       lines that were repaired: file, line, what it was, what was read
    files         SHA-256 of each file by its name in `scenes_in`
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.manifests import MANIFEST, check_files, combined_hash, read_manifest, stamps
from i2p_lib.data.scene_transforms import SceneAugment
from i2p_lib.files import atomic_write

IGNORED = -1  # the label of points that are not counted
_STAMPS = ".verified.json"
_KEYS = {"layout", "scenes_in", "scenes", "class_points", "repairs", "files"}


@dataclass(frozen=True)
class SceneCard:
    """What a reader wants to know before using a set of scenes, and how the paper treats it.

    name: also that of its folder; splits: what each split holds; layout: the module that reads it.
    made_by: the script that makes it; a simulated set is made on demand, a real one from its
    official files (`how_to_get`).  made_from: point sets whose content it rests on.
    augment: the released recipe's augmentation.  around_sensor: the origin is a sensor that points
    thin out from, and voxels count from it; else they count from the scene's middle.
    test_part: the part (area, sequence) that is the test split; val_share: how much of each other
    part is val: its end, where `val_last`, else scenes chosen by a hash of their place.
    sizes: published scenes of each split of a real set.
    typical_points: of one scene, for a forecast without the set.
    perfect_classes: ignored classes that the released code's mIoU counts as perfect.
    """

    name: str
    title: str
    source: str
    licence: str
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    splits: dict[str, str]
    layout: str
    size_gb: float
    how_to_get: str
    made_by: str
    augment: SceneAugment
    test_part: str
    typical_points: int
    simulated: bool = False
    around_sensor: bool = False
    val_share: float = 0.10
    val_last: bool = False
    perfect_classes: int = 0
    made_from: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)

    def text(self, state: str) -> str:
        """Return the card for people; state: such as "present"."""
        return (
            f"{self.name}: {self.title} [{state}]\n  {len(self.class_names)} classes, "
            f"{1000 * self.size_gb:g} MB; to get it: {self.how_to_get}\n"
            + "".join(f"  {split}: {what}\n" for split, what in self.splits.items())
            + f"  source: {self.source}\n  licence: {self.licence}"
        )


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


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest of a set that is whole, and note that its files were just hashed."""
    if set(manifest) != _KEYS:
        raise ValueError(f"a manifest has the keys {sorted(_KEYS)}, got {sorted(manifest)}")
    with atomic_write(folder / MANIFEST) as temp:
        temp.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    _write_stamps(folder, stamps(scenes_folder(folder, manifest), manifest["files"]))


def read_scenes_manifest(folder: Path, layout: str) -> dict:
    """Return the manifest of a set.

    Raises as `read_manifest` does, and ValueError for a set of another layout.
    """
    manifest = read_manifest(folder, _KEYS)
    if manifest["layout"] != layout:
        found = manifest["layout"]
        raise ValueError(f"{folder / MANIFEST}: expected the layout {layout}, got {found}")
    return manifest


def scenes_folder(folder: Path, manifest: dict) -> Path:
    """Return the folder that holds the files of a manifest."""
    return (folder / manifest["scenes_in"]).resolve()


def content_hash(folder: Path, manifest: dict) -> str:
    """Return one SHA-256 over the names and contents of a set's files.

    A file is read where its size or time differ from those at its last check, which are kept beside
    the manifest where the folder can be written.  Raises as `check_files` does.
    """
    try:
        known = dict(json.loads((folder / _STAMPS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        known = {}
    now = check_files(scenes_folder(folder, manifest), manifest["files"], known)
    if now != known:
        with contextlib.suppress(OSError):  # else the next process checks anew
            _write_stamps(folder, now)
    return combined_hash(manifest["files"])


def _write_stamps(folder: Path, found: dict[str, list]) -> None:
    with atomic_write(folder / _STAMPS) as temp:
        temp.write_text(json.dumps(found), encoding="utf-8")
