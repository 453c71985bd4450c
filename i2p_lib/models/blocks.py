"""The encoding of PointNet++: a scene as blocks of equally many points, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.labelled import Device, Draw, Encoded, Labelled, Scenes, cloud_of


@dataclass(frozen=True)
class BlockEncoding:
    """Upright columns of a scene with a square base, of equally many points each.

    block_size     edge of the base in metres
    block_points   points of a block
    blocks         random blocks of each scene in one training step

    A point's row: its place in metres from the middle of the base and above the scene's lowest
    point, its features shifted to -0.5..0.5, and its relative place 0..1 in the scene.
    In training, blocks lie around random points, and their points are drawn without repeats where
    there are enough.  A whole scene is covered by blocks that overlap by half; the points of each
    are parted into as many inputs as it takes, and a point's score is the mean probability over
    all the blocks that it lies in.
    """

    place_channels: ClassVar[int] = 3  # the relative place; PointNet++ does not count the other
    block_size: float = 1.0
    block_points: int = 4096
    blocks: int = 4

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are block by block."""
        generator = generator or torch.Generator().manual_seed(0)
        rows, targets = [], []
        for scene in scenes:
            points, features, labels = cloud_of(scene, "cpu")
            for _ in range(self.blocks):
                middle = points[torch.randint(len(points), (), generator=generator), :2]
                near = (points[:, :2] - middle).abs().amax(1) <= self.block_size / 2
                inside = near.nonzero().squeeze(1)
                order = torch.randperm(len(inside), generator=generator)[: self.block_points]
                extra = torch.randint(len(inside), (self.block_points - len(order),),
                                      generator=generator)  # fmt: skip
                chosen = inside[torch.cat([order, extra])]
                rows.append(_block_rows(points, features, chosen, middle))
                targets.append(labels[chosen])
        return torch.stack(rows).to(device), torch.cat(targets).to(device)

    def predict(
        self, net: nn.Module, scene: Labelled, device: Device = "cpu", batch: int = 8
    ) -> Tensor:
        """See ``Encoding``; `batch` inputs at a time."""
        points, features, _ = cloud_of(scene, "cpu")
        parts = self._parts(points)
        total = None
        with evaluated(net):
            for first in range(0, len(parts), batch):
                some = parts[first : first + batch]
                rows = [_block_rows(points, features, chosen, middle) for chosen, _, middle in some]
                scores = net(torch.stack(rows).to(device)).softmax(1)
                fresh = torch.cat([fresh for _, fresh, _ in some]).to(device)
                chosen = torch.cat([chosen for chosen, _, _ in some]).to(device)[fresh]
                if total is None:
                    total = scores.new_zeros(len(points), scores.shape[1])
                total.index_add_(0, chosen, scores[fresh])
        return total / total.sum(1, keepdim=True)

    def _parts(self, points: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each input of a whole scene: its points, which of them are no repeats, its middle."""
        generator = torch.Generator().manual_seed(0)
        half, low = self.block_size / 2, points[:, :2].amin(0)
        cell = torch.floor((points[:, :2] - low) / half).long()
        across, along = (cell.amax(0) + 1).tolist()
        number = cell[:, 0] * along + cell[:, 1]
        order = torch.argsort(number, stable=True)
        ends = torch.bincount(number, minlength=across * along).cumsum(0).tolist()
        members = [order[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        parts = []
        for i in range(max(1, across - 1)):
            for j in range(max(1, along - 1)):
                inside = torch.cat([members[x * along + y] for x in (i, i + 1) if x < across
                                    for y in (j, j + 1) if y < along])  # fmt: skip
                if not len(inside):
                    continue
                inside = inside[torch.randperm(len(inside), generator=generator)]
                place = torch.arange(-(-len(inside) // self.block_points) * self.block_points)
                middle = low + half * points.new_tensor([i + 1, j + 1])
                parts += [(inside[p % len(inside)], p < len(inside), middle)
                          for p in place.split(self.block_points)]  # fmt: skip
        return parts


def _block_rows(points: Tensor, features: Tensor, chosen: Tensor, middle: Tensor) -> Tensor:
    """[P, 3 + F + 3]: see ``BlockEncoding``."""
    low, high = points.amin(0), points.amax(0)
    place = points[chosen]
    local = place - torch.cat([middle, low[2:]])
    relative = (place - low) / (high - low).clamp_min(1e-6)
    return torch.cat([local, features[chosen] - 0.5, relative], 1)
