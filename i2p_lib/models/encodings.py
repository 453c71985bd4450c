"""How scenes become what a network takes, and its answers become answers for the scenes' points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from i2p_lib.data.scenes import IGNORED
from i2p_lib.models.blocks import BlockEncoding
from i2p_lib.models.labelled import (
    Device,
    Draw,
    Encoded,
    Encoding,
    Labelled,
    Scenes,
    cloud_of,
    evaluated,
    labels_of,
)
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

    voxel_size: float = 0.05
    centre: bool = True

    def encode(self, scenes: Scenes, device: Device = "cpu", generator: Draw = None) -> Encoded:
        """See ``Encoding``; answers are in the order of the sites."""
        clouds = [self._cloud(scene, device) for scene in scenes]
        x = self._voxels(clouds)
        labels = torch.cat([labels_of(scene, device) for scene in scenes])
        return x, most_frequent(labels, self._places(clouds), len(x.sites))

    def predict(self, net: nn.Module, scene: Labelled, device: Device = "cpu") -> Tensor:
        """See ``Encoding``."""
        cloud = self._cloud(scene, device)
        with evaluated(net):
            answers = net(self._voxels([cloud]))
        return answers[self._places([cloud])]

    def channels(self, in_features: int) -> int:
        """See ``Encoding``."""
        return 3 + in_features

    def _cloud(self, scene: Labelled, device: Device) -> tuple[Tensor, Tensor]:
        points, features = cloud_of(scene, device)
        if self.centre:
            points = points - points.double().mean(0).to(points.dtype)
        return points, torch.cat([points, features - 0.5], 1)

    def _voxels(self, clouds: list[tuple[Tensor, Tensor]]) -> SparseTensor:
        points, features = zip(*clouds, strict=True)
        return voxelize(points, self.voxel_size, features=torch.cat(features))

    def _places(self, clouds: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The row of each point's voxel among the sites, which ``voxelize`` sorts."""
        cells = [torch.cat([torch.full_like(points[:, :1], sample),
                            torch.floor(points / self.voxel_size)], 1).long()
                 for sample, (points, _) in enumerate(clouds)]  # fmt: skip
        return unique_rows(torch.cat(cells))[1]


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
            points, features = cloud_of(scene, device)
            nearest = self._nearest(points)[0]
            images.append(self._image(points, features, nearest))
            labels = labels_of(scene, device)[nearest.clamp_min(0)]
            targets.append(torch.where(nearest < 0, IGNORED, labels))
        return torch.stack(images), torch.cat(targets)

    def predict(self, net: nn.Module, scene: Labelled, device: Device = "cpu") -> Tensor:
        """See ``Encoding``; votes for "knn"."""
        points, features = cloud_of(scene, device)
        nearest, row, column, distance = self._nearest(points)
        with evaluated(net):
            answers = net(self._image(points, features, nearest)[None])
        if self.back_projection == "pixel":
            return answers[row * self.width + column]
        ranges = torch.where(nearest < 0, torch.inf, distance[nearest.clamp_min(0)])
        shape = (self.height, self.width)
        return vote_of_neighbours(answers.argmax(1).view(shape), ranges.view(shape), row, column,
                                  distance, answers.shape[1])  # fmt: skip

    def channels(self, in_features: int) -> int:
        """See ``Encoding``."""
        return 4 + in_features

    def _nearest(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        row, column, distance = spherical_pixels(points, self.height, self.width, self.fov_up,
                                                 self.fov_down)  # fmt: skip
        pixel = row * self.width + column
        return (nearest_in_pixel(pixel, distance, self.height * self.width), row, column, distance)

    def _image(self, points: Tensor, features: Tensor, nearest: Tensor) -> Tensor:
        return range_image(points, features, nearest).view(-1, self.height, self.width)


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
