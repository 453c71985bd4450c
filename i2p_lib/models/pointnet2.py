"""PointNet++ for classification, on clouds and on images whose pixels are points, and for scenes.

The networks are the single-scale ones (SSG) of the PointNet++ authors (Qi et al., NIPS 2017).
Image2Point pretrains PointNet++ on ImageNet by treating pixels as points; neither how nor the
weights are public.  Here a pixel is a point of the plane z = 0 that carries its colour, so the
pixel network has six input channels where the point network has three: what is transferred is
everything but the first layer and the classifier.
The segmentation network has four set abstractions with radii in metres, and carries features back
to points.  Of what the classification network has learned on pixels it takes what fits: its stages
have the radii 0.2, 0.4 and all, so they stand for the second, third and fourth stage here, and each
of their layers, with its norm, is copied where the shapes are equal.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.inflation.regimes import Shapes, describe, shapes
from i2p_lib.models import point_network
from i2p_lib.models.point_ops import ball_query, farthest_points, gather, interpolate
from i2p_lib.weights.building import seeded, with_weights
from i2p_lib.weights.cards import is_random

PIXEL_CHANNELS = 3  # red, green, blue
BALL = 32  # points
STAGES = {"sa2.mlp": "sa1.mlp", "sa3.mlp": "sa2.mlp", "sa4.mlp": "sa3"}  # of scenes: on pixels


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
        self.head = nn.Sequential(shared_mlp(1024, 512), nn.Dropout(0.5), shared_mlp(512, 256),
                                  nn.Dropout(0.5))
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, points: Tensor) -> Tensor:
        xyz, features = self.sa2(*self.sa1(*split_columns(points, self.channels)))
        cloud = pool_groups(self.sa3, torch.cat([xyz, features], 2).unsqueeze(1))
        return self.classifier(self.head(cloud.squeeze(1)))


@point_network
def pointnet2_ssg(num_classes: int, weights: str | Path | None = "random", seed: int = 0,
                  weights_dir: str | Path | None = None) -> PointNet2:  # fmt: skip
    """Return PointNet++ on points [B, P, 3], random or pretrained on pixels.

    Args:
        weights: None or "random"; "fractal_pixels", which comes with this package; or
            "imagenet1k_pixels" or a path: a file that you trained (none is public), the
            ``state_dict`` of ``PointNet2(1000, channels=3)`` on photos as clouds of pixels (see
            ``image_to_points`` in ``data_scripts/_pretraining.py``). All its tensors must be
            there and fit; the first layer and the classifier are replaced by new ones, every
            other tensor is kept.
        seed: of the random layers; torch's global generator stays as it was.
        weights_dir: folder of the file; see ``i2p_lib.weights.image_model``.

    Raises ValueError for other weights or a file of another network, FileNotFoundError without it.
    """
    with seeded(seed):
        if is_random(weights):
            net, image = PointNet2(num_classes), {}
        else:
            net = with_weights(
                lambda num_classes=1000: PointNet2(num_classes, channels=PIXEL_CHANNELS),
                "pointnet2_ssg", weights, weights_dir)
            image, net.channels = shapes(net), 0
            net.sa1.mlp[0] = nn.Linear(3, net.sa1.mlp[0].out_features, bias=False)
            net.classifier = nn.Linear(net.classifier.in_features, num_classes)
    new = ["sa1.mlp.0", "classifier"]
    return describe(net, ["sa1.mlp.0", "sa1.mlp.1"], ["classifier"], image, new)


class FeaturePropagation(nn.Module):
    """Features of few points to the many they were chosen from (PointNet++, section 3.4)."""

    def __init__(self, *widths: int):
        super().__init__()
        self.mlp = shared_mlp(*widths)

    def forward(self, xyz: Tensor, skip: Tensor | None, few: Tensor, features: Tensor) -> Tensor:
        """Carry `features` [B, M, C] at `few` [B, M, 3] to `xyz` [B, P, 3], and join the skip."""
        carried = interpolate(features, few, xyz)
        joined = carried if skip is None else torch.cat([skip, carried], 2)
        return self.mlp(joined.flatten(0, 1)).unflatten(0, joined.shape[:2])


class Decoder(nn.Module):
    """From the four stages' features back to every point, and a linear classifier."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.fp4 = FeaturePropagation(256 + 512, 256, 256)
        self.fp3 = FeaturePropagation(128 + 256, 256, 256)
        self.fp2 = FeaturePropagation(64 + 256, 256, 128)
        self.fp1 = FeaturePropagation(128, 128, 128, 128)
        self.head = nn.Sequential(*shared_mlp(128, 128), nn.Dropout(0.5))
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, levels: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        """(coordinates, features) from all points to the fewest; logits [B * P, num_classes]."""
        (few, features), *finer = levels[::-1]
        for step, (xyz, skip) in zip((self.fp4, self.fp3, self.fp2, self.fp1), finer, strict=True):
            few, features = xyz, step(xyz, skip, few, features)
        return self.classifier(self.head(features.flatten(0, 1)))


class PointNet2Segmentation(nn.Module):
    """PointNet++ SSG; points [B, P, 3 + channels] in metres to logits [B * P, num_classes]."""

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        self.channels = channels
        self.sa1 = SetAbstraction(channels, 1024, 0.1, BALL, [32, 32, 64])
        self.sa2 = SetAbstraction(64, 256, 0.2, BALL, [64, 64, 128])
        self.sa3 = SetAbstraction(128, 64, 0.4, BALL, [128, 128, 256])
        self.sa4 = SetAbstraction(256, 16, 0.8, BALL, [256, 256, 512])
        self.decoder = Decoder(num_classes)

    def forward(self, points: Tensor) -> Tensor:
        xyz, features = split_columns(points, self.channels)
        levels: list[tuple[Tensor, Tensor | None]] = [(xyz, None)]
        for stage in (self.sa1, self.sa2, self.sa3, self.sa4):
            xyz, features = stage(xyz, features)
            levels.append((xyz, features))
        return self.decoder(levels)


def pointnet2_segmentation(num_classes: int, channels: int, weights: str | Path | None = "random",
                           seed: int = 0, weights_dir: str | Path | None = None
                           ) -> PointNet2Segmentation:  # fmt: skip
    """Return PointNet++ for segmentation, random or with what pixels have taught.

    channels: features of a point besides its coordinates.  weights, seed, weights_dir, errors: as
    for ``pointnet2_ssg``, the classification network on pixels; all tensors of the file must be
    there and fit that network.  ``net.i2p_report`` says which were copied.
    """
    with seeded(seed):
        net = PointNet2Segmentation(num_classes, channels)
    known: Shapes = {}
    if not is_random(weights):
        pixels = pointnet2_ssg(1, weights, seed, weights_dir)
        known = _take(net, pixels)
        net.i2p_transfer = pixels.i2p_transfer
    return describe(net, ["sa1.mlp.0", "sa1.mlp.1"], ["decoder"], known)


def _take(net: nn.Module, pixels: nn.Module) -> Shapes:
    """Copy every layer, and the norm behind it, that has its equal in shape; what was copied."""
    state, theirs, copied = net.state_dict(), pixels.state_dict(), {}
    for stage, source in STAGES.items():
        for layer in (0, 3, 6):  # linear, norm, activation
            if state[f"{stage}.{layer}.weight"].shape == theirs[f"{source}.{layer}.weight"].shape:
                parts = tuple(f"{stage}.{number}." for number in (layer, layer + 1))
                copied |= {name: theirs[name.replace(stage, source, 1)] for name in state
                           if name.startswith(parts)}  # fmt: skip
    net.load_state_dict(state | copied, strict=True)
    return {name: tuple(tensor.shape) for name, tensor in copied.items()}
