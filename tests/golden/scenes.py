"""06a: how rooms and scans become voxels with features and labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from i2p_lib.data.scene_transforms import augment_scene, clip_to_cube
from i2p_lib.data.scenes import IGNORED, scene_card
from i2p_lib.data.semantic_kitti import LEARNING_MAP, RELEASED_IGNORES
from i2p_lib.models.encodings import ReleasedVoxels, Rows
from i2p_lib.sparse import Points, SparseTensor
from tests.golden.grid import DRAWS, SIZE
from tests.golden.items import item
from tests.golden.original import (
    MISSING,
    apart,
    golden,
    in_order,
    only_in_one,
    our_sites,
    tensor,
    unlike,
)

FILE, NETWORK = "06a_preprocessing_s3dis_kitti", "06b_spvcnn18_s3dis_float32"
S3DIS = scene_card("s3dis")
ROOMS = ("small_1", "small_2")
ENCODINGS = (ReleasedVoxels(SIZE), ReleasedVoxels(SIZE, centre=False))


@dataclass(frozen=True)
class Cloud:
    """A labelled scene, features in 0..1."""

    points: Tensor
    features: Tensor
    labels: Tensor


def room(name: str) -> Cloud:
    """The points of a room as the library reads them; labels are the original's numbers."""
    rows = tensor(FILE, f"s3dis_in/{name}/xyzrgb")
    kinds = [text.partition("_")[0] for text in golden(FILE)[f"s3dis_in/{name}/object"].tolist()]
    classes = golden(FILE)["CLASSES"].tolist()
    return Cloud(rows[:, :3], rows[:, 3:] / 255,
                 torch.tensor([classes.index(kind) for kind in kinds]))  # fmt: skip


def scan() -> Cloud:
    """The scan as the library reads it."""
    rows = tensor(FILE, "kitti_in/points")
    raw = golden(FILE)["kitti_in/labels"] & 0xFFFF
    labels = [IGNORED if number in RELEASED_IGNORES else LEARNING_MAP.get(number, IGNORED)
              for number in raw.tolist()]
    return Cloud(rows[:, :3], rows[:, 3:], torch.tensor(labels))


@cache
def rows(name: str) -> Rows:
    """What the released encoding keeps of a room or of the scan."""
    return ENCODINGS[name == "val"].rows(scan() if name == "val" else room(name))


def found(name: str, key: str, ours: Tensor) -> float:
    """How far what is kept of a room or of the scan is from the original's."""
    folder = "kitti" if name == "val" else "s3dis"
    return apart(ours, tensor(FILE, f"{folder}/{name}/{key}"))


def batch_rows(key: str) -> Tensor:
    """The rows of the original's batch as our sites."""
    return our_sites(tensor(FILE, f"{key}/batch/lidar_C"))


def batched(encoding: ReleasedVoxels, clouds: list[Cloud]) -> tuple[SparseTensor, Tensor, Tensor]:
    """The voxels of a batch, its rows as sites, and the rows' labels."""
    x, labels = encoding.encode(clouds)
    points = Points.of_voxels(x)
    return x, torch.cat([points.batch[:, None], points.places.round().long()], 1), labels


@item("06a S3DIS rows of a batch", unit="rows")
def room_rows() -> float:
    """Cells, from the mean and cut to integers, of the points that two rooms keep, some of them
    twice."""
    _, sites, labels = batched(ENCODINGS[0], [room(name) for name in ROOMS])
    targets = np.concatenate([golden(FILE)[f"s3dis/{name}/labels"] for name in ROOMS])
    return unlike(sites, batch_rows("s3dis")) + unlike(labels, targets)


@item("06a S3DIS voxels", 1e-6)
def room_voxels() -> float:
    """Voxels that floor((n v) / v) in float32 makes of the rows of two rooms, and their means."""
    x, *_ = batched(ENCODINGS[0], [room(name) for name in ROOMS])
    theirs = our_sites(tensor(NETWORK, "voxel_C"))
    if only_in_one(x.coords, theirs):
        return MISSING
    return apart(x.feats, in_order(theirs, tensor(NETWORK, "voxel_F")))


@item("06a S3DIS features", 1e-6)
def room_features() -> float:
    """Cells, their place from the mean in voxels, and colours of the points that are kept."""
    return max(found(name, key, getattr(rows(name), part)) for name in ROOMS
               for key, part in (("coords", "cells"), ("feats", "features")))  # fmt: skip


@item("06a S3DIS labels", unit="of 875 rows")
def room_labels() -> float:
    """The label of each point that is kept."""
    return sum(unlike(rows(name).labels, golden(FILE)[f"s3dis/{name}/labels"]) for name in ROOMS)


@item("06a row of each point", unit="points")
def places() -> float:
    """The row whose answer a point of a room or of the scan gets."""
    return sum(unlike(rows(key.partition("/")[2]).of_point, golden(FILE)[f"{key}/inverse_map"])
               for key in (*(f"s3dis/{name}" for name in ROOMS), "kitti/val"))  # fmt: skip


@item("06a S3DIS cube around the centre", unit="points")
def clipped() -> float:
    """The points of a large room that are kept, and that a small room stays whole."""
    big, small = room("big_1").points, room("small_1").points
    kept = torch.zeros(len(big), dtype=torch.bool)
    kept[clip_to_cube(big, S3DIS.augment.clip)] = True
    whole = len(small) - len(clip_to_cube(small, S3DIS.augment.clip))
    return unlike(kept, golden(FILE)["s3dis/clip_big"]) + whole


@item("06a S3DIS points at test time", unit="of 900 points")
def tested() -> float:
    """The points of a large room that are counted, as the released scenes of test have them."""
    points = room("big_1").points
    kept = len(clip_to_cube(points, S3DIS.augment.clip))
    return abs(kept - len(golden(FILE)["s3dis/big_1/all_labels"]))


@item("06a S3DIS classes that are trained", unit="classes")
def classes() -> float:
    """Names of the classes that have an output and a target: stairs are one, uncounted."""
    return float(len(set(S3DIS.released_names) ^ set(golden(FILE)["CLASSES"].tolist())))


@item("06a S3DIS augmentation of a seed", 1e-6, differs=DRAWS, by=1.0)
def augmented() -> float:
    """Coordinates of a flipped room of seed 5."""
    cloud = room("small_1")
    points, _, _ = augment_scene(cloud.points, cloud.features, torch.Generator().manual_seed(5),
                                 S3DIS.augment)  # fmt: skip
    return apart(points, tensor(FILE, "s3dis/coord_aug_seed5"))


@item("06a SemanticKITTI classes of raw labels", unit="of 34 raw labels")
def raw_labels() -> float:
    """The class of each raw label: bus, on-rails, lane-marking and what moves of the first two
    are ignored, against the official map. Classes are compared by the raw label that is first."""
    theirs = golden(FILE)["kitti/label_map"]
    ours = {raw: IGNORED if raw in RELEASED_IGNORES else label
            for raw, label in LEARNING_MAP.items()}  # fmt: skip
    return float(sum((IGNORED if theirs[raw] == 255 else theirs[raw]) != label
                     for raw, label in ours.items()))  # fmt: skip


@item("06a SemanticKITTI voxels", unit="sites")
def scan_sites() -> float:
    """The occupied voxels of a scan, counted from the lowest."""
    x, sites, _ = batched(ENCODINGS[1], [scan()])
    return only_in_one(x.coords, batch_rows("kitti")) + unlike(sites, batch_rows("kitti"))


@item("06a SemanticKITTI features", 1e-6)
def scan_features() -> float:
    """Coordinates in metres and intensity of the points that are kept, and their cells."""
    return max(found("val", "feats", rows("val").features),
               found("val", "coords", rows("val").cells))  # fmt: skip


@item("06a SemanticKITTI labels", unit="of 672 rows")
def scan_labels() -> float:
    """The label of each point that is kept."""
    theirs = golden(FILE)["kitti/val/labels"]
    return unlike(rows("val").labels, np.where(theirs == 255, IGNORED, theirs))


@item("06a SemanticKITTI cap", unit="voxels")
def cap() -> float:
    """How many voxels are left of a training scan at a cap of 300."""
    x, _ = ReleasedVoxels(SIZE, centre=False, most=300).encode(
        [scan()], generators=[torch.Generator().manual_seed(6)])
    return abs(len(x.sites) - len(golden(FILE)["kitti/train_seed6_cap300/coords"]))
