"""Reader of ModelNet40's HDF5 layout: checks a folder, then reads one split of it, once a process.

The layout, of `modelnet40_ply_hdf5_2048` and of the embedded home_objects alike:

    ply_data_{train,val,test}*.h5     `data` [N, P, 3] float32 and `label` [N, 1] or [N] integer
    {train,val,test}_files.txt        (may be absent) names of those files
    shape_names.txt                   class names, one a line, in label order
    manifest.json                     (may be absent) {"files": {name: SHA-256}}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.manifests import MANIFEST, check_files, read_manifest

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
    train the rest of them; "trainval" is all that is not test (what the released code trains on).
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
        chosen = np.isin(np.arange(len(labels)), held_out(labels)) == (split == "val")
        points, labels = points[chosen], labels[chosen]
    for array in (points, labels):
        array.setflags(write=False)
    return PointCloudSet(name, split, points, labels, class_names)


def data_files(folder: Path, stem: str) -> list[Path]:
    """Return the sorted HDF5 files of "train", "val" or "test".

    Raises FileNotFoundError where there is none, or where `{stem}_files.txt` names one more.
    """
    files = sorted(folder.glob(f"ply_data_{stem}*.h5"))
    listing = folder / f"{stem}_files.txt"
    listed = listing.read_text(encoding="utf-8").split() if listing.exists() else []
    absent = sorted({Path(line).name for line in listed} - {file.name for file in files})
    if absent or not files:
        raise FileNotFoundError(
            f"{folder}: expected {', '.join(absent) or f'ply_data_{stem}*.h5'}, "
            f"found {', '.join(file.name for file in files) or 'none'}; "
            "copy the whole data set into that folder again"
        )
    return files


def read_class_names(folder: Path) -> tuple[str, ...]:
    """Return the class names of shape_names.txt."""
    path = folder / "shape_names.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it belongs to the data set's folder")
    names = tuple(path.read_text(encoding="utf-8").split())
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected one distinct class name a line, got {list(names)}")
    return names


def read_file(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (points [N, P, 3] float32, labels [N] int64) of one HDF5 file, checked.

    Raises ValueError naming the file and what is wrong with it.
    """
    try:
        with h5py.File(path, "r") as file:
            points, labels = file["data"][()], file["label"][()]
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole HDF5 file ({path.stat().st_size} bytes; {error}) with 'data' "
            "and 'label'; it may be cut short: copy or build it again"
        ) from error
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
    """Return the sorted indices of the val clouds: VAL_SHARE of each class, fixed by VAL_SEED."""
    chosen = []
    for label in np.unique(labels):
        members = fixed_order(np.flatnonzero(labels == label), f"val {VAL_SEED} label {label}")
        chosen.append(members[: max(1, round(VAL_SHARE * len(members)))])
    return np.sort(np.concatenate(chosen))


def check_manifest(folder: Path) -> dict[str, str]:
    """Hold a folder against its manifest, if it has one; return the SHA-256 of each file it names.

    Raises as `read_manifest` and `check_files` do.
    """
    files = read_manifest(folder)["files"] if (folder / MANIFEST).is_file() else {}
    check_files(folder, files)
    return files
