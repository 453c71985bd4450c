"""How scenes become what a network takes, and its answers become answers for the scenes' points."""

from collections.abc import Sequence
from itertools import product
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from i2p_lib.data.scene_transforms import at_most
from i2p_lib.data.scenes import IGNORED, Scene
from i2p_lib.inflation.trace import evaluated
from i2p_lib.sparse import Points, SparseTensor, voxelize
from i2p_lib.sparse.kernel_map import unique_rows

Scenes = Sequence[Scene]
Device = torch.device | str
Draws = Sequence[torch.Generator] | None
Encoded = tuple[SparseTensor | Tensor, Tensor]

INPUTS = 8  # blocks of a scene that are predicted at a time


class Encoding:
    """The way from scenes into a network and back.

    place_channels: channels of the network's input besides the F features of a point.
    """

    place_channels: ClassVar[int]

    def encode(self, scenes: Scenes, device: Device = "cpu", generators: Draws = None) -> Encoded:
        """Return the network's input, and the targets [M] int64 of its M answers (or IGNORED).

        generators: one for each scene, for what is drawn; None draws the same each time.
        """
        raise NotImplementedError

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        """Return scores [N, C] of the scene's own N points, in their order."""
        raise NotImplementedError


def cloud_of(scene: Scene, device: Device) -> tuple[Tensor, Tensor, Tensor]:
    """Return points and features as float32, labels as int64, on the device.

    Raises ValueError where points and features do not fit.
    """
    points, features = (torch.as_tensor(values, dtype=torch.float32, device=device)
                        for values in (scene.points, scene.features))  # fmt: skip
    if points.shape[1:] != (3,) or features.ndim != 2 or not len(points) == len(features) > 0:
        raise ValueError("expected a scene with points [N, 3] and features [N, F], N at least 1, "
                         f"got {list(points.shape)} and {list(features.shape)}")
    return points, features, torch.as_tensor(scene.labels, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class VoxelEncoding(Encoding):
    """Voxels whose features are the means of their points' coordinates and features.

    voxel_size   edge in metres
    centre       coordinates count from the scene's mean (rooms, as in the paper's code), else from
                 the origin (scans, whose origin is the sensor)

    Colours and intensities are shifted to -0.5..0.5. A voxel's target is the most frequent label
    of its points. Answers are in the order of the sites; each point gets that of its voxel.
    """

    place_channels: ClassVar[int] = 3  # x, y, z
    voxel_size: float = 0.05
    centre: bool = True

    def encode(self, scenes: Scenes, device: Device = "cpu", generators: Draws = None) -> Encoded:
        x, voxel, labels = self._voxels(scenes, device)
        return x, most_frequent(labels, voxel, len(x.sites))

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        x, voxel, _ = self._voxels([scene], device)
        with evaluated(net):
            return net(x)[voxel]

    def _voxels(self, scenes: Scenes, device: Device) -> tuple[SparseTensor, Tensor, Tensor]:
        """The voxels, the row of each point's voxel among the sorted sites, and its label."""
        clouds, features, labels = zip(*(cloud_of(scene, device) for scene in scenes), strict=True)
        if self.centre:
            clouds = [points - points.double().mean(0).to(points.dtype) for points in clouds]
        rows = torch.cat([torch.cat(clouds), torch.cat(features) - 0.5], 1)
        cells = [F.pad(torch.floor(points / self.voxel_size).long(), (1, 0), value=sample)
                 for sample, points in enumerate(clouds)]  # fmt: skip
        x = voxelize(clouds, self.voxel_size, features=rows)
        return x, unique_rows(torch.cat(cells))[1], torch.cat(labels)


class Rows(NamedTuple):
    """What is kept of a scene: cells [R, 3] float32, features [R, 3 + F], labels [R]; and the row
    of each of the scene's points."""

    cells: Tensor
    features: Tensor
    labels: Tensor
    of_point: Tensor


@dataclass(frozen=True)
class ReleasedVoxels(Encoding):
    """The rooms and scans of the paper's code: the first point of each cell, with its label.

    A cell is round(place / voxel_size). Answers are those of the scenes' rows, one for each cell;
    a point gets its cell's. With generators the rows are capped.

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

    def encode(self, scenes: Scenes, device: Device = "cpu", generators: Draws = None) -> Encoded:
        kept = []
        for scene, generator in zip(scenes, generators or [None] * len(scenes), strict=True):
            rows = self.rows(scene, device)
            if self.most and generator is not None:
                chosen = at_most(len(rows.cells), self.most, generator).to(rows.cells.device)
                rows = Rows(*(part[chosen] for part in rows[:3]), rows.of_point)
            kept.append(rows)
        return self._voxels(kept), torch.cat([rows.labels for rows in kept])

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
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
        first = first_rows(place, len(counts))
        return Rows(cells[first], features[first], labels[first], place)

    def _voxels(self, kept: list[Rows]) -> SparseTensor:
        """The voxels of a batch; they know the rows as the points among them."""
        size = self.voxel_size
        places = [(rows.cells.trunc() * size) / size for rows in kept]
        x = voxelize(places, 1.0, features=torch.cat([rows.features for rows in kept]))
        batch = [place.new_full((len(place),), i).long() for i, place in enumerate(places)]
        x.sites.pyramid["points",] = Points(torch.cat(places), torch.cat(batch))
        return x


@dataclass(frozen=True)
class BlockEncoding(Encoding):
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

    def encode(self, scenes: Scenes, device: Device = "cpu", generators: Draws = None) -> Encoded:
        generators = generators or [torch.Generator().manual_seed(0)] * len(scenes)
        rows, targets = [], []
        for scene, generator in zip(scenes, generators, strict=True):
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

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        points, features, _ = cloud_of(scene, "cpu")
        parts, answers = self._parts(points), []
        with evaluated(net):
            for first in range(0, len(parts), INPUTS):
                rows = [_block_rows(points, features, chosen, middle)
                        for chosen, _, middle in parts[first : first + INPUTS]]  # fmt: skip
                answers.append(net(torch.stack(rows).to(device)).softmax(1))
        chosen, fresh, _ = zip(*parts, strict=True)
        counted = torch.cat(fresh).to(device)
        owner, scores = torch.cat(chosen).to(device)[counted], torch.cat(answers)[counted]
        total = scores.new_zeros(len(points), scores.shape[1]).index_add_(0, owner, scores)
        return total / total.sum(1, keepdim=True)

    def _parts(self, points: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each input of a whole scene: its points, which of them are no repeats, its middle."""
        generator = torch.Generator().manual_seed(0)
        half, low = self.block_size / 2, points[:, :2].amin(0)
        cell = torch.floor((points[:, :2] - low) / half).long()
        across, along = (cell.amax(0) + 1).tolist()
        number, order = (cell[:, 0] * along + cell[:, 1]).sort(stable=True)
        ends = [0, *torch.bincount(number, minlength=across * along).cumsum(0).tolist()]
        wide, deep, parts = min(2, across), min(2, along), []
        for i, j in product(range(across - wide + 1), range(along - deep + 1)):
            starts = [x * along + j for x in range(i, i + wide)]
            inside = torch.cat([order[ends[k] : ends[k + deep]] for k in starts])
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


def first_rows(place: Tensor, places: int) -> Tensor:
    """The first of the rows [N] in each place, int64 [places]; N where there is none."""
    rows = torch.arange(len(place), device=place.device)
    return rows.new_full((places,), len(place)).scatter_reduce(0, place, rows, "amin")


def most_frequent(labels: Tensor, place: Tensor, places: int) -> Tensor:
    """The most frequent label of each place, the lower one of equals; IGNORED does not count.

    labels, place: int64 [N]; the result is int64 [places], IGNORED where no label counts.
    """
    counted = labels != IGNORED
    classes = int(labels.max()) + 1 if counted.any() else 1
    key = place[counted] * classes + labels[counted]
    votes = torch.bincount(key, minlength=places * classes).view(places, classes)
    most, label = votes.max(1)
    return torch.where(most > 0, label, IGNORED)
