"""Get ModelNet40: fetch or find modelnet40_ply_hdf5_2048.zip, unpack it with care, check it.

The archive (435 MB) is the one given, else taken from beside the folder, else from the first
mirror that has it; an interrupted download goes on.  Of the archive come only the data set's own
files; absolute names, `..`, links and files of absurd size end the work before anything is
written.  The published hashes, 9,840 train and 2,468 test clouds of 2,048 points, the unit sphere
and the classes' counts are checked, then manifest.json is written.  Repeat it at will.

examples:
  python data_scripts/get_modelnet40.py
  python data_scripts/get_modelnet40.py ~/Downloads/modelnet40_ply_hdf5_2048.zip
  python data_scripts/get_modelnet40.py --mirror https://example.org/modelnet40_ply_hdf5_2048.zip
  python data_scripts/get_modelnet40.py --output /data/modelnet40_ply_hdf5_2048

The same as `i2p data get modelnet40`, with more choices.

Facts: the archive `modelnet40_ply_hdf5_2048.zip` of PointNet's authors.  No SHA-256 of it is
published; its MD5 is in the loaders of PointNeXt and others, those of its files in torchvision
style loaders.  The authors' own address has had no valid certificate for years (PointNet's issues
128, 268, 308), the second is a copy that a user put on Hugging Face in 2023.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from _scenes import status_of
from get_weights import fetch_card
from tqdm.auto import tqdm

from i2p_lib.data.making import folder_lock
from i2p_lib.data.modelnet import check_manifest, data_files, read_class_names, read_file
from i2p_lib.data.registry import dataset_card, dataset_hash
from i2p_lib.files import atomic_write, sha256
from i2p_lib.weights import WeightCard

ARCHIVE = "modelnet40_ply_hdf5_2048.zip"
MIRRORS = (
    f"https://shapenet.cs.stanford.edu/media/{ARCHIVE}",
    f"https://huggingface.co/datasets/Msun/modelnet40/resolve/main/{ARCHIVE}",
)
ARCHIVE_MD5 = "c9ab8e6dfb16f67afdab25e155c79e59"
FILE_MD5 = {
    "ply_data_train0.h5": "3176385ffc31a7b6b5af22191fd920d1",
    "ply_data_train1.h5": "e3f613fb500559403b34925112754dc4",
    "ply_data_train2.h5": "0c56e233a090ff87c3049d4ce08e7d8b",
    "ply_data_train3.h5": "9d2af465adfa33a3285c369f3ca66c45",
    "ply_data_train4.h5": "dff38de489b2c41bfaeded86c2208984",
    "ply_data_test0.h5": "e9732e6d83b09e79e9a7617df058adee",
    "ply_data_test1.h5": "aba4b12a67c34391cc3c015a6f08ed4b",
}
# Shapes of each class in ModelNet40's train and test folders (modelnet.cs.princeton.edu): 9,843
# and 2,468.  The sampled set has all of the test shapes and lacks three of the train shapes.
CLASS_COUNTS = {
    "airplane": (626, 100), "bathtub": (106, 50), "bed": (515, 100), "bench": (173, 20),
    "bookshelf": (572, 100), "bottle": (335, 100), "bowl": (64, 20), "car": (197, 100),
    "chair": (889, 100), "cone": (167, 20), "cup": (79, 20), "curtain": (138, 20),
    "desk": (200, 86), "door": (109, 20), "dresser": (200, 86), "flower_pot": (149, 20),
    "glass_box": (171, 100), "guitar": (155, 100), "keyboard": (145, 20), "lamp": (124, 20),
    "laptop": (149, 20), "mantel": (284, 100), "monitor": (465, 100), "night_stand": (200, 86),
    "person": (88, 20), "piano": (231, 100), "plant": (240, 100), "radio": (104, 20),
    "range_hood": (115, 100), "sink": (128, 20), "sofa": (680, 100), "stairs": (124, 20),
    "stool": (90, 20), "table": (392, 100), "tent": (163, 20), "toilet": (344, 100),
    "tv_stand": (267, 100), "vase": (475, 100), "wardrobe": (87, 20), "xbox": (103, 20),
}  # fmt: skip
_WANTED = re.compile(r"(ply_data_(train|test)\d+\.h5|(train|test)_files\.txt|shape_names\.txt)")
_LARGEST, _LARGEST_TOTAL, _MOST_MEMBERS = 2**28, 2**30, 1000
_BLOCK = 1 << 20


def get_modelnet40(
    root: str | Path | None = None, archive: Path | None = None,
    mirrors: Sequence[str] = MIRRORS, part: bool = False, progress: bool = True,
) -> Path:  # fmt: skip
    """Return ModelNet40's folder, made where it is not there yet.

    Files that lie in the folder already are checked and get their manifest.  Else `archive` is
    unpacked, or the one beside the folder, or it is fetched from the first of `mirrors` that has
    it; an interrupted download goes on.  What is unpacked gets its name when it is whole and right.

    root  the folder (default: see `DatasetCard.root`)
    part  True: accept other clouds in this layout; else the published hashes and counts are a must

    Raises FileNotFoundError and ValueError for an archive that is absent or not the right one,
    ConnectionError where no mirror has it (what to do instead), OSError for a disk that is full.
    """
    folder = dataset_card("modelnet40").root(root)
    with folder_lock(folder):
        if folder.is_dir():
            _check(folder, part, check_manifest(folder))
            return folder
        download = folder.parent / ".modelnet40-download"
        given = archive or folder.parent / ARCHIVE
        if archive or given.is_file():
            _check_md5(given, ARCHIVE_MD5, part)
            found = given
        else:
            found = _fetch(download, mirrors, part, progress)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            fresh = Path(scratch) / folder.name
            unpack(found, fresh, progress)
            _check(fresh, part, {})
            os.replace(fresh, folder)
        shutil.rmtree(download, ignore_errors=True)
    return folder


def _fetch(download: Path, mirrors: Sequence[str], part: bool, progress: bool) -> Path:
    """Return the archive from the first mirror that has it; what came is kept in `download`."""
    data, failures = dataset_card("modelnet40"), []
    for url in mirrors:
        card = WeightCard(
            model="modelnet40", weights="archive", network="points", source=data.source,
            licence=data.licence, file_name=ARCHIVE, url=url,
        )  # fmt: skip
        try:
            path = fetch_card(card, download, progress)
            _check_md5(path, ARCHIVE_MD5, part)
            return path
        except ConnectionError as error:
            failures.append(f"  {error}")
        except ValueError as error:
            (download / ARCHIVE).unlink(missing_ok=True)
            failures.append(f"  {url}: {error}")
    raise ConnectionError(
        f"no mirror has {ARCHIVE}:\n" + "\n".join(failures) + "\nGet it where you can (search for "
        f"its name; MD5 {ARCHIVE_MD5}), place it as {download.parent / ARCHIVE}, and call this "
        "again"
    )


def unpack(archive: Path, folder: Path, progress: bool = True) -> None:
    """Write the data set's files of a zip archive into `folder`, whatever folder they are in.

    Raises FileNotFoundError where there is no archive, and ValueError for what is no archive, and
    before anything is written for one with absolute names, `..`, links, members that are locked
    or above 256 MiB, more than 1 GiB in all, or two files of one name.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            wanted = _safe_members(archive, file.infolist())
            folder.mkdir(parents=True)
            total = sum(member.file_size for member in wanted.values())
            with tqdm(total=total, unit="B", unit_scale=True, desc="unpack",
                      disable=not progress) as bar:  # fmt: skip
                for name, member in wanted.items():
                    _write_member(file, member, folder / name, bar)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{archive} is damaged, cut short or no zip archive ({error}): get it again"
        ) from error


def _safe_members(archive: Path, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the members that are wanted by their file names; refuse the archive where one lies."""
    if len(members) > _MOST_MEMBERS:
        raise ValueError(f"{archive}: {len(members)} members, expected {_MOST_MEMBERS} at most")
    wanted: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name, path = member.filename, PurePosixPath(member.filename)
        problem = (
            "an absolute name" if path.is_absolute() or re.match(r"[A-Za-z]:", name)
            else "`..` in its name" if ".." in path.parts
            else "a backslash in its name" if "\\" in name
            else "a link" if stat.S_ISLNK(member.external_attr >> 16)
            else "a password" if member.flag_bits & 1
            else f"{member.file_size} bytes, more than {_LARGEST}" if member.file_size > _LARGEST
            else "the name of another member" if path.name in wanted
            else ""
        )  # fmt: skip
        if problem:
            raise ValueError(f"{archive}: member {name!r} has {problem}; nothing was unpacked")
        if _WANTED.fullmatch(path.name) and not member.is_dir():
            wanted[path.name] = member
    total = sum(member.file_size for member in wanted.values())
    if total > _LARGEST_TOTAL:
        raise ValueError(f"{archive}: {total} bytes in all, more than {_LARGEST_TOTAL}")
    return wanted


def _write_member(file: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, bar: tqdm) -> None:
    """Write one member; zipfile checks its CRC, and reads no more than the size it declares."""
    try:
        with file.open(member) as source, open(path, "wb") as target:
            while block := source.read(_BLOCK):
                target.write(block)
                bar.update(len(block))
    except OSError as error:
        raise OSError(
            f"{path.name} could not be unpacked ({error}); make room on the disk, nothing is kept"
        ) from error


def _check(folder: Path, part: bool, known: dict[str, str]) -> None:
    """Hold a folder against the record, then write its manifest where it has none."""
    names = read_class_names(folder)
    files = {split: data_files(folder, split) for split in ("train", "test")}
    if not known and not part:
        for name, digest in FILE_MD5.items():
            _check_md5(folder / name, digest, part)
    counts = {split: np.zeros(len(names), np.int64) for split in files}
    for split, paths in files.items():
        for path in paths:
            points, labels = read_file(path, len(names))
            if (far := np.linalg.norm(points, axis=2).max()) > 1.01 and not part:
                raise ValueError(f"{path}: expected clouds in the unit sphere, got radius {far:g}")
            counts[split] += np.bincount(labels, minlength=len(names))
    if not part:
        _check_counts(folder, names, counts["train"], counts["test"])
    if not known:
        listed = sorted(path for path in folder.iterdir() if _WANTED.fullmatch(path.name))
        digests = {path.name: sha256(path) for path in listed}
        with atomic_write(folder / "manifest.json") as temp:
            temp.write_text(json.dumps({"files": digests}, indent=1), encoding="utf-8")


def _check_counts(
    folder: Path, names: tuple[str, ...], train: np.ndarray, test: np.ndarray
) -> None:
    if names != tuple(CLASS_COUNTS):
        raise ValueError(f"{folder}: expected ModelNet40's 40 class names, got {list(names)}")
    published = np.array(list(CLASS_COUNTS.values()))
    lacks = published[:, 0] - train
    if (test != published[:, 1]).any() or (lacks < 0).any() or lacks.sum() != 3:
        raise ValueError(
            f"{folder}: expected 9,840 train and 2,468 test clouds with ModelNet40's classes, got "
            f"{train.sum():,} and {test.sum():,}: train {train.tolist()}, test {test.tolist()}"
        )


def _check_md5(path: Path, expected: str, part: bool) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of the published set, found none")
    if part:
        return
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != expected:
        raise ValueError(
            f"{path} is not the published file: expected MD5 {expected}, got {got} "
            f"({path.stat().st_size} bytes). Remove it and get it again (--part takes others)"
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path, nargs="?", help="the zip file, where you have it")
    parser.add_argument("--mirror", action="append", metavar="URL",
                        help="address of the zip file; may be given again (default: "
                        f"{', '.join(MIRRORS)})")
    parser.add_argument("--output", type=Path, default=dataset_card("modelnet40").root(),
                        help="folder (default: %(default)s)")
    parser.add_argument("--part", action="store_true",
                        help="take other clouds in this layout: no published hashes and counts")
    options = parser.parse_args(arguments)

    def work() -> None:
        folder = get_modelnet40(
            options.output, options.archive, options.mirror or MIRRORS, options.part
        )
        print(f"good: {folder}\nsha256 {dataset_hash('modelnet40', folder)}")

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
