"""From points to a SparseTensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from i2p_lib.sparse.kernel_map import unique_rows
from i2p_lib.sparse.sites import Sites
from i2p_lib.sparse.sums import mean_rows
from i2p_lib.sparse.tensor import SparseTensor

COORD_LIMIT = 2**30


def voxelize(points: Sequence[np.ndarray | Tensor] | np.ndarray | Tensor, voxel_size: float,
             reduce: Literal["mean", "first"] = "mean", features: Tensor | None = None,
             grid: Literal["floor", "round"] = "floor") -> SparseTensor:  # fmt: skip
    """Put points into cubic voxels; one site for each voxel that holds a point.

    Args:
        points: B clouds, each [N_i, 3], or one array [B, N, 3]; x, y, z in any unit.
        voxel_size: edge of a voxel in that unit.
        reduce: ``"mean"`` of the points in a voxel (the paper's text, section 3), or the
            ``"first"`` point of it in the order given (what the released code keeps).
        features: [sum of N_i, C] features of the points; default: their coordinates.
        grid: a point falls into the voxel ``floor(xyz / size)``; or, as the released code has it
            (``core/datasets/modelnet.py``), into ``round(xyz / size)``, half to even, less the
            lowest of its cloud on each axis.

    Returns:
        A float32 SparseTensor (float64 for float64 points), its sites sorted by (batch, x, y, z).

    Raises TypeError for points that are not floating point, ValueError for a wrong shape, NaN or
    infinite coordinates, an empty batch, a voxel size that is not positive, or one so small that
    the grid has more than 2^30 cells along an axis.
    """
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(f"voxel_size must be a positive number, got {voxel_size}")
    if reduce not in ("mean", "first") or grid not in ("floor", "round"):
        raise ValueError("reduce must be 'mean' or 'first' and grid 'floor' or 'round', got "
                         f"{reduce!r} and {grid!r}")
    clouds = [_cloud(cloud, i) for i, cloud in enumerate(points)]
    if not clouds:
        raise ValueError("an empty batch cannot be voxelised: give at least one cloud")
    xyz = torch.cat(clouds)
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    batch = torch.repeat_interleave(torch.arange(len(clouds)), sizes).to(xyz.device)
    if features is None:
        features = xyz
    elif features.ndim != 2 or len(features) != len(xyz):
        raise ValueError(f"features must be [{len(xyz)}, C], got {list(features.shape)}")
    elif not torch.isfinite(features).all():
        raise ValueError("the features hold NaN or infinite values")
    cells = (torch.floor if grid == "floor" else torch.round)(xyz / voxel_size)
    if grid == "round":
        lowest = cells.new_full((len(clouds), 3), torch.inf)
        owner = batch[:, None].expand_as(cells)
        cells -= lowest.scatter_reduce_(0, owner, cells, "amin")[batch]
    if len(cells) and not float(cells.abs().max()) <= COORD_LIMIT:
        if wrong := batch[~torch.isfinite(xyz).all(1)].tolist():
            raise ValueError(f"cloud {wrong[0]} has NaN or infinite coordinates: remove the points")
        raise ValueError(f"voxel_size {voxel_size} gives more than 2^30 cells along an axis: use a "
                         "larger one or centre the points")
    coords = torch.cat([batch[:, None], cells.long()], 1)
    unique, place, counts = unique_rows(coords)
    if reduce == "mean":
        feats = mean_rows(features, place, counts).to(features.dtype)
    else:
        first = place.new_full((len(unique),), len(place))
        first.scatter_reduce_(0, place, torch.arange(len(place), device=place.device), "amin")
        feats = features[first]
    return SparseTensor(feats, Sites(unique, len(clouds)))


def _cloud(cloud: np.ndarray | Tensor, index: int) -> Tensor:
    cloud = torch.as_tensor(cloud)
    if not cloud.is_floating_point():
        raise TypeError(f"cloud {index} must be floating point, got {cloud.dtype}")
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise ValueError(f"cloud {index} must be [N, 3], got {list(cloud.shape)}")
    return cloud if cloud.dtype == torch.float64 else cloud.float()
