"""What is measured on: voxel sets of real objects and of a closed surface, and the demo's batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from i2p_lib.data import load_dataset
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sparse import Sites, SparseTensor, voxelize

BATCH = 16  # objects of a batch, as in the demo
AXES = (1.0, 0.8, 0.6)  # half axes of the ellipsoid
VOXELS_PER_AREA = 10.4  # voxels that the ellipsoid meets, times the square of their size
DENSITY = 8  # points sampled per voxel of the surface


@dataclass(frozen=True)
class VoxelSet:
    """A named level of sites, whose maps are built once and then shared by all layers."""

    name: str
    sites: Sites

    def __len__(self) -> int:
        return len(self.sites)


def voxel_sets(most: int, device: torch.device) -> list[VoxelSet]:
    """Return the sets of about 500 to `most` voxels: objects, then the surface."""
    objects = clouds(BATCH)
    sets = [VoxelSet("one object, 0.08", voxelize(objects[:1], 0.08).sites)]
    sets += [VoxelSet(f"objects, {size}", voxelize(objects, size).sites)
             for size in (0.16, 0.08, 0.05)]
    sets += [VoxelSet(f"surface, {n:,}", voxelize([surface(n)], size_for(n)).sites)
             for n in (50_000, 500_000) if n <= most]
    return [replace(one, sites=one.sites.to(device)) for one in sets if len(one) <= 1.2 * most]


def clouds(count: int) -> list[Tensor]:
    """Return training clouds of the home objects [2048, 3], drawn with a fixed seed."""
    objects = load_dataset("home_objects", "train")
    order = torch.randperm(len(objects.points), generator=torch.Generator().manual_seed(0))
    return [torch.tensor(objects.points[i]) for i in order[:count].tolist()]


def surface(voxels: int) -> Tensor:
    """Return points [N, 3] on an ellipsoid, dense enough for that many voxels (`size_for`)."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.randn(DENSITY * voxels, 3, generator=generator)
    return ball / ball.norm(dim=1, keepdim=True) * torch.tensor(AXES)


def size_for(voxels: int) -> float:
    """Return the voxel size at which the ellipsoid meets about that many voxels."""
    return (VOXELS_PER_AREA / voxels) ** 0.5


def demo_spec(model: str, **changes: object) -> RunSpec:
    """Return the demo's setting for a network, all layers trained from random weights."""
    demo = load_profile("demo").experiment("regimes")[0]
    return demo.but(model=model, weights="random", regime="all", probe_epochs=(), **changes)


def fresh(x: SparseTensor) -> SparseTensor:
    """Return the same voxels without any level or map that was built for them."""
    sites = x.sites
    return SparseTensor(x.feats, Sites(sites.coords, sites.batch_size, sites.stride))
