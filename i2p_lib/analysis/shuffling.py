"""Patch shuffling: clouds whose patches lost their arrangement, or the detail in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ("arrangement", "detail")


def shuffled(points: Tensor, size: float, kind: str, generator: torch.Generator) -> Tensor:
    """Return clouds [B, P, 3] with the cues of one kind destroyed, at patches of edge `size`.

    kind  "arrangement": `shuffle_patches`, each patch stays and the whole is destroyed;
          "detail": `scatter_in_patches`, the reverse
    Raises ValueError for another kind, another shape, or a size that is not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind of {KINDS}, got {kind!r}")
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"expected clouds [B, P, 3], got {list(points.shape)}")
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"expected patches of a positive size, got {size}")
    change = shuffle_patches if kind == "arrangement" else scatter_in_patches
    return torch.stack([change(cloud, size, generator) for cloud in points])


def shuffle_patches(cloud: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Return a cloud [P, 3] whose patches, the cells of a grid, have changed places at random.

    The cells of the smallest centred cube that holds the cloud, empty ones included, are dealt
    out anew.  A point keeps its place in its patch and its patch's other points, so every patch
    is as before, and none is where it was but by chance.  Where `size` is a multiple of a voxel's,
    so is every shift.
    """
    cells = torch.floor(cloud / size).long()
    half = int(torch.maximum(cells.max() + 1, -cells.min()))
    across = 2 * half
    number = ((cells[:, 0] + half) * across + cells[:, 1] + half) * across + cells[:, 2] + half
    dealt = torch.randperm(across**3, generator=generator).to(cloud.device)[number]
    places = torch.stack([dealt // across**2, dealt // across % across, dealt % across], 1) - half
    return cloud + (places - cells) * size


def scatter_in_patches(cloud: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Return a cloud [P, 3] whose points have been scattered evenly in their own patches' cells.

    Every cell keeps its number of points, so the whole stays as far as cells of this size show
    it, and no patch is left.
    """
    cells = torch.floor(cloud / size)
    scattered = torch.rand(cloud.shape, generator=generator, dtype=cloud.dtype)
    # rounding must not carry a point over its cell's upper wall
    upper = torch.nextafter((cells + 1) * size, cells * size)
    return torch.minimum((cells + scattered.to(cloud.device)) * size, upper)
