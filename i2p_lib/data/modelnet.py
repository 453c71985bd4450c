"""Reader of ModelNet40's HDF5 layout: checks a folder, then reads one split of it, once a process.

The layout, of `modelnet40_ply_hdf5_2048` and of the embedded home_objects alike:

    ply_data_{train,val,test}*.h5     `data` [N, P, 3] float32 and `label` [N, 1] or [N] integer
    {train,val,test}_files.txt        (may be absent) names of those files; others are left out
    shape_names.txt                   class names, one a line, in label order
    manifest.json                     (may be absent) {"files": {name: SHA-256}}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath

import numpy as np

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.hdf5 import read_arrays
from i2p_lib.data.manifests import MANIFEST, check_files, read_manifest
from i2p_lib.files import note

SPLITS = ("train", "val", "test", "trainval")
VAL_SHARE = 0.10  # of each class of train, where the data set has no val files of its own
VAL_SEED = 20220  # fixes which clouds these are


@dataclass(frozen=True)
class PointCloudSet:
    """One split of a classification set; the arrays are read-only.

    points: [N, P, 3 + F] float32, x, y and z in the units of the files and then F features;
    labels: [N] int64.
    """

    name: str
    split: str
    points: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@lru_cache(maxsize=16)
def load_folder(folder: Path, name: str, split: str) -> PointCloudSet:
    """Return split "train", "val", "test" or "trainval" of the set in an absolute `folder`.

    Without val files, val is a stratified VAL_SHARE of the train files fixed by VAL_SEED, and
    train the rest of them (a class's only cloud, too); "trainval" is all that is not test (what
    the released code trains on).
    Where there is a manifest.json its files are checked.

    Raises FileNotFoundError for a missing and ValueError for a damaged file, which both name.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    class_names = read_class_names(folder)
    check_manifest(folder)
    own_val = bool(list(folder.glob("ply_data_val*.h5")))
    stems = ["train", "val"] if split == "trainval" else [split]
    if not own_val and split != "test":
        stems = ["train"]
    files = [file for stem in stems for file in data_files(folder, stem)]
    parts = [read_file(file, len(class_names)) for file in files]
    sizes = {points.shape[1] for points, _ in parts}
    if len(sizes) > 1:
        raise ValueError(f"{folder}: clouds of one split have different sizes {sorted(sizes)}")
    points, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if split in ("train", "val") and not own_val:
        alone = np.flatnonzero(np.bincount(labels) == 1)
        if len(alone):
            note(f"{folder}: one cloud each, which stays in train, so that val has none: "
                 f"{', '.join(class_names[label] for label in alone)}")  # fmt: skip
        held = held_out(labels)
        if not len(held):
            raise ValueError(f"{folder}: val is taken from classes of two clouds or more, and no "
                             "class of train has two: add clouds, or ply_data_val0.h5")
        chosen = np.isin(np.arange(len(labels)), held) == (split == "val")
        points, labels = points[chosen], labels[chosen]
    for array in (points, labels):
        array.setflags(write=False)
    return PointCloudSet(name, split, points, labels, class_names)


def data_files(folder: Path, stem: str, needed: bool = True) -> list[Path]:
    """Return the sorted HDF5 files of "train", "val" or "test".

    Where `{stem}_files.txt` names some, others are left out.
    Raises FileNotFoundError where one that it names is gone, or there is none and one is `needed`.
    """
    found = {file.name for file in folder.glob(f"ply_data_{stem}*.h5")}
    listing = folder / f"{stem}_files.txt"
    listed = {PureWindowsPath(line).name for line in (_lines(listing) if listing.exists() else ())}
    names = listed or found
    if names - found or (needed and not names):
        raise FileNotFoundError(
            f"{folder}: expected {', '.join(sorted(names - found)) or f'ply_data_{stem}*.h5'}, "
            f"found {', '.join(sorted(found)) or 'none'}; "
            "copy the whole data set into that folder again"
        )
    if found - names:
        note(f"{listing} does not name {', '.join(sorted(found - names))}: left out")
    return [folder / name for name in sorted(names)]


def read_class_names(folder: Path) -> tuple[str, ...]:
    """Return the class names of shape_names.txt."""
    path = folder / "shape_names.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it belongs to the data set's folder")
    names = tuple(_lines(path))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected one distinct class name a line, got {list(names)}")
    return names


def _lines(path: Path) -> list[str]:
    """Return the lines of a text that say something, without the blanks around them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text in UTF-8: save it as such ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def read_file(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (points [N, P, 3] float32, labels [N] int64) of one HDF5 file, checked.

    Raises ValueError naming the file and what is wrong with it.
    """
    points, labels = read_arrays(path, ("data", "label"), "copy or build it again")
    if points.dtype.kind == "f" and points.dtype != np.float32:
        note(f"{path.parent}: 'data' is {points.dtype}, read as float32")
        with np.errstate(over="ignore"):  # it becomes infinite, which is refused below
            points = points.astype(np.float32)
    if points.ndim != 3 or points.shape[2] < 3 or points.dtype != np.float32 or not points.size:
        raise ValueError(f"{path}: 'data': expected [N, P, 3 or more] float32, got "
                         f"{list(points.shape)} {points.dtype}; a cloud has at least one point")
    same = (points == points[:, :1]).all(axis=(1, 2)) & (points.shape[1] > 1)
    for bad, what in ((~np.isfinite(points).all(axis=(1, 2)), "hold NaN or infinite coordinates"),
                      (same, "are empty (all points equal)")):  # fmt: skip
        if bad.any():
            raise ValueError(f"{path}: 'data': {int(bad.sum())} clouds {what}, "
                             f"the first is number {int(bad.argmax())}")
    if labels.shape not in ((len(points), 1), (len(points),)) or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: 'label': expected [{len(points)}, 1] of an integer type, "
                         f"got {list(labels.shape)} {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{path}: 'label': expected 0 to {classes - 1} (shape_names.txt has "
                         f"{classes} names), got {labels.min()} to {labels.max()}")
    return points, labels.reshape(-1).astype(np.int64)


def held_out(labels: np.ndarray) -> np.ndarray:
    """Return the sorted indices of the val clouds: VAL_SHARE of each class, fixed by VAL_SEED.

    At least one of a class, but never its only cloud.
    """
    chosen = []
    for label in np.unique(labels):
        members = fixed_order(np.flatnonzero(labels == label), f"val {VAL_SEED} label {label}")
        chosen.append(members[: max(int(len(members) > 1), round(VAL_SHARE * len(members)))])
    return np.sort(np.concatenate(chosen))


def check_manifest(folder: Path) -> dict[str, str]:
    """Hold a folder against its manifest, if it has one; return the SHA-256 of each file it names.

    Raises as `read_manifest` and `check_files` do.
    """
    files = read_manifest(folder)["files"] if (folder / MANIFEST).is_file() else {}
    check_files(folder, files)
    return files
