"""Convert S3DIS from its official folder: every room to one HDF5 file, checked, with a manifest.

You ask for the set at http://buildingparser.stanford.edu/dataset.html and unpack
Stanford3dDataset_v1.2_Aligned_Version.zip (about 30 GB of text); its folder holds Area_1 to
Area_6.  Each annotation text is read once; a line that is not six numbers is an error that names
file and line, except that a stray byte is repaired where only one reading is possible (the
official set has one in Area_5/hallway_6/Annotations/ceiling_1.txt:180389); repairs are printed
and listed in the manifest.  272 rooms in six areas, about 273 million points and the classes'
shares must be found.  Stop it at any moment: rooms that are done are not done again, and without
manifest.json, written last, the set counts as absent.

Known defects of the official files:

    Area_5/hallway_6/Annotations/ceiling_1.txt:180389   `22.350 6.692 3.048 185\\x10187 182`: a byte
                                                        stands for a space; it is repaired
    Area_6/copyRoom_1/copy_Room_1.txt                   should be copyRoom_1.txt
    Area_2/auditorium_1/auditorium_1.txt:741099         `167.\\x1000000`, a digit lost a bit
    Area_3/hallway_2/hallway_2.txt:926335               `-9.1\\x160`, a digit lost a bit

The last three are in files of whole rooms, which hold no labels and are not read.
(Lines: public patches of the set, among others Superpoint Graph's and PointNet's issues 45, 296.)

examples:
  python data_scripts/build_s3dis.py ~/Stanford3dDataset_v1.2_Aligned_Version --workers 8
  python data_scripts/build_s3dis.py FOLDER --output /data/s3dis
  python data_scripts/build_s3dis.py OFFICIAL_ROOMS --part --output /tmp/rooms
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from _s3dis_text import read_annotation
from _scenes import do_all, histogram, run, unlike_published

from i2p_lib.data.manifests import MANIFEST, write_manifest
from i2p_lib.data.s3dis import CLASS_NAMES
from i2p_lib.data.scenes import IGNORED
from i2p_lib.files import atomic_write, note, sha256

LABELS = {name: label for label, name in enumerate(CLASS_NAMES)} | {"stairs": IGNORED}
# Rooms of each area as PointNet's list of annotation folders has them, 272.
ROOMS = {"Area_1": 44, "Area_2": 40, "Area_3": 23, "Area_4": 49, "Area_5": 68, "Area_6": 48}
# The official set: "273 million points" in KPConv's and torch-points3d's descriptions; and how
# points of the classes relate in the grid sample that RandLA-Net weighs its loss by
# (helper_tool.py), which differs from the full set by the density of the scans.
POINTS = (270e6, 276e6)
CLASS_POINTS = (3370714, 2856755, 4919229, 318158, 375640, 478001, 974733, 650464, 791496, 88727,
                1284130, 229758, 2272837)  # fmt: skip
_FARTHEST = 300.0  # metres from the origin; the official areas are below 100 m long


def find_rooms(source: Path) -> list[str]:
    """Return the sorted names, such as Area_1/office_3, of the rooms in an official folder.

    An empty folder is no room, and said to be left out.
    Raises FileNotFoundError for a folder without areas, and for a room without annotations.
    """
    areas = [a for a in sorted(source.glob("Area_*")) if re.fullmatch(r"Area_[1-6]", a.name)]
    folders = [f for area in areas for f in sorted(area.iterdir()) if f.is_dir() and _seen(f)]
    rooms = [f for f in folders if any(g.is_file() and _seen(g) for g in f.rglob("*"))]
    for empty in sorted(set(folders) - set(rooms)):
        note(f"{empty}: an empty folder, left out")
    if not rooms:
        raise FileNotFoundError(
            f"{source}: expected the folders Area_1 to Area_6 with one folder a room, found "
            f"{', '.join(area.name for area in areas) or 'no area'}; give the folder "
            "Stanford3dDataset_v1.2_Aligned_Version"
        )
    for room in rooms:
        _annotations(room)
    return [f"{room.parent.name}/{room.name}" for room in rooms]


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _annotations(room: Path) -> list[Path]:
    """Return the sorted annotation texts of a room; each names its class."""
    folder = room / "Annotations"
    files, numbered = sorted(filter(_seen, folder.glob("*.txt"))), {}
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected texts such as chair_1.txt, found none; unpack this room again"
        )
    for file in files:
        if file.stem.split("_")[0] not in LABELS:
            raise ValueError(
                f"{file}: class {file.stem.split('_')[0]!r} is not among those of S3DIS: "
                f"{', '.join(LABELS)}"
            )
        name = (re.match(r"[a-z]+_\d+", file.stem) or [file.stem])[0]  # of "chair_1 (copy)", too
        if file != (first := numbered.setdefault(name, file)):
            raise ValueError(f"{folder}: {first.name} and {file.name} are one object, {name}, "
                             "which would count twice: take the duplicate out")
    return files


def convert(
    source: Path, output: Path, part: bool = False, workers: int = 1, progress: bool = True
) -> dict:  # fmt: skip
    """Convert an official folder to one HDF5 file a room in `output`; return the manifest.

    The manifest is written last, so that without it the set is not whole.  A room that is there
    and newer than its texts is not converted again.  Memory: one room for each worker.

    part: a part of S3DIS, or other rooms in its layout; else the official counts must be found.

    Raises FileNotFoundError and ValueError, naming file and line, for what is missing or wrong,
    OSError for a disk that is full.  Rooms converted before stay.
    """
    rooms = find_rooms(source)
    if not part:
        _check_counts(source, rooms)
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)
    found = do_all(partial(_convert_room, source, output), rooms, workers, progress, "rooms")
    manifest = {
        "layout": "s3dis",
        "scenes_in": ".",
        "scenes": {room: one["points"] for room, one in zip(rooms, found, strict=True)},
        "class_points": np.sum([one["class_points"] for one in found], axis=0).tolist(),
        "repairs": [repair for one in found for repair in one["repairs"]],
        "files": {f"{room}.h5": one["sha256"] for room, one in zip(rooms, found, strict=True)},
    }
    if not part:
        _check_content(source, manifest)
    write_manifest(output, manifest)
    return manifest


def _check_counts(source: Path, rooms: list[str]) -> None:
    counts = {area: sum(room.startswith(f"{area}/") for room in rooms) for area in ROOMS}
    if counts != ROOMS:
        raise ValueError(
            f"{source}: expected {sum(ROOMS.values())} rooms, {ROOMS}, got {counts}; "
            "unpack the set again (--part takes a part of it)"
        )


def _check_content(source: Path, manifest: dict) -> None:
    total = sum(manifest["scenes"].values())
    if not POINTS[0] <= total <= POINTS[1]:
        raise ValueError(f"{source}: expected about 273 million points, got {total:,}")
    unlike_published(source, CLASS_NAMES, manifest["class_points"], CLASS_POINTS, factor=3)


def _convert_room(source: Path, output: Path, room: str) -> dict:
    """Write the HDF5 file of a room where it is not there; return what the manifest says of it."""
    texts = _annotations(source / room)
    target = output / f"{room}.h5"
    if not _up_to_date(target, texts):
        parts, repairs = [], []
        for text in texts:
            points, colours, mended = read_annotation(text)
            if (far := np.abs(points).max()) > _FARTHEST:
                raise ValueError(f"{text}: expected coordinates in metres, got {far:g}")
            label = LABELS[text.stem.split("_")[0]]
            parts.append((points, colours, np.full(len(points), label, np.int8)))
            repairs += [{"file": f"{room}/Annotations/{text.name}"} | one for one in mended]
        try:
            _write_room(target, parts, texts, repairs)
        except OSError as error:
            raise OSError(
                f"{target} could not be written ({error}). Make room on the disk; the same "
                "command goes on from here"
            ) from error
    with h5py.File(target, "r") as file:
        labels, repairs = file["labels"][()], json.loads(file.attrs["repairs"])
    return {
        "points": len(labels),
        "class_points": histogram(labels, len(CLASS_NAMES)),
        "repairs": repairs,
        "sha256": sha256(target),
    }


def _write_room(target: Path, parts: list, texts: list[Path], repairs: list[dict]) -> None:
    """Write a room; it is composed in memory, because HDF5 cannot cope with a disk that fills."""
    with h5py.File(target, "w", driver="core", backing_store=False) as file:
        for name, arrays in zip(("points", "colours", "labels"), zip(*parts, strict=True),
                                strict=True):  # fmt: skip
            file[name] = np.concatenate(arrays)
        file.attrs["texts"] = _listing(texts)
        file.attrs["repairs"] = json.dumps(repairs)
        file.flush()
        image = file.id.get_file_image()
    with atomic_write(target) as temp:
        temp.write_bytes(image)


def _up_to_date(target: Path, texts: list[Path]) -> bool:
    if not target.is_file() or target.stat().st_mtime < max(t.stat().st_mtime for t in texts):
        return False
    try:
        with h5py.File(target, "r") as file:
            return file.attrs["texts"] == _listing(texts)
    except (OSError, KeyError):
        return False


def _listing(texts: list[Path]) -> str:
    return json.dumps({text.name: text.stat().st_size for text in texts})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run("s3dis", __doc__, convert, arguments)


if __name__ == "__main__":
    sys.exit(main())
