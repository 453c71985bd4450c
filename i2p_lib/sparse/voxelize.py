"""From points to a SparseTensor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from i2p_lib.sparse.kernel_map import unique_cells
from i2p_lib.sparse.sites import Sites
from i2p_lib.sparse.sums import mean_rows
from i2p_lib.sparse.tensor import SparseTensor

COORD_LIMIT = 2**30
GRID = 32  # voxels along a cloud: four places are left behind a total stride of 8
_WARNED: set[float] = set()  # voxel sizes: a warning comes once, not with every batch
MANY_CELLS = 512  # along a cloud whose points all have a voxel of their own


def voxelize(points: Sequence[np.ndarray | Tensor] | np.ndarray | Tensor, voxel_size: float,
             reduce: Literal["mean", "first"] = "mean", features: np.ndarray | Tensor | None = None,
             grid: Literal["floor", "round"] = "floor",
             dtype: torch.dtype = torch.float32) -> SparseTensor:  # fmt: skip
    """Put points into cubic voxels; one site for each voxel that holds a point.

    Args:
        points: B clouds, each [N_i, 3], or one array [B, N, 3]; x, y, z in any unit. Arrays of any
            byte order and layout, read-only ones as well.
        voxel_size: edge of a voxel in that unit.
        reduce: ``"mean"`` of the points in a voxel (the paper's text, section 3), or the
            ``"first"`` point of it in the order given (what the released code keeps).
        features: [sum of N_i, C] features of the points; default: their coordinates.
        grid: a point falls into the voxel ``floor(xyz / size)``; or, as the released code has it
            (``core/datasets/modelnet.py``), into ``round(xyz / size)``, half to even, less the
            lowest of its cloud on each axis.
        dtype: number format of the site features; cells and means of float64 points are computed
            in float64 all the same.

    Returns:
        A SparseTensor, its sites sorted by (batch, x, y, z).

    Raises TypeError for points or features that are not floating point, ValueError for a wrong
    shape, NaN or infinite values, an empty batch, a voxel size that is not one positive number, or
    one so small that the grid has more than 2^30 cells along an axis.  Warns where voxels do not
    fit the unit of the points: one voxel a point in a cloud of many cells, or one in all.
    """
    if getattr(voxel_size, "ndim", None) == 0:  # a number in an array
        voxel_size = voxel_size.item()
    if not (isinstance(voxel_size, Real) and 0 < voxel_size < np.inf):
        raise ValueError("voxel_size must be a positive number, the edge of cubic voxels, got "
                         f"{voxel_size!r}")
    if reduce not in ("mean", "first") or grid not in ("floor", "round"):
        raise ValueError("reduce must be 'mean' or 'first' and grid 'floor' or 'round', got "
                         f"{reduce!r} and {grid!r}")
    clouds = [_cloud(cloud, i) for i, cloud in enumerate(points)]
    if not clouds:
        raise ValueError("an empty batch cannot be voxelised: give at least one cloud")
    xyz = torch.cat(clouds) if len(clouds) > 1 else clouds[0]
    sizes = [len(cloud) for cloud in clouds]
    batch = torch.repeat_interleave(
        torch.arange(len(clouds), dtype=torch.int32), torch.tensor(sizes)).to(xyz.device)
    features = xyz if features is None else _floats(features, "features")
    if features.ndim != 2 or len(features) != len(xyz):
        raise ValueError(f"features must be [{len(xyz)}, C], got {list(features.shape)}")
    if features is not xyz and not torch.isfinite(features).all():
        raise ValueError("the features hold NaN or infinite values")
    columns = [batch]
    for axis in xyz.detach().unbind(1):  # one at a time: of many points all would fill memory
        cells = axis / voxel_size
        cells = cells.floor_() if grid == "floor" else cells.round_()
        for cloud in cells.split(sizes) if grid == "round" else ():
            if len(cloud):
                cloud -= cloud.amin()
        low, high = cells.aminmax() if len(cells) else (0, 0)
        if not (-COORD_LIMIT <= low and high <= COORD_LIMIT):
            if wrong := batch[~torch.isfinite(xyz).all(1)].tolist():
                raise ValueError(f"cloud {wrong[0]} has NaN or infinite coordinates: remove the "
                                 "points")
            raise ValueError(f"voxel_size {voxel_size} gives more than 2^30 cells along an axis: "
                             "use a larger one or centre the points")
        columns.append(cells.int())
    del cells
    unique, place, counts = unique_cells(columns)
    del columns
    if not 8 * len(clouds) < len(unique) < 0.99 * len(xyz) and len(xyz) >= 64 * len(clouds):
        _warn_of_scale(clouds[0], len(unique) / len(xyz), voxel_size)
    if reduce == "mean":
        feats = mean_rows(features, place, counts)
    else:
        first = place.new_full((len(unique),), len(place))
        first.scatter_reduce_(0, place, torch.arange(len(place), device=place.device), "amin")
        feats = features[first]
    return SparseTensor(feats.to(dtype), Sites(unique, len(clouds)))


def _warn_of_scale(cloud: Tensor, share: float, voxel_size: float) -> None:
    """Say that voxels do not fit a cloud's unit: no point has a neighbour, or all share one."""
    low, high = cloud.amin(0), cloud.amax(0)
    longest, middle = float((high - low).max()), float((high + low).abs().max()) / 2
    if voxel_size in _WARNED or (share > 0.5 and longest < MANY_CELLS * voxel_size):
        return  # it was said; or few points, in voxels of a sensible size
    _WARNED.add(voxel_size)
    far = f" and lie {middle:.3g} from the origin" if middle > 2 * longest else ""
    warnings.warn(
        f"at voxel_size {voxel_size:g} clouds have {share:.3g} voxels per point: they are "
        f"{longest:.3g} long{far}, so a network sees no shape in them. Try voxel_size="
        f"{longest / GRID:.2g}, or centre them and scale them to the unit sphere", stacklevel=3)


def _cloud(cloud: np.ndarray | Tensor, index: int) -> Tensor:
    cloud = _floats(cloud, f"cloud {index}")
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        hint = "; a single cloud goes into a list: [points]" if cloud.ndim == 1 else ""
        raise ValueError(f"cloud {index} must be [N, 3], got {list(cloud.shape)}{hint}")
    return cloud


def _floats(values: np.ndarray | Tensor, name: str) -> Tensor:
    """Values as float64 if they have it, else float32; TypeError where they are no such numbers."""
    try:
        found = values if isinstance(values, np.ndarray | Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a floating point array, got {type(values).__name__} that "
                        f"is none: {error}") from error
    if isinstance(found, np.ndarray) and found.dtype.kind == "f":  # torch takes only some layouts
        found = torch.from_numpy(found.astype(
            np.float32 if found.itemsize < 8 else np.float64, order="C",
            copy=not found.flags.writeable))
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {found.dtype}")
    return found if found.dtype == torch.float64 else found.float()
