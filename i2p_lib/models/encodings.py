"""How scenes become what a network takes, and its answers become answers for the scenes' points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from i2p_lib.data.scenes import IGNORED, Scene
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.range_view import (
    nearest_in_pixel,
    range_image,
    spherical_pixels,
    vote_of_neighbours,
)
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.sparse.kernel_map import unique_rows

Scenes = Sequence[Scene]
Device = torch.device | str
Draw = torch.Generator | None
Encoded = tuple[SparseTensor | Tensor, Tensor]


class Encoding(Protocol):
    """The way from scenes into a network and back.

    place_channels: channels of the network's input besides the F features of a point.
    """

    place_channels: ClassVar[int]

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """Return the network's input, and the targets [M] int64 of its M answers (or IGNORED).

        generator: where something is drawn; None draws the same each time.
        """

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        """Return scores [N, C] of the scene's own N points, in their order."""


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
class VoxelEncoding:
    """Voxels whose features are the means of their points' coordinates and features.

    voxel_size   edge in metres
    centre       coordinates count from the scene's mean (rooms, as in the paper's code), else from
                 the origin (scans, whose origin is the sensor)

    Colours and intensities are shifted to -0.5..0.5. A voxel's target is the most frequent label
    of its points. Each point gets the answer of the voxel that it lies in.
    """

    place_channels: ClassVar[int] = 3  # x, y, z
    voxel_size: float = 0.05
    centre: bool = True

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are in the order of the sites."""
        x, voxel, labels = self._voxels(scenes, device)
        return x, most_frequent(labels, voxel, len(x.sites))

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        """See ``Encoding``."""
        x, voxel, _ = self._voxels([scene], device)
        with evaluated(net):
            return net(x)[voxel]

    def _voxels(self, scenes: Scenes, device: Device) -> tuple[SparseTensor, Tensor, Tensor]:
        """The voxels, the row of each point's voxel among the sorted sites, and its label."""
        clouds, rows, cells, targets = [], [], [], []
        for sample, scene in enumerate(scenes):
            points, features, labels = cloud_of(scene, device)
            if self.centre:
                points = points - points.double().mean(0).to(points.dtype)
            clouds.append(points)
            targets.append(labels)
            rows.append(torch.cat([points, features - 0.5], 1))
            cells.append(F.pad(torch.floor(points / self.voxel_size).long(), (1, 0), value=sample))
        x = voxelize(clouds, self.voxel_size, features=torch.cat(rows))
        return x, unique_rows(torch.cat(cells))[1], torch.cat(targets)


@dataclass(frozen=True)
class RangeEncoding:
    """The range image of a scan, seen from the origin.

    height, width     pixels
    fov_up, fov_down  elevations of the first and behind the last row, in degrees (RangeNet++'s
                      for the 64-beam sensor of SemanticKITTI)
    back_projection   "knn": the pixels around a point vote on its class (RangeNet++); "pixel": a
                      point gets the answer of its own pixel

    A pixel shows its nearest point; its target is that point's label, IGNORED where it is empty.
    """

    place_channels: ClassVar[int] = 4  # range, x, y, z
    height: int = 64
    width: int = 2048
    fov_up: float = 3.0
    fov_down: float = -25.0
    back_projection: Literal["knn", "pixel"] = "knn"

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are pixel by pixel, row by row."""
        images, targets = [], []
        for scene in scenes:
            image, nearest, labels, *_ = self._projected(scene, device)
            images.append(image)
            targets.append(torch.where(nearest < 0, IGNORED, labels[nearest.clamp_min(0)]))
        return torch.stack(images), torch.cat(targets)

    def predict(self, net: nn.Module, scene: Scene, device: Device = "cpu") -> Tensor:
        """See ``Encoding``; votes for "knn"."""
        image, nearest, _, row, column, distance = self._projected(scene, device)
        with evaluated(net):
            answers = net(image[None])
        if self.back_projection == "pixel":
            return answers[row * self.width + column]
        ranges = torch.where(nearest < 0, torch.inf, distance[nearest.clamp_min(0)])
        shape = (self.height, self.width)
        return vote_of_neighbours(answers.argmax(1).view(shape), ranges.view(shape), row, column,
                                  distance, answers.shape[1])  # fmt: skip

    def _projected(self, scene: Scene, device: Device) -> tuple[Tensor, ...]:
        """The image, each pixel's nearest point, and each point's label, row, column and range."""
        points, features, labels = cloud_of(scene, device)
        row, column, distance = spherical_pixels(points, self.height, self.width, self.fov_up,
                                                 self.fov_down)  # fmt: skip
        pixel = row * self.width + column
        nearest = nearest_in_pixel(pixel, distance, self.height * self.width)
        image = range_image(points, features, nearest).view(-1, self.height, self.width)
        return image, nearest, labels, row, column, distance


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
        self, net: nn.Module, scene: Scene, device: Device = "cpu", batch: int = 8
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


_ENCODINGS = {"unet": VoxelEncoding, "pointnet2_ssg": BlockEncoding, "range": RangeEncoding}


def encoding_for(name: str, **settings: Any) -> Encoding:
    """Return the encoding for a network of that name, see ``segmenter``.

    settings: fields of ``VoxelEncoding`` ("unet:..."), ``BlockEncoding`` ("pointnet2_ssg") or
    ``RangeEncoding`` ("range:...").

    Raises:
        ValueError: an unknown name; TypeError: a setting that the encoding does not have.
    """
    family = name.partition(":")[0]
    if family not in _ENCODINGS or (":" in name) == (family == "pointnet2_ssg"):
        raise ValueError("segmentation network: expected unet:NAME, range:NAME or pointnet2_ssg, "
                         f"got {name!r}")
    return _ENCODINGS[family](**settings)


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
