"""Which point sets there are: a card for each (source, licence, how to get it), and the way in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from i2p_lib.data.making import data_folder
from i2p_lib.data.manifests import combined_hash
from i2p_lib.data.modelnet import PointCloudSet, check_manifest, load_folder
from i2p_lib.files import sha256

CARDS = Path(__file__).resolve().parent / "cards"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader wants to know before using a set of clouds or of scenes.

    splits: what each split holds; made_by: the script that `i2p data get` runs.
    """

    name: str
    title: str
    source: str
    licence: str
    splits: dict[str, int] | dict[str, str]
    size_mb: float
    how_to_get: str
    made_by: str = ""

    def root(self, root: str | Path | None = None) -> Path:
        """Return the set's folder, there or not: `root`, or else as `data_folder` says."""
        return data_folder(self.name) if root is None else Path(root).expanduser().resolve()

    def text(self, state: str) -> str:
        """Return the card for people; state: such as "present"."""
        return (
            f"{self.name}: {self.title} [{state}]\n  {self.classes} classes, {self.size_mb:g} MB; "
            f"to get it: {self.how_to_get}\n"
            + "".join(f"  {split}: {what}\n" for split, what in self.splits.items())
            + f"  source: {self.source}\n  licence: {self.licence}"
        )


@dataclass(frozen=True, kw_only=True)
class DatasetCard(Card):
    """The card of a point set: one file in the folder `cards`, with the set's name.

    splits: number of clouds in the files of each; up: the axis that points up in its files;
    folder: the name of its folder; embedded: whether it comes with this package.
    """

    splits: dict[str, int]
    classes: int
    points: int
    up: str
    folder: str
    embedded: bool = False

    def root(self, root: str | Path | None = None) -> Path:
        """Return the set's folder, there or not: an embedded set lies in the package."""
        if root is not None:
            return super().root(root)
        return CARDS.parent / self.folder if self.embedded else data_folder(self.folder)

    def opened(self, root: str | Path | None = None) -> Path:
        """Return the set's folder; FileNotFoundError, with what to do, where it is not here."""
        folder = self.root(root)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"data set {self.name}: no folder {folder}; {self.how_to_get}, so that "
                "ply_data_train0.h5 and shape_names.txt lie in that folder (or set I2P_DATA to "
                "the folder that holds it)"
            )
        return folder


@lru_cache(maxsize=1)
def _cards() -> dict[str, DatasetCard]:
    cards = {}
    for file in sorted(CARDS.glob("*.yml")):
        try:
            facts = yaml.safe_load(file.read_text(encoding="utf-8"))
            cards[file.stem] = DatasetCard(name=file.stem, **facts)
        except (yaml.YAMLError, TypeError) as error:
            raise ValueError(f"{file} is no card of a data set: {error}") from error
    return cards


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows."""
    return tuple(_cards())


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a data set; ValueError for an unknown name."""
    if name not in _cards():
        raise ValueError(f"data set: expected one of {', '.join(_cards())}, got {name!r}")
    return _cards()[name]


def load_dataset(name: str, split: str, root: str | Path | None = None) -> PointCloudSet:
    """Return one split ("train", "val", "test" or "trainval") of a data set, read once a process.

    ModelNet40 has no val files: val is a stratified 10 % of train by a fixed seed (see
    `modelnet.held_out`), and "trainval" is its whole train set.

    >>> load_dataset("home_objects", "test").points.shape
    (125, 2048, 3)

    Raises ValueError for unknown names and damaged files, FileNotFoundError for missing ones.
    """
    return load_folder(dataset_card(name).opened(root), name, split)


def dataset_hash(name: str, root: str | Path | None = None) -> str:
    """Return one SHA-256 over all clouds, labels and class names of a data set (checked first)."""
    return _hash(dataset_card(name).opened(root))


@lru_cache(maxsize=16)
def _hash(folder: Path) -> str:
    known = check_manifest(folder)
    files = list(folder.glob("ply_data_*.h5"))
    if not files:
        raise FileNotFoundError(f"{folder}: expected ply_data_*.h5, found none")
    files.append(folder / "shape_names.txt")
    return combined_hash({f.name: known.get(f.name) or sha256(f) for f in files})
