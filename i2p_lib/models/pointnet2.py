"""PointNet++ for classification, on point clouds and on images whose pixels are the points.

The network is the single-scale one (SSG) of the PointNet++ paper (Qi et al., NIPS 2017).
Image2Point pretrains it on ImageNet by treating pixels as points; neither how nor the weights are
public.  Here a pixel is a point of the plane z = 0 that carries its colour, so the pixel network
has six input channels where the point network has three: what is transferred is everything but the
first layer and the classifier.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.models.contract import describe, point_network, seeded, shapes
from i2p_lib.models.point_ops import ball_query, farthest_points, gather
from i2p_lib.weights.cards import is_random, weight_card
from i2p_lib.weights.files import verified
from i2p_lib.weights.loading import read_tensors, transfer

PIXEL_CHANNELS = 3  # red, green, blue


def shared_mlp(*widths: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU per width, on rows [N, C]: the same for every point."""
    layers: list[nn.Module] = []
    for before, width in zip(widths, widths[1:], strict=False):
        layers += nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
    return nn.Sequential(*layers)


def pool_groups(mlp: nn.Module, groups: Tensor) -> Tensor:
    """Apply an MLP to every point of groups [B, M, K, C], take the maximum: [B, M, C_out]."""
    return mlp(groups.flatten(0, 2)).unflatten(0, groups.shape[:3]).max(2).values


class SetAbstraction(nn.Module):
    """Centres by farthest point sampling, their balls, and a PointNet on each ball.

    ``channels`` counts the point features without the coordinates.
    """

    def __init__(self, channels: int, count: int, radius: float, size: int, widths: list[int]):
        super().__init__()
        self.count, self.radius, self.size = count, radius, size
        self.mlp = shared_mlp(3 + channels, *widths)

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, 3] and [B, P, C] to centres [B, count, 3] and features [B, count, C_out]."""
        centres = gather(xyz, farthest_points(xyz, self.count))
        ball = ball_query(xyz, centres, self.radius, self.size)
        groups = gather(torch.cat([xyz, features], 2), ball)
        offsets = groups[..., :3] - centres.unsqueeze(2)
        return centres, pool_groups(self.mlp, torch.cat([offsets, groups[..., 3:]], 3))


def split_columns(points: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Points [B, P, 3 + channels] as x, y, z and features; ValueError for another shape."""
    if points.ndim != 3 or points.shape[2] != 3 + channels:
        raise ValueError(f"expected points [B, P, {3 + channels}], got {list(points.shape)}")
    return points[..., :3], points[..., 3:]


class PointNet2(nn.Module):
    """PointNet++ SSG; maps points [B, P, 3 + channels] to logits [B, num_classes].

    Coordinates are in units of the cloud's radius. Sampling starts at point 0 of each cloud.

    **Symmetries.** The order of the points does not change the logits as long as point 0 stays
    first, no two points are equally far in sampling, and no ball of the first stage holds more
    than 32 points (of a fuller one the first 32 in order are taken).
    Moving the cloud does not change the features of the first two stages, which see offsets from
    the centres; it does change the logits, because the last stage sees the centres themselves.
    """

    def __init__(self, num_classes: int, channels: int = 0):
        super().__init__()
        self.channels = channels
        self.sa1 = SetAbstraction(channels, 512, 0.2, 32, [64, 64, 128])
        self.sa2 = SetAbstraction(128, 128, 0.4, 64, [128, 128, 256])
        self.sa3 = shared_mlp(3 + 256, 256, 512, 1024)
        self.head = nn.Sequential(
            shared_mlp(1024, 512), nn.Dropout(0.5), shared_mlp(512, 256), nn.Dropout(0.5)
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, points: Tensor) -> Tensor:
        xyz, features = self.sa2(*self.sa1(*split_columns(points, self.channels)))
        cloud = pool_groups(self.sa3, torch.cat([xyz, features], 2).unsqueeze(1))
        return self.classifier(self.head(cloud.squeeze(1)))


def image_to_points(images: Tensor) -> Tensor:
    """Turn images [B, 3, H, W] into clouds [B, H * W, 6]: x, y, z and the three colour channels.

    Pixel centres lie in the plane z = 0, x to the right and y up; the longer side of the image
    spans -1 to 1. Colours stay as they are given. Points are in the order of the pixels, row by
    row; 64 x 64 pixels make 4,096 points, so resize large photos before.
    Raises ValueError for images of another shape or of integers.
    """
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != PIXEL_CHANNELS or not images.is_floating_point():
        raise ValueError(f"expected float images [B, 3, H, W], got {images.dtype} {shape}")
    height, width = images.shape[2:]
    place = {"device": images.device, "dtype": images.dtype}
    x = (2 * torch.arange(width, **place) + 1 - width) / max(height, width)
    y = (height - 1 - 2 * torch.arange(height, **place)) / max(height, width)
    xyz = torch.stack([x.expand(height, width), y[:, None].expand(height, width),
                       images.new_zeros(height, width)], 2)  # fmt: skip
    colours = images.permute(0, 2, 3, 1)
    return torch.cat([xyz.expand(len(images), -1, -1, -1), colours], 3).flatten(1, 2)


@point_network
def pointnet2_ssg(num_classes: int, weights: str | None = "random", seed: int = 0,
                  weights_dir: str | Path | None = None) -> PointNet2:  # fmt: skip
    """Return PointNet++ on points [B, P, 3], random or pretrained on pixels.

    Args:
        weights: None or "random"; "fractal_pixels", which comes with this package; or
            "imagenet1k_pixels": a file that you trained (none is public), the ``state_dict`` of
            ``PointNet2(classes, channels=3)`` on ``image_to_points`` of photos. All its tensors
            must be there and fit; the first layer and the classifier are replaced by new ones,
            every other tensor is kept.
        seed: of the random layers; torch's global generator stays as it was.
        weights_dir: folder of the file; see ``i2p_lib.weights.image_model``.

    Raises ValueError for other weights or a file of another network, FileNotFoundError without it.
    """
    with seeded(seed):
        if is_random(weights):
            net, image = PointNet2(num_classes), {}
        else:
            card = weight_card("pointnet2_ssg", weights)
            path, digest = verified(card, weights_dir)
            classes = len(read_tensors(card, path).get("classifier.bias", ()))
            net = PointNet2(max(1, classes), channels=PIXEL_CHANNELS)
            net.i2p_transfer = transfer(net, card, path, digest)
            image = shapes(net)
            net.channels = 0
            net.sa1.mlp[0] = nn.Linear(3, net.sa1.mlp[0].out_features, bias=False)
            net.classifier = nn.Linear(net.classifier.in_features, num_classes)
    new = ["sa1.mlp.0", "classifier"]
    return describe(net, ["sa1.mlp.0", "sa1.mlp.1"], "classifier", image, new)
