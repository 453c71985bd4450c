"""Points among voxels: a level's features at points, and points' features on a level."""

from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from i2p_lib.sparse.kernel_map import build_kernel_map, kernel_offsets
from i2p_lib.sparse.sites import Sites
from i2p_lib.sparse.sums import mean_rows
from i2p_lib.sparse.tensor import SparseTensor

CUBE = (2, 2, 2)


@dataclass(frozen=True, eq=False)
class Points:
    """The points of a batch, as torchsparse 1.2.0 has them among the voxels.

    ``places`` are floating point [P, 3], x, y, z in input voxels; ``batch`` int64 [P] names the
    sample of each. A cell lies where its lowest corner is, on every level.
    """

    places: Tensor
    batch: Tensor
    corners: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of_voxels(cls, x: SparseTensor) -> Self:
        """The occupied voxels of the finest level themselves, as the original's networks do."""
        finest = x.sites.level(1)
        places = finest.coords[:, 1:].float()
        return finest.pyramid.setdefault(("points",), cls(places, finest.batch))

    def interpolate(self, x: SparseTensor) -> Tensor:
        """Features [P, C] of a level at the points, trilinear between the corners of their cells.

        Corners without a site do not count: the weights of the others are divided by their sum
        + 1e-8 (torchsparse, ``nn/functional/devox.py: calc_ti_weights``; in the original
        ``core/models/utils.py: voxel_to_point``).
        """
        rows, weights = self._corners(x.sites)
        return F.embedding_bag(rows, x.feats, mode="sum", per_sample_weights=weights.to(x.dtype))

    def average(self, feats: Tensor, x: SparseTensor) -> SparseTensor:
        """The mean of ``feats`` [P, C] over the points in each cell of the level of ``x``.

        In the original ``core/models/utils.py: point_to_voxel``.
        """
        own = self._corners(x.sites)[0][:, 0]
        sizes = torch.bincount(own, minlength=len(x.sites))
        return x.replace(mean_rows(feats, own, sizes).to(feats.dtype))

    def _corners(self, sites: Sites) -> tuple[Tensor, Tensor]:
        """The rows of the 8 corners of each point's cell, the lowest first, and their weights."""
        if sites.stride in self.corners:
            return self.corners[sites.stride]
        cells = torch.floor(self.places / sites.stride)
        coords = torch.cat([self.batch[:, None], cells.long()], 1)
        pairs = build_kernel_map(sites.coords, coords, CUBE)
        offsets = kernel_offsets(CUBE, (0, 0, 0), 1).to(coords.device)
        share = ((self.places - cells * sites.stride).double() / sites.stride)[:, None]
        corners = torch.where(offsets == 1, share, 1 - share).prod(2)
        rows, weights = torch.zeros_like(corners).long(), torch.zeros_like(corners)
        for tap, rows_in, rows_out in pairs.taps():
            rows[rows_out, tap], weights[rows_out, tap] = rows_in, corners[rows_out, tap]
        self.corners[sites.stride] = rows, weights / (weights.sum(1, keepdim=True) + 1e-8)
        return self.corners[sites.stride]
