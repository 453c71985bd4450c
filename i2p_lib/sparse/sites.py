"""Occupied grid sites, their coarser levels, and the kernel maps that they share."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from i2p_lib.sparse.kernel_map import KernelMap, Triple, build_kernel_map, once, unique_rows


@dataclass(frozen=True, eq=False)
class Sites:
    """Occupied grid sites of one level of one batch.

    ``coords`` is int64 [N, 4], (batch, x, y, z), in units of this level's cells; ``stride`` is the
    size of such a cell in input voxels. All levels of one batch share ``pyramid``, which keeps
    levels and kernel maps. ``extruded`` is an axis (0, 1 or 2) along which the volume counts as
    constant and infinite.
    """

    coords: Tensor
    batch_size: int
    stride: int = 1
    extruded: int | None = None
    pyramid: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.pyramid.setdefault(("sites", self.stride), self)

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def batch(self) -> Tensor:
        """The sample of each site, int64 [N]."""
        return self.coords[:, 0]

    @cached_property
    def counts(self) -> Tensor:
        """Sites per sample, int64 [B]; `bincount` would make a GPU wait for its largest value."""
        ones = torch.ones_like(self.batch)
        return ones.new_zeros(self.batch_size).index_add_(0, self.batch, ones)

    def level(self, stride: int) -> Self:
        """The cached level of that stride; ValueError where no layer has made it yet."""
        if ("sites", stride) not in self.pyramid:
            have = sorted(key[1] for key in self.pyramid if key[0] == "sites")
            raise ValueError(f"no sites of stride {stride} are known (only {have}): a transposed "
                             "convolution goes back to sites that a strided layer came from")
        return self.pyramid[("sites", stride)]

    def downsample(self, factor: int) -> Self:
        """The level ``unique(floor(c / factor))`` of all strided layers, whatever their kernel."""
        stride = self.stride * factor

        def coarse() -> Sites:
            sizes = self.coords.new_tensor([1, *[factor] * 3])
            cells = unique_rows(self.coords.div(sizes, rounding_mode="floor"))[0]
            return Sites(cells, self.batch_size, stride, self.extruded, self.pyramid)

        return once(self.pyramid, ("sites", stride), coarse)

    def kernel_map(self, kernel: Triple, stride: int = 1, padding: Triple = (0, 0, 0),
                   dilation: int = 1) -> KernelMap:  # fmt: skip
        """The map of a (strided) convolution from this level, built once and then shared."""
        key = ("map", self.stride, kernel, stride, padding, dilation)
        return once(self.pyramid, key, lambda: build_kernel_map(
            self.coords, self.downsample(stride).coords, *key[2:], self.extruded))

    def to(self, device: torch.device | str) -> Self:
        """These sites, maps included, where they lie there already; else new ones without maps."""
        coords = self.coords.to(device)
        if coords is self.coords:
            return self
        return Sites(coords, self.batch_size, self.stride, self.extruded)


def checked_sites(coords: Tensor, batch_size: int | None) -> Sites:
    """Return the sites of integer coordinates [N, 4], (batch, x, y, z).

    batch_size: None takes the largest batch index + 1.
    Raises TypeError for other than integers, ValueError for a wrong shape, a batch index out of
    range, or a site twice.
    """
    if not isinstance(coords, Tensor) or coords.is_floating_point() or coords.dtype == torch.bool:
        got = f"{type(coords).__name__} of {getattr(coords, 'dtype', 'none')}"
        raise TypeError("coordinates must be integers in a torch.Tensor, got "
                        f"{got}: voxelize points first")
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ValueError(f"coordinates must be [N, 4] (batch, x, y, z), got {list(coords.shape)}")
    coords = coords.long()
    low, high = coords[:, 0].aminmax() if len(coords) else (0, -1)
    batch_size = int(high) + 1 if batch_size is None else batch_size
    if low < 0 or high >= batch_size:
        raise ValueError(f"batch indices must lie in 0..{batch_size - 1}")
    if len(unique_rows(coords)[0]) != len(coords):
        raise ValueError("a site occurs twice: merge the points of one voxel first (voxelize)")
    return Sites(coords, batch_size)
