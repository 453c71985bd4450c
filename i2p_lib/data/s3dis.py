"""S3DIS's layout: its classes and parts, the cards of its sets, and the reader of rooms.

`data_scripts/build_s3dis.py` makes one HDF5 file a room of the official folder:

    Area_1/office_1.h5    points [N, 3] float32, colours [N, 3] uint8, labels [N] int8
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from i2p_lib.data.scene_files import IGNORED, SceneCard
from i2p_lib.data.scene_transforms import PAPER_ROOMS

CLASS_NAMES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
LABELS = {name: label for label, name in enumerate(CLASS_NAMES)} | {"stairs": IGNORED}
ROOMS = {"Area_1": 44, "Area_2": 40, "Area_3": 23, "Area_4": 49, "Area_5": 68, "Area_6": 48}
"""Rooms of each area as PointNet's list of annotation folders has them, 272."""

S3DIS = SceneCard(
    name="s3dis",
    title="S3DIS: 272 scanned rooms in six areas of three buildings, 13 classes",
    source="Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016; "
    "Stanford3dDataset_v1.2_Aligned_Version",
    licence="its own terms, agreed to in the form that gives access",
    class_names=CLASS_NAMES,
    feature_names=("red", "green", "blue"),
    splits={
        "train": "Areas 1, 2, 3, 4 and 6, without val",
        "val": "10% of the rooms of each of these areas, fixed by their names",
        "test": "Area 5",
    },
    layout="s3dis",
    size_mb=4500.0,
    how_to_get="ask for Stanford3dDataset_v1.2_Aligned_Version.zip at "
    "http://buildingparser.stanford.edu/dataset.html, unpack it, then "
    "`i2p data get s3dis --from FOLDER`, the folder that holds Area_1 to Area_6",
    made_by="data_scripts/build_s3dis.py",
    augment=PAPER_ROOMS,
    test_part="Area_5",
    typical_points=400_000,
    trained_too=("stairs",),
    sizes={"train": 184, "val": 20, "test": 68},
)
SIMULATED = S3DIS.like(
    "simulated_rooms",
    title="Simulated rooms: S3DIS's layout and classes, composed and scanned by a program",
    source="made here from the home objects by data_scripts/simulate_rooms.py",
    licence="that of the home objects: CC0-1.0 and CC-BY-3.0 per object",
    made_by="data_scripts/simulate_rooms.py",
    made_from=("home_objects",),
)
CARDS = (S3DIS, SIMULATED)


def read_scene(
    folder: Path, name: str, released: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, colours [N, 3] float32 in 0..1, labels [N] int64 of a room.

    released: stairs are a class of their own behind the others, as the released code trains them.
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
    if released:  # no other points are IGNORED
        labels = np.where(labels == IGNORED, len(CLASS_NAMES), labels)
    return points, colours.astype(np.float32) / 255, labels.astype(np.int64)
