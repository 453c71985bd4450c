"""S3DIS's layout: annotation texts, checked and converted to an HDF5 file a room; its reader."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from i2p_lib.data.episodes import fixed_order
from i2p_lib.data.scene_files import IGNORED

CLASS_NAMES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
TEST_AREA = "Area_5"
VAL_SHARE = 0.10  # of the rooms of each other area


def split_scenes(names: list[str]) -> dict[str, str]:
    """Return "train", "val" or "test" for each room, named such as Area_1/office_3.

    test is Area 5; val is VAL_SHARE of the rooms of each other area, at least one of two or more,
    chosen by the hash of their names.
    """
    areas: dict[str, list[str]] = {}
    for name in sorted(names):
        areas.setdefault(name.split("/")[0], []).append(name)
    splits = {}
    for area, rooms in areas.items():
        held = max(len(rooms) > 1, round(VAL_SHARE * len(rooms)))
        val = {rooms[i] for i in fixed_order(np.arange(len(rooms)), f"val {area}")[:held]}
        for room in rooms:
            splits[room] = "test" if area == TEST_AREA else "val" if room in val else "train"
    return splits


def read_scene(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, colours [N, 3] float32 in 0..1, labels [N] int64 of a room.

    Raises FileNotFoundError and ValueError, naming the file that is missing or damaged.
    """
    path = folder / f"{name}.h5"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; convert S3DIS again")
    try:
        with h5py.File(path, "r") as file:
            points, colours, labels = (file[key][()] for key in ("points", "colours", "labels"))
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a whole room ({error}); convert S3DIS again") from error
    if labels.min(initial=0) < IGNORED or labels.max(initial=0) >= len(CLASS_NAMES):
        raise ValueError(f"{path}: labels: expected {IGNORED} to {len(CLASS_NAMES) - 1}")
    return points, colours.astype(np.float32) / 255, labels.astype(np.int64)
