"""SemanticKITTI's layout: label map, split of the sequences, checks and the reader of scans.

The official folder; its scans are read where they lie:

    sequences/08/velodyne/000123.bin      x, y, z, intensity as float32 for each point
    sequences/08/labels/000123.label      uint32 for each point: class in the lower 16 bits, number
                                          of the object in the upper ones
"""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from i2p_lib.data.scene_files import (
    IGNORED,
    MANIFEST,
    do_all,
    histogram,
    unlike_published,
    write_manifest,
)
from i2p_lib.files import atomic_write, sha256

CLASS_NAMES = (
    "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist",
    "motorcyclist", "road", "parking", "sidewalk", "other-ground", "building", "fence",
    "vegetation", "trunk", "terrain", "pole", "traffic-sign",
)  # fmt: skip
TEST_SEQUENCE = "08"
VAL_SHARE = 0.10  # of the scans of each other sequence: its end
POINT_BYTES, LABEL_BYTES = 16, 4

# From semantic-kitti.yaml of github.com/PRBonn/semantic-kitti-api: the class of each raw label
# (`learning_map`, whose class 0, unlabelled, outlier, other structure, other object, is IGNORED
# here), and how large a part of all points has that label (`content`).
LEARNING_MAP = {
    0: IGNORED, 1: IGNORED, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7,
    40: 8, 44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: IGNORED, 60: 8, 70: 14, 71: 15, 72: 16,
    80: 17, 81: 18, 99: IGNORED, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
CONTENT = {
    0: 0.01888985, 1: 0.00029372, 10: 0.04081852, 11: 0.00016610, 13: 2.78797e-05,
    15: 0.00039839, 16: 0.0, 18: 0.00206336, 20: 0.00162182, 30: 0.00017699, 31: 1.10659e-08,
    32: 5.53295e-09, 40: 0.19874939, 44: 0.01471717, 48: 0.14392298, 49: 0.00390486,
    50: 0.13268619, 51: 0.07235922, 52: 0.00239513, 60: 4.70841e-05, 70: 0.26681502,
    71: 0.00603501, 72: 0.07814222, 80: 0.00285550, 81: 0.00061560, 99: 0.00992313,
    252: 0.00178931, 253: 0.00012710, 254: 0.00016060, 255: 3.74555e-05, 256: 0.0,
    257: 0.00011352, 258: 0.00010158, 259: 4.38401e-05,
}  # fmt: skip
# Scans of the labelled sequences: 23,201 in all, 4,071 in sequence 08 (Behley et al., ICCV 2019,
# and the lengths of KITTI's odometry sequences).
SCANS = {"00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761, "06": 1101,
         "07": 1101, "08": 4071, "09": 1591, "10": 1201}  # fmt: skip
_FARTHEST = 200.0  # metres; the sensor measures up to 120
_TOGETHER = 100  # scans that are checked, and noted as checked, at once
_OUTSIDE = -2
_TABLE = np.full(1 << 16, _OUTSIDE, np.int8)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


def find_scans(source: Path) -> list[str]:
    """Return the sorted names, such as 08/000123, of the labelled scans in an official folder.

    Sequences 11 to 21 have no labels and are left out.
    Raises FileNotFoundError for a folder without labelled scans, and for a scan without its
    labels or labels without their scan.
    """
    names = []
    for sequence in sorted(source.glob("sequences/*")):
        if sequence.name not in SCANS:
            continue
        scans = {f.stem for f in sequence.glob("velodyne/*.bin")}
        labels = {f.stem for f in sequence.glob("labels/*.label")}
        if alone := sorted(scans ^ labels):
            has, lacks = ("scan", "labels") if alone[0] in scans else ("labels", "scan")
            raise FileNotFoundError(
                f"{sequence}: {len(alone)} scans and labels without the other, the first is "
                f"{alone[0]}: its {has} is there, its {lacks} not; unpack both archives into one "
                "folder"
            )
        names += [f"{sequence.name}/{scan}" for scan in sorted(scans)]
    if not names:
        raise FileNotFoundError(
            f"{source}: expected sequences/00 to 10, each with velodyne/*.bin and "
            "labels/*.label, found no labelled scan; give the folder that holds `sequences`"
        )
    if odd := [name for name in names if not re.fullmatch(r"\d\d/\d{6}", name)]:
        raise ValueError(f"{source}: expected scans named by six digits, got {odd[0]}")
    return names


def convert(
    source: Path, output: Path, part: bool = False, workers: int = 1, progress: bool = True,
    settings: dict | None = None,
) -> dict:  # fmt: skip
    """Check every labelled scan of an official folder and write the manifest; return it.

    Scans stay where they are; `output` gets the manifest, last.  What was checked is noted there
    each hundred scans, so that an interrupted check goes on.  Memory: one scan for each worker.

    part      True: a part of SemanticKITTI, or other scans in its layout; else the counts of the
              official set must be found
    settings  what a generator of the scans was asked for

    Raises FileNotFoundError and ValueError, naming the file, for what is missing or wrong.
    """
    names = find_scans(source)
    if not part:
        _check_counts(source, names)
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)
    chunks = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    notes = output / ".checked"
    found = do_all(partial(_check_scans, source, notes), chunks, workers, progress,
                   f"x {_TOGETHER} scans")  # fmt: skip
    manifest = {
        "layout": "semantic_kitti",
        "scenes_in": "." if source.samefile(output) else str(source.resolve()),
        "scenes": {name: points for one in found for name, points in one["points"].items()},
        "class_points": np.sum([one["class_points"] for one in found], axis=0).tolist(),
        "repairs": [],
        "settings": settings or {},
        "files": {name: digest for one in found for name, digest in one["files"].items()},
    }
    if not part:
        published = np.zeros(len(CLASS_NAMES))
        for label, share in CONTENT.items():
            if LEARNING_MAP[label] != IGNORED:
                published[LEARNING_MAP[label]] += share
        unlike_published(source, CLASS_NAMES, manifest["class_points"], published, factor=2)
    write_manifest(output, manifest)
    shutil.rmtree(notes)
    return manifest


def _check_counts(source: Path, names: list[str]) -> None:
    counts = {sequence: 0 for sequence in SCANS}
    for name in names:
        counts[name[:2]] += 1
    if counts != SCANS:
        raise ValueError(
            f"{source}: expected {sum(SCANS.values()):,} labelled scans, {SCANS}, got {counts}; "
            "unpack the set again (--part takes a part of it)"
        )


def _check_scans(source: Path, notes: Path, names: list[str]) -> dict:
    """Read some scans; return their points, classes and hashes, from the notes where they are."""
    files = [file for name in names for file in scan_files(name)]
    stamps = [[file, *_stamp(source / file)] for file in files]
    note = notes / f"{names[0].replace('/', '_')}.json"
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["stamps"] == stamps:
            return known
    points, counts = {}, np.zeros(len(CLASS_NAMES) + 1, np.int64)
    for name in names:
        places, _, labels = read_scene(source, name)
        if (far := np.abs(places).max()) > _FARTHEST:
            raise ValueError(
                f"{source / scan_files(name)[0]}: expected metres from the sensor, got {far:g}"
            )
        points[name] = len(labels)
        counts += histogram(labels, len(CLASS_NAMES))
    hashes = {file: sha256(source / file) for file in files}
    found = {
        "stamps": stamps, "points": points, "class_points": counts.tolist(), "files": hashes
    }  # fmt: skip
    with atomic_write(note) as temp:
        temp.write_text(json.dumps(found), encoding="utf-8")
    return found


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def split_scenes(names: list[str]) -> dict[str, str]:
    """Return "train", "val" or "test" for each scan, named such as 08/000123.

    test is sequence 08; val is the last VAL_SHARE of the scans of each other sequence, at least
    one of two or more, because scans that follow each other look alike.
    """
    sequences: dict[str, list[str]] = {}
    for name in sorted(names):
        sequences.setdefault(name.split("/")[0], []).append(name)
    splits = {}
    for sequence, scans in sequences.items():
        first = len(scans) - max(len(scans) > 1, round(VAL_SHARE * len(scans)))
        for place, scan in enumerate(scans):
            other = "val" if place >= first else "train"
            splits[scan] = "test" if sequence == TEST_SEQUENCE else other
    return splits


def scan_files(name: str) -> tuple[str, str]:
    """Return the names of the `.bin` and the `.label` file of a scan such as 08/000123."""
    sequence, scan = name.split("/")
    return f"sequences/{sequence}/velodyne/{scan}.bin", f"sequences/{sequence}/labels/{scan}.label"


def read_scene(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, intensity [N, 1] float32 in 0..1, labels [N] int64 of a scan.

    The sensor is the origin.  Raises FileNotFoundError and ValueError, naming the file: a size
    that is no multiple of 16 bytes, labels of another number of points or outside LEARNING_MAP,
    coordinates or intensities that are none.
    """
    points_file, labels_file = (folder / file for file in scan_files(name))
    for path in (points_file, labels_file):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; each .bin needs its .label, and reverse")
    size = points_file.stat().st_size
    if size % POINT_BYTES or not size:
        raise ValueError(
            f"{points_file}: expected x, y, z, intensity as four float32, so a multiple of "
            f"{POINT_BYTES} bytes, got {size}; it may be cut short: unpack it again"
        )
    count, found = size // POINT_BYTES, labels_file.stat().st_size
    if found != count * LABEL_BYTES:
        raise ValueError(
            f"{labels_file}: expected {count * LABEL_BYTES} bytes for the {count} points of "
            f"{points_file.name}, got {found}"
        )
    scan = np.fromfile(points_file, "<f4").reshape(-1, 4)
    if not np.isfinite(scan).all():
        bad = int((~np.isfinite(scan).all(axis=1)).argmax())
        raise ValueError(f"{points_file}: NaN or infinite numbers, the first at point {bad}")
    intensity = scan[:, 3:]
    if intensity.min() < 0 or intensity.max() > 1:
        raise ValueError(
            f"{points_file}: intensity: expected 0 to 1, got {intensity.min()} to "
            f"{intensity.max()}"
        )
    return np.ascontiguousarray(scan[:, :3]), intensity.copy(), _labels(labels_file)


def _labels(path: Path) -> np.ndarray:
    raw = np.fromfile(path, "<u4") & 0xFFFF
    labels = _TABLE[raw]
    if (outside := labels == _OUTSIDE).any():
        place = int(outside.argmax())
        raise ValueError(
            f"{path}: label {raw[place]} of point {place} is not among those of SemanticKITTI: "
            f"{', '.join(map(str, LEARNING_MAP))}"
        )
    return labels.astype(np.int64)
