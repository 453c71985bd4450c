"""01: from points to voxels, the augmentation before, and the float32 grid of negative places."""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_lib.data import PAPER_AUGMENT, augment
from i2p_lib.sparse import Points, SparseTensor, voxelize
from tests.golden.items import item
from tests.golden.original import (
    apart,
    golden,
    in_order,
    only_in_one,
    our_sites,
    tensor,
    unlike,
)

CLOUDS, SPAN, BLOCK = (
    "01_voxelisation_modelnet", "01b_roundtrip_initial_voxelize",
    "01c_initial_voxelize_negative_float64",
)  # fmt: skip
SIZE = 0.05
DRAWS = ("random numbers come from an explicit torch generator, the original's from the global "
         "states of random and numpy")  # fmt: skip


def kept(points: Tensor) -> SparseTensor:
    """Our voxels of clouds on the original's grid."""
    return voxelize(points, SIZE, reduce="first", grid="round")


@item("01 voxels of a batch", unit="sites")
def batch_sites() -> float:
    """The occupied voxels of four clouds."""
    found = kept(tensor(CLOUDS, "points"))
    return only_in_one(found.coords, our_sites(tensor(CLOUDS, "batch_coords")))


@item("01 cell of a coordinate", unit="of 121 coordinates")
def rounding() -> float:
    """The cell of each of 121 coordinates between -3 and 3 voxels, halves included, beside the
    lowest."""
    line, theirs = tensor(CLOUDS, "round_in"), golden(CLOUDS)["round_out"]
    clouds = torch.stack([line.amin().expand_as(line), line], 1)[:, :, None].expand(-1, -1, 3)
    x = kept(clouds)
    found = [int(x.coords[x.coords[:, 0] == n, 1].max()) for n in range(len(line))]
    return unlike(found, theirs - theirs.min())


@item("01 point that a voxel keeps", unit="voxels")
def first_points() -> float:
    """Which point a voxel keeps, the order of voxels, the voxel of each point, and the same for
    the first 300 points of a cloud."""
    data, apart_by = golden(CLOUDS), 0.0
    for i, points in enumerate(tensor(CLOUDS, "points")):
        voxels = kept(points[None])
        cells = voxels.coords[:, 1:]
        apart_by += unlike(cells, data[f"test{i}_coords"])
        apart_by += unlike(voxels.feats, data[f"test{i}_feats"])
        apart_by += unlike(points[tensor(CLOUDS, f"test{i}_inds")], voxels.feats)
        places = cells[tensor(CLOUDS, f"test{i}_inverse_map").long()]
        apart_by += unlike(places, data[f"test{i}_all_coords"])
    voxels = kept(tensor(CLOUDS, "points")[2:3, :300])
    apart_by += unlike(voxels.coords[:, 1:], data["test2_cut300_coords"])
    return apart_by + unlike(voxels.feats, data["test2_cut300_feats"])


@item("01 augmentation of a seed", 1e-6, differs=DRAWS, by=0.423)
def transformed() -> float:
    """Scaled, shifted and jittered clouds of seed 7."""
    chosen = type(PAPER_AUGMENT)(**(vars(PAPER_AUGMENT) | {"shuffle": False}))
    points = tensor(CLOUDS, "points")
    found = augment(points, torch.Generator().manual_seed(7), chosen)
    return apart(found, tensor(CLOUDS, "transform_seed7"))


@item("01 training clouds of a seed", unit="sites", differs=DRAWS, by=3283)
def training_sites() -> float:
    """The voxels of four shuffled and augmented training clouds of seed 123."""
    points = tensor(CLOUDS, "points")
    changed = augment(points, torch.Generator().manual_seed(123), PAPER_AUGMENT)
    theirs = [torch.nn.functional.pad(tensor(CLOUDS, f"train{i}_coords").long(), (0, 1), value=i)
              for i in range(4)]  # fmt: skip
    return only_in_one(kept(changed).coords, our_sites(torch.cat(theirs)))


@item("01 stored clouds after an epoch", on_purpose=True, by=1.771,
      differs="the original shuffles and transforms the stored array itself, which lasts where "
      "no worker processes copy it; the library never writes to its clouds")  # fmt: skip
def stored() -> float:
    """The clouds in memory after each was asked for once."""
    points = tensor(CLOUDS, "points").clone()
    augment(points, torch.Generator().manual_seed(123), PAPER_AUGMENT)
    return apart(points, tensor(CLOUDS, "train_data_after"))


@item("01b floor of n v over v", unit="of 42,007 coordinates")
def round_trip() -> float:
    """floor((n v) / v) in float32 for n from -3000 to 3000 and seven voxel sizes."""
    n, apart_by = tensor(SPAN, "n"), 0.0
    for size in ("0.05", "0.1", "0.02", "0.2", "0.025", "0.03", "0.04"):
        line = (n * float(size))[:, None, None].expand(-1, 1, 3)
        found = voxelize(line, float(size)).coords[:, 1]
        apart_by += unlike(found, golden(SPAN)[f"floor_cpu_{size}"])
    return apart_by


def block(suffix: str, size: float) -> tuple[SparseTensor, Points, str]:
    """Our voxels of the block of negative places, its points among them, the file."""
    file = BLOCK + suffix
    places = tensor(file, "coords").float() * torch.tensor([size, size, size, 1])
    places, batch = places[:, :3], places[:, 3].long()
    clouds = [places[batch == b] for b in batch.unique()]
    x = voxelize(clouds, size, features=tensor(file, "feats")[batch.argsort(stable=True)],
                 dtype=torch.float64)  # fmt: skip
    return x, Points(places / size, batch), file


for _suffix, _size in (("", SIZE), ("_exact", 1.0)):

    @item(f"01c voxels at negative places{_suffix.replace('_', ', ')}", 1e-12)
    def negative(suffix: str = _suffix, size: float = _size) -> float:
        """Sites and mean features of points at (n v) / v in float32 (exact: v = 1)."""
        found, _, file = block(suffix, size)
        theirs = our_sites(tensor(file, "voxel_C"))
        if only_in_one(found.coords, theirs):
            return 1.0
        return apart(in_order(found.coords, found.feats),
                     in_order(theirs, tensor(file, "voxel_F")))  # fmt: skip

    @item(f"01c features back at the points{_suffix.replace('_', ', ')}", 1e-12)
    def back(suffix: str = _suffix, size: float = _size) -> float:
        """What points at negative places get back from the voxels of stride 1, and the voxels from
        them."""
        found, points, file = block(suffix, size)
        feats = points.interpolate(found)
        theirs = in_order(our_sites(tensor(file, "voxel_C")), tensor(file, "revoxel_F"))
        again = points.average(tensor(file, "point_F"), found)
        return max(apart(feats, tensor(file, "point_F")),
                   apart(in_order(again.coords, again.feats), theirs))  # fmt: skip
