"""Labelled scenes: what one is, which sets of them there are, and the one way in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from i2p_lib.data import s3dis, semantic_kitti
from i2p_lib.data.modelnet import combined_hash
from i2p_lib.data.registry import data_folder
from i2p_lib.data.scene_files import IGNORED, content_hash, read_manifest, scenes_folder

__all__ = [
    "IGNORED", "SPLITS", "Scene", "SceneCard", "convert_scenes", "describe_scenes", "load_scenes",
    "prepare_scenes", "scene_card", "scene_hash", "scene_names", "scene_root",
]  # fmt: skip

SPLITS = ("train", "val", "test", "trainval")


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
        count = len(self.points)
        for what, width, kind in (("points", 3, np.float32), ("features", None, np.float32)):
            array = getattr(self, what)
            wide = array.ndim == 2 and (width is None or array.shape[1] == width)
            if not wide or len(array) != count or array.dtype != kind:
                raise ValueError(
                    f"{self.name}: {what}: expected [{count}, {width or 'F'}] {kind.__name__}, "
                    f"got {list(array.shape)} {array.dtype}"
                )
        if self.labels.shape != (count,) or self.labels.dtype != np.int64:
            raise ValueError(
                f"{self.name}: labels: expected [{count}] int64, "
                f"got {list(self.labels.shape)} {self.labels.dtype}"
            )
        if not count:
            raise ValueError(f"{self.name}: expected at least one point, got none")
        if not np.isfinite(self.points).all():
            raise ValueError(f"{self.name}: points: NaN or infinite coordinates")
        if not (self.features.min(initial=0) >= 0 and self.features.max(initial=1) <= 1):
            raise ValueError(f"{self.name}: features: expected numbers in 0..1")
        if self.labels.min() < IGNORED:
            raise ValueError(f"{self.name}: labels: expected {IGNORED} or more")

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class SceneCard:
    """What a reader wants to know before using a set of scenes.

    splits: what each split holds; folder: the name of its folder; layout: whose files it has.
    """

    name: str
    title: str
    source: str
    licence: str
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    splits: dict[str, str]
    layout: str
    simulated: bool
    folder: str
    size_gb: float
    how_to_get: str


_ROOM_SPLITS = {
    "train": "Areas 1, 2, 3, 4 and 6, without val",
    "val": f"{s3dis.VAL_SHARE:.0%} of the rooms of each of these areas, fixed by their names",
    "test": "Area 5",
}
_STREET_SPLITS = {
    "train": "sequences 00 to 07, 09 and 10, without val",
    "val": f"the last {semantic_kitti.VAL_SHARE:.0%} of the scans of each of these sequences",
    "test": "sequence 08 (the official validation sequence; 11 to 21 have no public labels)",
}
CARDS = {
    card.name: card
    for card in (
        SceneCard(
            name="s3dis",
            title="S3DIS: 272 scanned rooms in six areas of three buildings, 13 classes",
            source="Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016; "
            "Stanford3dDataset_v1.2_Aligned_Version",
            licence="its own terms, agreed to in the form that gives access",
            class_names=s3dis.CLASS_NAMES,
            feature_names=("red", "green", "blue"),
            splits=_ROOM_SPLITS,
            layout="s3dis",
            simulated=False,
            folder="s3dis",
            size_gb=4.5,
            how_to_get="ask for Stanford3dDataset_v1.2_Aligned_Version.zip at "
            "http://buildingparser.stanford.edu/dataset.html, unpack it, then "
            "`i2p data get s3dis --from FOLDER`, the folder that holds Area_1 to Area_6",
        ),
        SceneCard(
            name="semantic_kitti",
            title="SemanticKITTI: 23,201 labelled scans of a 64-beam lidar, 19 classes",
            source="Behley et al., SemanticKITTI, ICCV 2019; scans of the KITTI odometry "
            "benchmark, Geiger et al., CVPR 2012",
            licence="CC BY-NC-SA 4.0 (labels), CC BY-NC-SA 3.0 (scans)",
            class_names=semantic_kitti.CLASS_NAMES,
            feature_names=("intensity",),
            splits=_STREET_SPLITS,
            layout="semantic_kitti",
            simulated=False,
            folder="semantic_kitti",
            size_gb=80.0,
            how_to_get="download data_odometry_velodyne.zip from "
            "https://www.cvlibs.net/datasets/kitti/eval_odometry.php and "
            "data_odometry_labels.zip from https://semantic-kitti.org/dataset.html, unpack both "
            "into one folder, then `i2p data get semantic_kitti --from FOLDER`, the folder that "
            "holds `sequences`",
        ),
        SceneCard(
            name="simulated_rooms",
            title="Simulated rooms: S3DIS's layout and classes, composed and scanned by a program",
            source="made here from the home objects by i2p_lib.data.simulated_rooms",
            licence="that of the home objects: CC0-1.0 and CC-BY-3.0 per object",
            class_names=s3dis.CLASS_NAMES,
            feature_names=("red", "green", "blue"),
            splits=_ROOM_SPLITS,
            layout="s3dis",
            simulated=True,
            folder="simulated_rooms",
            size_gb=0.03,
            how_to_get="`i2p data get simulated_rooms` generates it in about a minute",
        ),
        SceneCard(
            name="simulated_streets",
            title="Simulated streets: SemanticKITTI's layout and classes, ray-cast by a program",
            source="made here by i2p_lib.data.simulated_streets",
            licence="BSD-3-Clause, as the code that makes it",
            class_names=semantic_kitti.CLASS_NAMES,
            feature_names=("intensity",),
            splits=_STREET_SPLITS,
            layout="semantic_kitti",
            simulated=True,
            folder="simulated_streets",
            size_gb=0.03,
            how_to_get="`i2p data get simulated_streets` generates it in about a minute",
        ),
    )
}
_LAYOUTS = {"s3dis": s3dis, "semantic_kitti": semantic_kitti}


def scene_names() -> tuple[str, ...]:
    """Return the names that `load_scenes` knows."""
    return tuple(CARDS)


def scene_card(name: str) -> SceneCard:
    """Return the card of a set of scenes; ValueError for an unknown name."""
    if name not in CARDS:
        raise ValueError(f"scenes: expected one of {', '.join(CARDS)}, got {name!r}")
    return CARDS[name]


def scene_root(name: str, root: str | Path | None = None) -> Path:
    """Return the folder with the set's manifest, whether or not it exists.

    `root` is that folder itself; without it, see `i2p_lib.data.registry.data_folder`.
    """
    card = scene_card(name)
    return data_folder(card.folder) if root is None else Path(root).expanduser().resolve()


def load_scenes(name: str, split: str, root: str | Path | None = None) -> Sequence[Scene]:
    """Return the scenes of a split ("train", "val", "test", or "trainval": both of the first).

    Nothing is read before a scene is asked for, and nothing is kept: `[i]` reads one scene from
    disk, each time anew.  What is in which split follows from the scenes' names alone, see
    `SceneCard.splits`.

    Raises ValueError for unknown names, FileNotFoundError where the set is not here or not whole.
    """
    card = scene_card(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    folder, manifest = _open(card, root)
    splits = _LAYOUTS[card.layout].split_scenes(sorted(manifest["scenes"]))
    wanted = ("train", "val") if split == "trainval" else (split,)
    names = sorted(scene for scene, where in splits.items() if where in wanted)
    return SceneFiles(card.layout, scenes_folder(folder, manifest), tuple(names))


@dataclass(frozen=True)
class SceneFiles(Sequence[Scene]):
    """Scenes on disk, read one by one when they are asked for."""

    layout: str
    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        name = self.names[index]
        return Scene(name, *_LAYOUTS[self.layout].read_scene(self.folder, name))


def scene_hash(name: str, root: str | Path | None = None) -> str:
    """Return one SHA-256 over the content of a set of scenes, as its manifest names it.

    Files that changed since they were last read are read and checked, so a second call is cheap.
    Raises FileNotFoundError and ValueError for a set that is absent or damaged.
    """
    return content_hash(*_open(scene_card(name), root))


def _open(card: SceneCard, root: str | Path | None) -> tuple[Path, dict]:
    folder = scene_root(card.name, root)
    try:
        return folder, read_manifest(folder, card.layout)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"scenes {card.name}: {error}. To get it: {card.how_to_get}"
        ) from None


def describe_scenes(name: str, root: str | Path | None = None) -> str:
    """Return what a set of scenes holds: scenes and points of each split, classes, repairs."""
    card = scene_card(name)
    manifest = _open(card, root)[1]
    points, lines = manifest["scenes"], []
    splits = _LAYOUTS[card.layout].split_scenes(sorted(points))
    for split in SPLITS[:3]:
        members = [points[scene] for scene, where in splits.items() if where == split]
        lines.append(f"{split}: {len(members):,} scenes, {sum(members):,} points")
    labelled = manifest["class_points"][:-1]
    shares = (
        f"{kind} {100 * count / max(1, sum(labelled)):.2g} %"
        for kind, count in zip(card.class_names, labelled, strict=True)
    )
    lines.append(f"labelled points: {', '.join(shares)}")
    lines.append(f"points of no class: {manifest['class_points'][-1]:,}")
    lines += [
        f"repaired {one['file']}:{one['line']}: {one['was']} read as {one['read']}"
        for one in manifest["repairs"]
    ]
    return "\n".join(lines)


def convert_scenes(
    name: str, source: Path, root: str | Path | None = None, part: bool = False,
    workers: int = 1, progress: bool = True,
) -> Path:  # fmt: skip
    """Make S3DIS or SemanticKITTI from its official folder `source`; return the set's folder.

    See `s3dis.convert` and `semantic_kitti.convert`, which say what is checked and raised.
    Raises ValueError for a simulated set, RuntimeError while another process makes the same one.
    """
    card, folder = scene_card(name), scene_root(name, root)
    if card.simulated:
        raise ValueError(f"scenes {name}: it is generated, and takes no folder, got {source}")
    try:
        with _lock(folder, timeout=0):
            _LAYOUTS[card.layout].convert(Path(source), folder, part, workers, progress)
    except Timeout:
        raise RuntimeError(f"another process is making {folder} now; wait for it") from None
    return folder


def prepare_scenes(name: str, progress: bool = True) -> Path:
    """Return the folder of a set of scenes; a simulated one is made where it is not there.

    It is generated, converted and checked once: of processes that ask at once one works and the
    others wait; an interrupted one goes on; the set has its name only when it is whole, and is
    made anew where its generator or its settings changed.

    Raises FileNotFoundError (how to get it) for a real set that is not here.
    """
    card, folder = scene_card(name), scene_root(name)
    if not card.simulated:
        return _open(card, None)[0]
    with _lock(folder, timeout=-1):
        if not _is_made(card, folder):
            _simulate(card, folder, progress)
    return folder


def _lock(folder: Path, timeout: float) -> FileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock", timeout=timeout)


SETTINGS = {"simulated_rooms": {"seed": 0}, "simulated_streets": {"seed": 0}}
"""What the generators of the simulated sets are asked for; the rest is their default."""


def _settings(card: SceneCard) -> dict:
    """Return what a simulated set is made with: its settings, and a hash of its generator."""
    kind = card.name.removeprefix("simulated_").rstrip("s")
    sources = list(Path(__file__).parent.glob(f"*{kind}*.py"))
    return SETTINGS[card.name] | {"generator": combined_hash(sources)[:16]}


def _is_made(card: SceneCard, folder: Path) -> bool:
    try:
        return read_manifest(folder, card.layout)["settings"] == _settings(card)
    except (FileNotFoundError, ValueError):
        return False


def _simulate(card: SceneCard, folder: Path, progress: bool) -> None:
    """Generate a set beside `folder`, convert it as a real one, and give it its name."""
    settings = _settings(card)
    work = folder.parent / f".{folder.name}-{settings['generator']}"
    made, whole = work / "official", work / "set"
    if card.layout == "s3dis":
        from i2p_lib.data.simulated_rooms import simulate_rooms as simulate
    else:
        from i2p_lib.data.simulated_streets import simulate_streets as simulate

        whole = made  # scans are read where they are made
    simulate(made, **SETTINGS[card.name], progress=progress)
    _LAYOUTS[card.layout].convert(made, whole, True, 1, progress, settings)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(whole, folder)
    shutil.rmtree(work)
