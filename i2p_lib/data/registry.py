"""Which sets there are: a card for each (source, licence, how to get it); the way in to clouds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from i2p_lib.data.making import data_folder
from i2p_lib.data.manifests import combined_hash
from i2p_lib.data.modelnet import PointCloudSet, check_manifest, data_files, load_folder
from i2p_lib.files import sha256

HERE = Path(__file__).resolve().parent


class Card(BaseModel):
    """What a reader wants to know before using a set: one file in CARDS, with the set's name.

    splits: what each split holds; made_by: the script that `i2p data get` runs; folder: the name
    of the set's folder, where it is not the set's; embedded: whether it comes with this package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    CARDS: ClassVar[Path]
    KIND: ClassVar[str]
    MARK: ClassVar[str] = "."  # what lies in the folder of a set that is here

    name: str
    title: str
    source: str
    licence: str
    splits: dict[str, int] | dict[str, str]
    size_mb: float
    how_to_get: str
    made_by: str = ""
    folder: str = ""
    embedded: bool = False

    def root(self, root: str | Path | None = None) -> Path:
        """Return the set's folder, there or not: `root`, in the package, or see `data_folder`."""
        if root is not None:
            return Path(root).expanduser().resolve()
        name = self.folder or self.name
        return HERE / name if self.embedded else data_folder(name)

    def text(self) -> str:
        """Return the card for people; it says whether the set is here."""
        state = "present" if (self.root() / self.MARK).exists() else "absent"
        return (
            f"{self.name}: {self.title} [{state}]\n  {self.classes} classes, {self.size_mb:g} MB; "
            f"to get it: {self.how_to_get}\n"
            + "".join(f"  {split}: {what}\n" for split, what in self.splits.items())
            + f"  source: {self.source}\n  licence: {self.licence}"
        )


Kind = TypeVar("Kind", bound=Card)


@lru_cache(maxsize=2)
def cards(kind: type[Kind]) -> dict[str, Kind]:
    """Return {name: card} of all sets of a kind.

    A card `like` another says only in what it differs.  Raises ValueError, naming the file and
    every wrong field, for a card that is none.
    """
    found = {}
    for file in sorted(kind.CARDS.glob("*.yml")):
        try:
            facts = {"name": file.stem, **yaml.safe_load(file.read_text(encoding="utf-8"))}
            if like := facts.pop("like", None):
                other = file.with_name(f"{like}.yml").read_text(encoding="utf-8")
                facts = yaml.safe_load(other) | facts
            found[file.stem] = kind.model_validate(facts)
        except (yaml.YAMLError, TypeError, ValidationError) as error:
            raise ValueError(f"{file} is no card: {error}") from error
    return found


def named_card(kind: type[Kind], name: str) -> Kind:
    """Return the card of a set; ValueError, with the known names, for an unknown one."""
    if name not in cards(kind):
        raise ValueError(f"{kind.KIND}: expected one of {', '.join(cards(kind))}, got {name!r}")
    return cards(kind)[name]


class DatasetCard(Card):
    """The card of a point set.

    splits: number of clouds in the files of each; up: the axis that points up in its files.
    """

    CARDS: ClassVar[Path] = HERE / "cards"
    KIND: ClassVar[str] = "data set"

    splits: dict[str, int]
    classes: int
    points: int
    up: str

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


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows."""
    return tuple(cards(DatasetCard))


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a data set; ValueError for an unknown name."""
    return named_card(DatasetCard, name)


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
    files = [file for stem in ("train", "val", "test") for file in data_files(folder, stem, False)]
    if not files:
        raise FileNotFoundError(f"{folder}: expected ply_data_*.h5, found none")
    files.append(folder / "shape_names.txt")
    return combined_hash({f.name: known.get(f.name) or sha256(f) for f in files})
