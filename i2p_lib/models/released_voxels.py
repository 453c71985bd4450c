"""Rooms and scans as voxels in the way of the paper's code, for runs that repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2p_lib.data.scene_transforms import at_most
from i2p_lib.data.scenes import Scene
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.encodings import Device, Draw, Encoded, Scenes, cloud_of
from i2p_lib.sparse import Points, SparseTensor, voxelize
from i2p_lib.sparse.kernel_map import unique_rows


class Rows(NamedTuple):
    """What is kept of a scene: cells [R, 3] float32, features [R, 3 + F], labels [R]; and the row
    of each of the scene's points."""

    cells: Tensor
    features: Tensor
    labels: Tensor
    of_point: Tensor


@dataclass(frozen=True)
class ReleasedVoxels:
    """The first point of each cell, round(place / voxel_size), with its label; answers are rows'.

    voxel_size  edge in metres
    centre      True for rooms (``core/datasets/s3dis.py``): cells count from their mean and are
                cut to integers behind it, so -1 < cell < 1 is one layer; a row's features are its
                cell, from the mean, and its colours from -0.5 to 0.5. False for scans
                (``core/datasets/semantic_kitti.py``): cells count from the lowest; features are
                the point in metres and its intensity
    most        training keeps at most so many rows of a scene

    The network's voxels hold the means of the rows that floor((n v) / v) in float32 puts together,
    which merges some layers of negative n (``core/models/utils.py: initial_voxelize``); its
    logits are read at the rows.
    """

    place_channels: ClassVar[int] = 3
    voxel_size: float = 0.05
    centre: bool = True
    most: int | None = None

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are those of the scenes' rows. A generator caps them."""
        kept = []
        for rows in (self.rows(scene, device) for scene in scenes):
            if self.most and generator is not None:
                chosen = at_most(len(rows.cells), self.most, generator).to(rows.cells.device)
                rows = Rows(*(part[chosen] for part in rows[:3]), rows.of_point)
            kept.append(rows)
        return self._voxels(kept), torch.cat([rows.labels for rows in kept])

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        """See ``Encoding``; each point gets the answer of its cell's row."""
        rows = self.rows(scene, device)
        with evaluated(net):
            return net(self._voxels([rows]))[rows.of_point]

    def rows(self, scene: Scene, device: Device = "cpu") -> Rows:
        """Return the rows of a scene, sorted by their cells."""
        points, features, labels = cloud_of(scene, device)
        cells = torch.round(points / self.voxel_size)
        if self.centre:  # numpy's mean adds float32 in another order than torch's
            cells = cells - torch.from_numpy(cells.cpu().numpy().mean(0)).to(cells)
            features = torch.cat([cells, features - 0.5], 1)
        else:
            cells = cells - cells.amin(0)
            features = torch.cat([points, features], 1)
        _, place, counts = unique_rows(F.pad(torch.floor(cells).long(), (1, 0)))
        numbers = torch.arange(len(place), device=place.device)
        first = numbers.new_full((len(counts),), len(place))
        first.scatter_reduce_(0, place, numbers, "amin")
        return Rows(cells[first], features[first], labels[first], place)

    def _voxels(self, kept: list[Rows]) -> SparseTensor:
        """The voxels of a batch; they know the rows as the points among them."""
        size = self.voxel_size
        places = [(rows.cells.trunc() * size) / size for rows in kept]
        x = voxelize(places, 1.0, features=torch.cat([rows.features for rows in kept]))
        batch = [place.new_full((len(place),), i).long() for i, place in enumerate(places)]
        x.sites.pyramid["points",] = Points(torch.cat(places), torch.cat(batch))
        return x
