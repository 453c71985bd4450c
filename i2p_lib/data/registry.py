"""Which data sets there are: a card for each (source, licence, how to get it), and the way in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from i2p_lib.data.modelnet import PointCloudSet, check_manifest, combined_hash, load_folder

PACKAGE_DATA = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DatasetCard:
    """What a reader wants to know before using a data set.

    splits: number of clouds in the files of each; up: the axis that points up in its files;
    embedded: whether it comes with this package; folder: the name of its folder.
    """

    name: str
    title: str
    source: str
    licence: str
    classes: int
    points: int
    splits: dict[str, int]
    size_mb: float
    up: str
    embedded: bool
    folder: str
    how_to_get: str


CARDS = {
    card.name: card
    for card in (
        DatasetCard(
            name="home_objects",
            title="Home objects: 510 everyday objects in 16 classes",
            source="Sweet Home 3D furniture catalogues 1.8 (Debian sweethome3d-furniture 1.8-1)",
            licence="CC0-1.0 and CC-BY-3.0 per object, see LICENSE.md and provenance.csv",
            classes=16,
            points=2048,
            splits={"train": 308, "val": 77, "test": 125},
            size_mb=6.4,
            up="z",
            embedded=True,
            folder="home_objects",
            how_to_get="comes with the package; data_scripts/build_home_objects.py builds it anew",
        ),
        DatasetCard(
            name="modelnet40",
            title="ModelNet40, sampled (modelnet40_ply_hdf5_2048)",
            source="Wu et al., 3D ShapeNets, CVPR 2015; sampled by the authors of PointNet",
            licence="research use only; the rights stay with the models' authors",
            classes=40,
            points=2048,
            splits={"train": 9840, "val": 0, "test": 2468},
            size_mb=435.0,
            up="y",
            embedded=False,
            folder="modelnet40_ply_hdf5_2048",
            how_to_get="`i2p data get modelnet40` fetches it (435 MB); without a network, "
            "unpack modelnet40_ply_hdf5_2048.zip",
        ),
        DatasetCard(
            name="kicad_parts",
            title="KiCad parts: 2,487 electronic parts in 42 classes",
            source="KiCad packages3D library 6.0.10 (Debian kicad-packages3d 6.0.10-1)",
            licence="CC-BY-SA-4.0 with KiCad's exception, see LICENSE.md and provenance.csv",
            classes=42,
            points=2048,
            splits={"train": 1686, "val": 312, "test": 489},
            size_mb=31.0,
            up="z",
            embedded=False,
            folder="kicad_parts",
            how_to_get="build it with `python data_scripts/build_kicad_parts.py` "
            "(a Debian package of 379 MB)",
        ),
    )
}


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows."""
    return tuple(CARDS)


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a data set; ValueError for an unknown name."""
    if name not in CARDS:
        raise ValueError(f"data set: expected one of {', '.join(CARDS)}, got {name!r}")
    return CARDS[name]


def dataset_root(name: str, root: str | Path | None = None) -> Path:
    """Return the folder with the data set's files, whether or not it exists.

    `root` is that folder itself.  Without it, an embedded set lies in the package, any other as
    `data_folder` says.
    """
    card = dataset_card(name)
    if root is not None:
        return Path(root).expanduser().resolve()
    return PACKAGE_DATA / card.folder if card.embedded else data_folder(card.folder)


def data_folder(name: str) -> Path:
    """Return `$I2P_DATA/<name>` or, without I2P_DATA, `<project root>/data_cache/<name>`."""
    if os.environ.get("I2P_DATA"):
        return Path(os.environ["I2P_DATA"]).expanduser().resolve() / name
    return _project_root() / "data_cache" / name


def load_dataset(name: str, split: str, root: str | Path | None = None) -> PointCloudSet:
    """Return one split ("train", "val", "test" or "trainval") of a data set, read once a process.

    ModelNet40 has no val files: val is a stratified 10 % of train by a fixed seed (see
    `modelnet.held_out`), and "trainval" is its whole train set.

    >>> load_dataset("home_objects", "test").points.shape
    (125, 2048, 3)

    Raises ValueError for unknown names and damaged files, FileNotFoundError for missing ones.
    """
    folder = _existing_root(name, root)
    return load_folder(folder, name, split, manifest=dataset_card(name).embedded)


def dataset_hash(name: str, root: str | Path | None = None) -> str:
    """Return one SHA-256 over all clouds, labels and class names of a data set (checked first)."""
    return _hash(_existing_root(name, root), dataset_card(name).embedded)


@lru_cache(maxsize=16)
def _hash(folder: Path, manifest: bool) -> str:
    known = check_manifest(folder, required=manifest)
    files = sorted(folder.glob("ply_data_*.h5"))
    if not files:
        raise FileNotFoundError(f"{folder}: expected ply_data_*.h5, found none")
    return combined_hash([*files, folder / "shape_names.txt"], known)


def _existing_root(name: str, root: str | Path | None) -> Path:
    folder = dataset_root(name, root)
    if not folder.is_dir():
        card = dataset_card(name)
        raise FileNotFoundError(
            f"data set {name}: no folder {folder}; "
            f"{card.how_to_get}, so that ply_data_train0.h5 and shape_names.txt lie in that folder "
            "(or set I2P_DATA to the folder that holds it)"
        )
    return folder


def _project_root() -> Path:
    """Return the checkout this package lies in, or the working folder where it is installed."""
    checkout = PACKAGE_DATA.parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
