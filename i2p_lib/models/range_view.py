"""A scan as a range image, image networks that label its pixels, and the way back to the points.

The image is the spherical projection of the scan around the sensor (as in RangeNet++, Milioto et
al., IROS 2019): columns are directions in the horizontal plane, rows are elevations, the upper
edge first.  The network is an image network with its weights copied; its four coarsest maps are
brought to one size, joined, and classified by 1x1 convolutions, as HRNetV2 does with its four
resolutions (Wang et al., TPAMI 2020).
"""

import math
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from i2p_lib.data.scenes import IGNORED, Scene
from i2p_lib.inflation.regimes import describe, shapes
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.encodings import Device, Draws, Encoded, Encoding, Scenes, cloud_of, first_rows
from i2p_lib.models.stages import around_stages, stage_names, stage_outputs, with_norm_behind
from i2p_lib.weights.building import image_model, seeded

SHIFT = (12.0, 0.0, 0.0, -1.0)  # of range, x, y and z in metres: about a street scan's middle
SPREAD = (12.0, 12.0, 12.0, 1.0)  # and how far it reaches
MULTIPLE = 32  # of which height and width of an image must be
RESOLUTIONS = 4  # maps that the head joins
SIGMA, CUTOFF = 1.0, 1.0  # of the vote: pixels of its Gaussian, metres of a weighted difference


class RangeNetwork(nn.Module):
    """Made by ``range_network``: range images [B, C, H, W] to logits [B * H * W, num_classes].

    ``wrap`` columns are repeated from the other end on either side, since a scan is a closed
    circle.
    """

    wrap = 32

    def __init__(self, encoder: nn.Module, stages: tuple[str, ...], in_channels: int,
                 num_classes: int):
        super().__init__()
        self.encoder, self.stages = encoder, stages
        with evaluated(encoder):
            maps = self._maps(torch.zeros(1, in_channels, 2 * MULTIPLE, 2 * MULTIPLE))
        sizes = [tuple(m.shape[2:]) for m in maps]
        if len(maps) < RESOLUTIONS or sizes != sorted(set(sizes), reverse=True):
            raise ValueError(f"{type(encoder).__name__}: expected maps of {RESOLUTIONS} "
                             f"resolutions, finest first, got the sizes {sizes}")
        channels = sum(m.shape[1] for m in maps)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1))  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each pixel, row by row; ValueError on a size that does not fit."""
        height, width = images.shape[2:]
        if height % MULTIPLE or (width + 2 * self.wrap) % MULTIPLE or width < self.wrap:
            raise ValueError(f"expected a height and a width (with {self.wrap} columns repeated on "
                             f"either side) in multiples of {MULTIPLE}, got {height} x {width}")
        ring = F.pad(images, (self.wrap, self.wrap, 0, 0), mode="circular")
        maps = self._maps(ring)
        size = maps[0].shape[2:]
        joined = torch.cat([maps[0], *(_resized(m, size) for m in maps[1:])], 1)
        logits = _resized(self.decoder(joined), ring.shape[2:])[..., self.wrap : self.wrap + width]
        return logits.permute(0, 2, 3, 1).flatten(0, 2)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The coarsest maps, finest first."""
        return stage_outputs(self.encoder, self.stages, images)[-RESOLUTIONS:]


def range_network(image_name: str, num_classes: int, in_channels: int,
                  weights: str | Path | None = "random", seed: int = 0,
                  weights_dir: str | Path | None = None) -> RangeNetwork:  # fmt: skip
    """Return an image network that labels the pixels of range images.

    The first convolution is new: range, coordinates and intensity have no colours to stand for,
    and a new input layer is what the paper gives every network on points.  It has the image
    network's kernel, and stride 1 from row to row, since a scan has few rows.

    Args:
        image_name, weights, seed, weights_dir: see ``segmenter``.
        in_channels: channels of the range image.

    Raises ValueError for a network without named stages or with fewer than four maps.
    """
    image = image_model(image_name, weights, seed, weights_dir)
    known = shapes(image, "encoder.")
    stages = stage_names(image)
    before, behind = around_stages(image, stages)
    for name in behind:
        image.set_submodule(name, nn.Identity())
    with seeded(seed):
        image.set_submodule(before[0], _new_input(image.get_submodule(before[0]), in_channels))
        net = RangeNetwork(image, stages, in_channels, num_classes)
    inputs = [f"encoder.{name}" for name in with_norm_behind(image, before[0], before)]
    return describe(net, inputs, ["decoder"], known, inputs[:1], takes="range")


@dataclass(frozen=True)
class RangeEncoding(Encoding):
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

    def encode(self, scenes: Scenes, device: Device = "cpu", generators: Draws = None) -> Encoded:
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


def spherical_pixels(points: Tensor, height: int, width: int, fov_up: float,
                     fov_down: float) -> tuple[Tensor, Tensor, Tensor]:
    """The row, the column and the range of each point [N, 3] in its range image, each [N].

    Straight ahead (x) is the middle column, left (y) is left of it.  Elevations from ``fov_up`` to
    ``fov_down``, in degrees, fill the rows; a point above or below lies in the first or last row.
    """
    distance = points.norm(dim=1)
    yaw = torch.atan2(points[:, 1], points[:, 0])
    pitch = torch.asin((points[:, 2] / distance.clamp_min(1e-6)).clamp(-1, 1))
    up, down = math.radians(fov_up), math.radians(fov_down)
    column = torch.floor((1 - yaw / math.pi) / 2 * width).long() % width
    row = torch.floor((up - pitch) / (up - down) * height).long().clamp(0, height - 1)
    return row, column, distance


def nearest_in_pixel(pixel: Tensor, distance: Tensor, pixels: int) -> Tensor:
    """The nearest point of each pixel, int64 [pixels], -1 where there is none.

    ``pixel`` [N] says in which pixel each point lies; of equally near points the first counts.
    """
    order = distance.argsort(stable=True)
    return F.pad(order, (0, 1), value=-1)[first_rows(pixel[order], pixels)]


def range_image(points: Tensor, features: Tensor, nearest: Tensor) -> Tensor:
    """Channels [4 + F, pixels]: range, x, y, z and the features of each pixel's nearest point.

    Metres are shifted and scaled by fixed numbers, features 0..1 become -1..1, empty pixels are 0.
    """
    geometry = torch.cat([points.norm(dim=1, keepdim=True), points], 1)
    geometry = (geometry - geometry.new_tensor(SHIFT)) / geometry.new_tensor(SPREAD)
    rows = torch.cat([geometry, 2 * features - 1], 1)[nearest.clamp_min(0)]
    return torch.where(nearest[:, None] < 0, 0, rows).T


def vote_of_neighbours(labels: Tensor, ranges: Tensor, row: Tensor, column: Tensor,
                       distance: Tensor, num_classes: int, neighbours: int = 5,
                       window: int = 5) -> Tensor:  # fmt: skip
    """Votes [N, num_classes] of the pixels around each point (RangeNet++, section III-D), float32.

    Args:
        labels, ranges: [H, W] class and range of each pixel; an infinite range where it is empty.
        row, column, distance: of the N points, as from ``spherical_pixels``.
        neighbours: that vote: those of the window whose range differs least from the point's,
            the difference weighted by one minus a Gaussian of the place; from CUTOFF on none does.

    The point's own pixel counts as being at the point's own range, so it always votes.  Columns
    go round, rows do not.
    """
    half, width = window // 2, ranges.shape[1]

    def around(image: Tensor, beyond: float) -> Tensor:
        """[N, window * window]: what an image has around each point's pixel."""
        ring = F.pad(image[None, None].float(), (half, half, 0, 0), mode="circular")
        whole = F.pad(ring, (0, 0, half, half), value=beyond)
        return F.unfold(whole, window)[0, :, row * width + column].T

    steps = torch.arange(-half, half + 1, device=ranges.device)
    bell = torch.exp(-torch.cartesian_prod(steps, steps).square().sum(1) / (2 * SIGMA**2))
    difference = (around(ranges, torch.inf) - distance[:, None]).abs() * (1 - bell / bell.sum())
    difference[:, window**2 // 2] = 0
    difference, order = (column[:, :neighbours] for column in difference.sort(dim=1, stable=True))
    chosen = around(labels, 0).gather(1, order).long()
    valid = (difference <= CUTOFF).float()
    return valid.new_zeros(len(row), num_classes).scatter_add(1, chosen, valid)


def _new_input(old: nn.Module, in_channels: int) -> nn.Conv2d:
    """A new first convolution for an old one, its rows not skipped."""
    if not isinstance(old, nn.Conv2d) or old.groups != 1:
        raise ValueError(f"expected an image network whose first layer is a convolution, got {old}")
    padding = tuple((size - 1) // 2 for size in old.kernel_size)
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, (1, old.stride[1]), padding,
                    bias=old.bias is not None)  # fmt: skip
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
