"""How scenes become what a network takes, and its answers become answers for the scenes' points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2p_lib.data.scenes import IGNORED
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.blocks import BlockEncoding
from i2p_lib.models.labelled import Device, Draw, Encoded, Encoding, Labelled, Scenes, cloud_of
from i2p_lib.models.range_view import (
    nearest_in_pixel,
    range_image,
    spherical_pixels,
    vote_of_neighbours,
)
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.sparse.kernel_map import unique_rows


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

    def predict(self, net: nn.Module, scene: Labelled, device: Device = "cpu") -> Tensor:
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

    def __post_init__(self) -> None:
        if self.back_projection not in ("knn", "pixel"):
            raise ValueError("back_projection must be 'knn' or 'pixel', "
                             f"got {self.back_projection!r}")
        if not self.fov_up > self.fov_down:
            raise ValueError(f"fov_up must lie above fov_down, got {self.fov_up} and "
                             f"{self.fov_down}")

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are pixel by pixel, row by row."""
        images, targets = [], []
        for scene in scenes:
            image, nearest, labels, *_ = self._projected(scene, device)
            images.append(image)
            targets.append(torch.where(nearest < 0, IGNORED, labels[nearest.clamp_min(0)]))
        return torch.stack(images), torch.cat(targets)

    def predict(self, net: nn.Module, scene: Labelled, device: Device = "cpu") -> Tensor:
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

    def _projected(self, scene: Labelled, device: Device) -> tuple[Tensor, ...]:
        """The image, each pixel's nearest point, and each point's label, row, column and range."""
        points, features, labels = cloud_of(scene, device)
        row, column, distance = spherical_pixels(points, self.height, self.width, self.fov_up,
                                                 self.fov_down)  # fmt: skip
        pixel = row * self.width + column
        nearest = nearest_in_pixel(pixel, distance, self.height * self.width)
        image = range_image(points, features, nearest).view(-1, self.height, self.width)
        return image, nearest, labels, row, column, distance


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
