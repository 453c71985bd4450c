"""SemanticKITTI's layout: its classes, and the reader of scans.

The official folder; its scans are read where they lie:

    sequences/08/velodyne/000123.bin      x, y, z, intensity as float32 for each point
    sequences/08/labels/000123.label      uint32 for each point: class in the lower 16 bits, number
                                          of the object in the upper ones
"""

from pathlib import Path

import numpy as np

from i2p_lib.data.scenes import IGNORED

CLASS_NAMES = (
    "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist",
    "motorcyclist", "road", "parking", "sidewalk", "other-ground", "building", "fence",
    "vegetation", "trunk", "terrain", "pole", "traffic-sign",
)  # fmt: skip
FEATURE_NAMES = ("intensity",)
POINT_BYTES, LABEL_BYTES = 16, 4

# From semantic-kitti.yaml of github.com/PRBonn/semantic-kitti-api: the class of each raw label
# (`learning_map`, whose class 0, unlabelled, outlier, other structure, other object, is IGNORED
# here).
LEARNING_MAP = {
    0: IGNORED, 1: IGNORED, 10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7,
    40: 8, 44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 52: IGNORED, 60: 8, 70: 14, 71: 15, 72: 16,
    80: 17, 81: 18, 99: IGNORED, 252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4,
}  # fmt: skip
RELEASED_IGNORES = (13, 16, 60, 256, 257)
"""Raw labels of a class that the released code ignores: bus, on-rails, lane-marking, and what moves
of the first two (core/datasets/semantic_kitti.py)."""
_OUTSIDE = -2
_TABLE = np.full(1 << 16, _OUTSIDE, np.int8)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


def scan_files(name: str) -> tuple[str, str]:
    """Return the names of the `.bin` and the `.label` file of a scan such as 08/000123."""
    sequence, scan = name.split("/")
    return f"sequences/{sequence}/velodyne/{scan}.bin", f"sequences/{sequence}/labels/{scan}.label"


def read_scene(folder: Path, name: str,
               released: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, intensity [N, 1] float32 in 0..1, labels [N] int64 of a scan.

    The sensor is the origin.  released: labels as the released code maps them.

    Raises FileNotFoundError and ValueError, naming the file: a size
    that is no multiple of 16 bytes, labels of another number of points or outside LEARNING_MAP,
    coordinates or intensities that are none.
    """
    points_file, labels_file = (folder / file for file in scan_files(name))
    for path in (points_file, labels_file):
        if not path.is_file():
            other = "each .bin needs its .label, and reverse"
            if not (points_file.is_file() or labels_file.is_file()):
                other = ("so are its labels; where the scans moved: "
                         "`i2p data get semantic_kitti --from FOLDER`")  # fmt: skip
            raise FileNotFoundError(f"{path} is missing; {other}")
    size = points_file.stat().st_size
    if size % POINT_BYTES or not size:
        raise ValueError(f"{points_file}: expected x, y, z, intensity as four float32, so a "
                         f"multiple of {POINT_BYTES} bytes, got {size}; it may be cut short: "
                         "unpack it again")
    count, found = size // POINT_BYTES, labels_file.stat().st_size
    if found != count * LABEL_BYTES:
        raise ValueError(f"{labels_file}: expected {count * LABEL_BYTES} bytes for the {count} "
                         f"points of {points_file.name}, got {found}")
    scan = np.fromfile(points_file, "<f4").reshape(-1, 4)
    raw = np.fromfile(labels_file, "<u4") & 0xFFFF
    labels = _TABLE[raw]
    if (outside := labels == _OUTSIDE).any():
        place = int(outside.argmax())
        raise ValueError(f"{labels_file}: label {raw[place]} of point {place} is not among those "
                         f"of SemanticKITTI: {', '.join(map(str, LEARNING_MAP))}")
    if released:
        labels = np.where(np.isin(raw, RELEASED_IGNORES), IGNORED, labels)
    return scan[:, :3].copy(), scan[:, 3:].copy(), labels.astype(np.int64)
