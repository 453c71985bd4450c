"""Which clouds a folder of your own holds: their files, classes and splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from i2p_lib.data.cloud_files import FORMATS, CloudFile, checked, columns_of, read_cloud

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val",
               "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
"""Folders that are splits, and which; all others are classes."""


@dataclass(frozen=True)
class OwnFile:
    """A file of a folder, or a cloud (item) of an .h5 file; split is "" where none is given."""

    path: Path
    label: str
    split: str
    item: int | None = None

    def name(self, root: Path) -> str:
        """Return the file's name within a folder, with slashes."""
        inside = self.path.relative_to(root).as_posix() if self.path != root else root.name
        return inside if self.item is None else f"{inside}[{self.item}]"

    def read(self) -> CloudFile:
        """Return what the file holds; raises as `read_cloud` does."""
        if self.item is None:
            return read_cloud(self.path)
        with h5py.File(self.path, "r") as file:
            return checked(columns_of(file["data"][self.item]))


def found_files(root: Path) -> tuple[list[OwnFile], list[dict[str, str]]]:
    """Return the clouds below a folder (or in an .h5 file), and what is left alone, with reasons.

    The class of a file is the first folder above it that is no split.  Hidden files are not listed.
    Raises ValueError where there are no two classes, or splits that do not fit together.
    """
    if root.is_file():
        return list(_items(root)), []
    found, skipped = [], []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_dir() or any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            continue
        above = inside.parts[:-1]
        classes = [part for part in above if part.lower() not in SPLIT_NAMES]
        if not path.is_file():
            skipped.append({"file": inside.as_posix(), "reason": "leads to no file"})
        elif path.suffix.lower() in (".h5", ".hdf5"):
            skipped.append({"file": inside.as_posix(), "reason": "is a set of its own: give it "
                            "instead of the folder"})  # fmt: skip
        elif path.suffix.lower() not in FORMATS:
            skipped.append({"file": inside.as_posix(), "reason": "no cloud by its ending"})
        elif not classes:
            skipped.append({"file": inside.as_posix(), "reason": "lies in no folder of a class"})
        else:
            found.append(OwnFile(path, classes[0], split_of(above)))
    labels, given = {file.label for file in found}, {file.split for file in found}
    if len(labels) < 2:
        raise ValueError(
            f"{root}: expected a folder for each of two or more classes, with files of "
            f"{' '.join(FORMATS)}; got {sorted(labels) or 'none'}"
            + (f" and {len(skipped)} other files, such as {skipped[0]['file']}" if skipped else "")
        )
    if "" in given and len(given) > 1:
        outside = next(file for file in found if not file.split)
        raise ValueError(f"{root}: some files lie in train, val or test and some do not, such as "
                         f"{outside.name(root)}: put all into one, or none")  # fmt: skip
    if not given & {"", "train"}:
        raise ValueError(f"{root}: expected a folder train, got {sorted(given)}")
    return found, skipped


def split_of(folders: Sequence[str]) -> str:
    """Return the split that the first such folder names, "" where none does."""
    return next((SPLIT_NAMES[one.lower()] for one in folders if one.lower() in SPLIT_NAMES), "")


def _items(path: Path) -> Iterator[OwnFile]:
    """The clouds of an .h5 file."""
    try:
        with h5py.File(path, "r") as file:
            data, label = file.get("data"), file.get("label")
            if not (isinstance(data, h5py.Dataset) and isinstance(label, h5py.Dataset)):
                raise ValueError(f"got {sorted(file)}")
            if data.ndim != 3 or data.shape[2] < 3 or label.size != len(data) or not len(data):
                raise ValueError(f"got {list(data.shape)} and {list(label.shape)}")
            if label.dtype.kind not in "iu":
                raise ValueError(f"got labels of {label.dtype}")
            labels = label[()].reshape(-1).astype(int)
            names = [one.decode() if isinstance(one, bytes) else str(one)
                     for one in file.get("class_names", ())]  # fmt: skip
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected an .h5 file with 'data' [N, P, 3 or more] and an "
                         f"integer 'label' [N]: {error}") from error  # fmt: skip
    width = len(str(labels.max()))
    for item, number in enumerate(labels):
        named = names[number] if 0 <= number < len(names) else f"class {number:0{width}d}"
        yield OwnFile(path, named, "", item)
