"""SemanticKITTI's layout: label map, split of the sequences, checks and the reader of scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from i2p_lib.data.scene_files import IGNORED

CLASS_NAMES = (
    "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist",
    "motorcyclist", "road", "parking", "sidewalk", "other-ground", "building", "fence",
    "vegetation", "trunk", "terrain", "pole", "traffic-sign",
)  # fmt: skip
TEST_SEQUENCE = "08"
VAL_SHARE = 0.10  # of the scans of each other sequence: its end
POINT_BYTES, LABEL_BYTES = 16, 4

# From a raw label, the lower 16 bits of a `.label` file, to a class; both numbers as in `labels`
# and `learning_map` of semantic-kitti.yaml (github.com/PRBonn/semantic-kitti-api), whose
# learning class 0 (unlabelled, outlier, other structure, other object) is IGNORED here.
LEARNING_MAP = {
    0: IGNORED, 1: IGNORED, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7,
    40: 8, 44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: IGNORED, 60: 8, 70: 14, 71: 15, 72: 16,
    80: 17, 81: 18, 99: IGNORED, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
_OUTSIDE = -2
_TABLE = np.full(1 << 16, _OUTSIDE, np.int8)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


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
    raw = np.fromfile(path, "<u4") & 0xFFFF  # the upper 16 bits number the instances
    labels = _TABLE[raw]
    if (outside := labels == _OUTSIDE).any():
        place = int(outside.argmax())
        raise ValueError(
            f"{path}: label {raw[place]} of point {place} is not among those of SemanticKITTI: "
            f"{', '.join(map(str, LEARNING_MAP))}"
        )
    return labels.astype(np.int64)
