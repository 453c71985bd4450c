"""S3DIS's layout: its classes, and the reader of rooms.

`data_scripts/build_s3dis.py` makes one HDF5 file a room of the official folder:

    Area_1/office_1.h5    points [N, 3] float32, colours [N, 3] uint8, labels [N] int8
"""

from pathlib import Path

import numpy as np

from i2p_lib.data.hdf5 import read_arrays
from i2p_lib.data.scenes import IGNORED

CLASS_NAMES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
FEATURE_NAMES = ("red", "green", "blue")


def read_scene(folder: Path, name: str,
               released: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, colours [N, 3] float32 in 0..1, labels [N] int64 of a room.

    released: stairs are a class of their own behind the others, as the released code trains them.
    Raises FileNotFoundError and ValueError, naming the file that is missing or damaged.
    """
    path = folder / f"{name}.h5"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; convert S3DIS again")
    names = ("points", "colours", "labels")
    points, colours, labels = read_arrays(path, names, "convert S3DIS again")
    if labels.min(initial=0) < IGNORED or labels.max(initial=0) >= len(CLASS_NAMES):
        raise ValueError(f"{path}: labels: expected {IGNORED} to {len(CLASS_NAMES) - 1}")
    if released:  # no other points are IGNORED
        labels = np.where(labels == IGNORED, len(CLASS_NAMES), labels)
    return points, colours.astype(np.float32) / 255, labels.astype(np.int64)
