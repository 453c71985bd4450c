"""Which sets there are: a card for each (source, licence, how to get it); the way in to clouds."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, ValidationError

from i2p_lib.data.cloud_files import CloudFile
from i2p_lib.data.making import data_folder
from i2p_lib.data.manifests import combined_hash
from i2p_lib.data.modelnet import PointCloudSet, check_manifest, data_files, load_folder
from i2p_lib.files import sha256

HERE = Path(__file__).resolve().parent
CARD = "card.yml"
"""The card of a set that was built from a folder of your own, in that set's folder."""
SOURCES = "sources.csv"
"""Beside it: file, class and split of each cloud, in the order of the splits' clouds."""


class Card(BaseModel, frozen=True, extra="forbid", strict=True):
    """What a reader wants to know before using a set: one file in CARDS, with the set's name.

    splits: what each split holds; made_by: the script that `i2p data get` runs; folder: the name
    of the set's folder, where it is not the set's; embedded: whether it comes with this package.
    """

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
_KNOWN: dict[tuple[type, str], Card] = {}  # cards that runs tell of, see `know`


@lru_cache(maxsize=2)
def cards(kind: type[Kind]) -> dict[str, Kind]:
    """Return {name: card} of all sets of a kind.

    A card `like` another says only in what it differs.  Raises ValueError, naming the file and
    every wrong field, for a card that is none.
    """
    files = sorted(kind.CARDS.glob("*.yml"))
    return {file.stem: read_card(kind, file, file.stem) for file in files}


def read_card(kind: type[Kind], file: Path, name: str) -> Kind:
    """Read one card; raises as `cards` does."""
    try:
        facts = {"name": name, **yaml.safe_load(file.read_text(encoding="utf-8"))}
        if like := facts.pop("like", None):
            other = file.with_name(f"{like}.yml").read_text(encoding="utf-8")
            facts = yaml.safe_load(other) | facts
        return kind.model_validate(facts)
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        raise ValueError(f"{file} is no card: {error}") from error


def named_card(kind: type[Kind], name: str) -> Kind:
    """Return the card of a set: of the book, or of your own that lies in the data folder.

    Raises ValueError, with the known names, for an unknown one.
    """
    if name in cards(kind):
        return cards(kind)[name]
    own = data_folder(name) / CARD
    if name and Path(name).name == name and own.is_file():
        return read_card(kind, own, name)
    if (kind, name) in _KNOWN:
        return _KNOWN[kind, name]
    raise ValueError(f"{kind.KIND}: expected one of {', '.join(cards(kind))}, or the name of a set "
                     f"of your own that was built from a folder, got {name!r}")  # fmt: skip


_TURNS = {"": [0, 1, 2], "z": [0, 1, 2], "y": [0, 2, 1], "x": [1, 2, 0]}
"""Which axes become x, y and z, so that z is up; of y the new y points the other way."""


class DatasetCard(Card):
    """The card of a point set.

    splits: number of clouds in the files of each; points: of each cloud; up: the axis that points
    up in its files.  features: what a point has beside x, y and z.
    center, unit_sphere, source_up: how a cloud came into the set, see `prepared`; source_up is the
    axis that was up before ("": the same).
    voxel_size: a suggestion, and why (voxel_note).  notes: what else to know of it.
    """

    CARDS: ClassVar[Path] = HERE / "cards"
    KIND: ClassVar[str] = "data set"

    splits: dict[str, int]
    classes: int
    points: int
    up: str
    features: Annotated[tuple[str, ...], Field(strict=False)] = ()
    center: bool = True
    unit_sphere: bool = True
    source_up: str = ""
    voxel_size: float | None = None
    voxel_note: str = ""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @property
    def channels(self) -> int:
        """The number of features of a point: x, y, z and `features`."""
        return 3 + len(self.features)

    def prepared(self, cloud: CloudFile, seed: int) -> np.ndarray:
        """Return a cloud of a file as those of the set are: float32 [points, 3 + F].

        Points are drawn by `seed`; z is turned up where another axis was; the mean is moved to the
        origin (center) and the farthest point onto the unit sphere (unit_sphere).
        Raises ValueError where the file lacks a feature of the set.
        """
        if lacks := [name for name in self.features if name not in cloud.features]:
            raise ValueError(f"expected the features {', '.join(self.features)}, which "
                             f"{self.name} has; the file lacks {', '.join(lacks)}")
        every = cloud.drawn(self.points, seed, self.features)
        every[:, :3] = every[:, _TURNS[self.source_up]]
        if self.source_up == "y":
            every[:, 1] *= -1
        if self.center:
            every[:, :3] -= every[:, :3].mean(axis=0)
        radius = np.linalg.norm(every[:, :3], axis=1).max()
        if self.unit_sphere and radius > 0:
            every[:, :3] /= radius
        return every.astype(np.float32)

    def opened(self, root: str | Path | None = None) -> Path:
        """Return the set's folder; FileNotFoundError, with what to do, where it is not here."""
        folder = self.root(root)
        if not folder.is_dir():
            raise FileNotFoundError(f"data set {self.name}: no folder {folder}; {self.how_to_get}, "
                                    "so that ply_data_train0.h5 and shape_names.txt lie in that "
                                    "folder (or set I2P_DATA to the folder that holds it)")
        return folder


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows."""
    return tuple(cards(DatasetCard))


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a data set; ValueError for an unknown name."""
    return named_card(DatasetCard, name)


def know(card: Card) -> None:
    """Let a card be found by its name in this process, where its set is not here."""
    _KNOWN[type(card), card.name] = card


def cloud_names(name: str, split: str) -> tuple[str, ...]:
    """Return the names of the files that a split of your own set came from; () of other sets."""
    file = dataset_card(name).root() / SOURCES
    if not file.is_file():
        return ()
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return tuple(table.loc[table["split"] == split, "file"])


def load_dataset(name: str, split: str, root: str | Path | None = None) -> PointCloudSet:
    """Return one split ("train", "val", "test" or "trainval") of a data set, read once a process.

    ModelNet40 has no val files: val is a stratified 10 % of train by a fixed seed (see
    `modelnet.held_out`), and "trainval" is its whole train set.

    >>> load_dataset("home_objects", "test").points.shape
    (125, 2048, 3)

    Raises ValueError for unknown names and damaged files, FileNotFoundError for missing ones.
    """
    card = dataset_card(name)
    found = load_folder(card.opened(root), name, split)
    if (width := found.points.shape[2]) != card.channels:
        features = ", ".join(("x", "y", "z", *card.features))
        raise ValueError(f"{card.root(root)}: 'data': expected [N, P, {card.channels}] "
                         f"({features}), got {width} columns")  # fmt: skip
    return found


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
