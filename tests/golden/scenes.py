"""06a: how rooms and scans become voxels with features and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2p_lib.data.s3dis import CLASS_NAMES
from i2p_lib.data.scene_files import IGNORED
from i2p_lib.data.scene_transforms import PAPER_ROOMS, SceneAugment, augment_scene, clip_to_cube
from i2p_lib.data.semantic_kitti import LEARNING_MAP
from i2p_lib.models.encodings import VoxelEncoding
from i2p_lib.sparse import voxelize
from i2p_lib.sparse.kernel_map import unique_rows
from tests.golden.grid import DRAWS, FLOORS, SIZE
from tests.golden.items import item
from tests.golden.original import apart, golden, only_in_one, tensor, unlike

FILE = "06a_preprocessing_s3dis_kitti"
ROOMS = ("small_1", "small_2")
MEANS = ("a voxel has the mean of its points and their most frequent label, coordinates in "
         "metres; the original keeps one point and its label")  # fmt: skip


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
    labels = [LEARNING_MAP.get(number, IGNORED) for number in raw.tolist()]
    return Cloud(rows[:, :3], rows[:, 3:], torch.tensor(labels))


def on_their_cells(cloud: Cloud, key: str):
    """What our encoding gives where each point lies at the centre of the original's cell."""
    cells = tensor(FILE, f"{key}/all_coords")
    cells = torch.floor(cells - cells.amin(0))  # floors of the centred cells, as the original's
    moved = Cloud((cells + 0.5) * SIZE, cloud.features, cloud.labels)
    return *VoxelEncoding(SIZE, centre=False).encode([moved]), cells


def batch_sites(key: str, cells: int) -> Tensor:
    coords = tensor(FILE, f"{key}/batch/lidar_C").long()
    return torch.cat([coords[:, 3:], coords[:, :3] - cells], 1).unique(dim=0)


@item("06a S3DIS voxels", unit="sites", by=1099, differs="voxels are floors of metres from the "
      "mean; the original rounds to cells, takes off their mean and cuts to integers, so the two "
      "cells around 0 merge in each direction")  # fmt: skip
def room_sites() -> float:
    """The occupied voxels of two rooms."""
    x, _ = VoxelEncoding(SIZE).encode([room(name) for name in ROOMS])
    return only_in_one(x.coords, batch_sites("s3dis", 0))


@item("06a S3DIS rows of a batch", unit="rows", by=21, differs="one row a voxel; the original "
      "has a row for each cell before cells are cut to integers, so some sites come twice")
def room_rows() -> float:
    """How many voxels two rooms have."""
    x, _ = VoxelEncoding(SIZE).encode([room(name) for name in ROOMS])
    return abs(len(x.sites) - len(golden(FILE)["s3dis/batch/lidar_C"]))


@item("06a S3DIS features, cells given", 1e-6, by=0.906, differs=MEANS + "; its coordinates are "
      "those of the cell, from the mean, in voxels")  # fmt: skip
def room_features() -> float:
    """Coordinates and colours of each voxel where every point lies in the original's cell."""
    x, _, _ = on_their_cells(room("small_1"), "s3dis/small_1")
    return apart(x.feats, tensor(FILE, "s3dis/small_1/feats"))


@item("06a S3DIS colours of the point that a voxel keeps", 1e-6)
def colours() -> float:
    """Colours of each voxel, from -0.5 to 0.5, if it keeps its first point."""
    cloud = room("small_1")
    *_, cells = on_their_cells(cloud, "s3dis/small_1")
    x = voxelize([cells + 0.5], 1.0, reduce="first", features=cloud.features - 0.5)
    return apart(x.feats, tensor(FILE, "s3dis/small_1/feats")[:, 3:])


@item("06a S3DIS labels, cells given", unit="of 875 voxels")
def room_labels() -> float:
    """The label of each voxel where every point lies in the original's cell; in these rooms the
    first label of a voxel is its most frequent one."""
    return sum(unlike(on_their_cells(room(name), f"s3dis/{name}")[1],
                      golden(FILE)[f"s3dis/{name}/labels"]) for name in ROOMS)  # fmt: skip


@item("06a voxel of each point, cells given", unit="points")
def places() -> float:
    """The voxel in which each point of a room and of a scan lies, voxels in order."""
    apart_by = 0.0
    for key in ("s3dis/small_1", "s3dis/small_2", "kitti/val"):
        cells = tensor(FILE, f"{key}/all_coords")
        cells = torch.floor(cells - cells.amin(0)).long()
        apart_by += unlike(unique_rows(F.pad(cells, (1, 0)))[1], golden(FILE)[f"{key}/inverse_map"])
    return apart_by


@item("06a S3DIS cube around the centre", unit="points")
def clipped() -> float:
    """The points of a large room that are kept, and that a small room stays whole."""
    big, small = room("big_1").points, room("small_1").points
    kept = torch.zeros(len(big), dtype=torch.bool)
    kept[clip_to_cube(big, PAPER_ROOMS.clip)] = True
    whole = len(small) - len(clip_to_cube(small, PAPER_ROOMS.clip))
    return unlike(kept, golden(FILE)["s3dis/clip_big"]) + whole


@item("06a S3DIS points at test time", unit="of 900 points", by=230, differs="every point is "
      "predicted and counted; the original clips to the cube at test time, too")  # fmt: skip
def tested() -> float:
    """How many points of a large room are counted."""
    return abs(len(room("big_1").points) - len(golden(FILE)["s3dis/big_1/all_labels"]))


@item("06a S3DIS classes that are trained", unit="classes", by=1, differs="stairs are ignored; "
      "the original trains them as its class 10 and leaves them out of the counts alone")
def classes() -> float:
    """Names of the classes that have an output and a target."""
    return float(len(set(CLASS_NAMES) ^ set(golden(FILE)["CLASSES"].tolist())))


@item("06a S3DIS augmentation of a seed", 1e-6, differs=DRAWS, by=1.0)
def augmented() -> float:
    """Coordinates of a flipped room of seed 5."""
    cloud = room("small_1")
    points, _, _ = augment_scene(cloud.points, cloud.features, torch.Generator().manual_seed(5),
                                 PAPER_ROOMS)  # fmt: skip
    return apart(points, tensor(FILE, "s3dis/coord_aug_seed5"))


@item("06a SemanticKITTI classes of raw labels", unit="of 34 raw labels", by=5, differs="the "
      "official map; the original's ignores bus, on-rails, lane-marking and what moves of the "
      "first two")  # fmt: skip
def raw_labels() -> float:
    """The class of each raw label."""
    theirs = golden(FILE)["kitti/label_map"]
    ignored = np.where(theirs == 255, IGNORED, theirs)
    return float(sum(ignored[raw] != label for raw, label in LEARNING_MAP.items()))


@item("06a SemanticKITTI voxels", unit="sites", by=1109, differs=FLOORS)
def scan_sites() -> float:
    """The occupied voxels of a scan, counted from the lowest."""
    x, _ = VoxelEncoding(SIZE, centre=False).encode([scan()])
    coords = x.coords.clone()
    coords[:, 1:] -= coords[:, 1:].amin(0)
    return only_in_one(coords, batch_sites("kitti", 0))


@item("06a SemanticKITTI features, cells given", 1e-6, by=1.046, differs=MEANS + ", its intensity "
      "not shifted by 0.5")  # fmt: skip
def scan_features() -> float:
    """Coordinates and intensity of each voxel where every point lies in the original's cell."""
    x, *_ = on_their_cells(scan(), "kitti/val")
    return apart(x.feats, tensor(FILE, "kitti/val/feats"))


@item("06a SemanticKITTI labels, cells given", unit="of 672 voxels", by=15, differs=MEANS)
def scan_labels() -> float:
    """The label of each voxel where every point lies in the original's cell."""
    given, theirs = (np.where(golden(FILE)[f"kitti/val/{key}"] == 255, IGNORED,
                              golden(FILE)[f"kitti/val/{key}"])
                     for key in ("all_labels", "labels"))  # fmt: skip
    cloud = replace(scan(), labels=torch.from_numpy(given))
    return unlike(on_their_cells(cloud, "kitti/val")[1], theirs)


@item("06a SemanticKITTI cap", unit="voxels", by=10, differs="the cap is on the points of a "
      "scan before they become voxels, the original's on its voxels")  # fmt: skip
def cap() -> float:
    """How many voxels are left of a training scan at a cap of 300."""
    cloud = scan()
    points, *_ = augment_scene(cloud.points, cloud.features, torch.Generator().manual_seed(6),
                               SceneAugment(most=300))  # fmt: skip
    theirs = golden(FILE)["kitti/train_seed6_cap300/coords"]
    return abs(len(voxelize([points], SIZE).sites) - len(theirs))
