"""PointNet++ for segmentation (SSG): four set abstractions, and features carried back to points.

The network of the PointNet++ authors for scenes (Qi et al., NIPS 2017); radii are metres.

Image2Point pretrains PointNet++ on pixels taken as points; neither how nor the weights are public.
Here what the classification network has learned on pixels (``i2p_lib.models.pointnet2``) is taken
where it fits: its stages have the radii 0.2, 0.4 and all, so they stand for the second, third and
fourth stage here, and each of their layers, with its norm, is copied where the shapes are equal.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.models.contract import describe, seeded, shapes
from i2p_lib.models.point_ops import interpolate
from i2p_lib.models.pointnet2 import SetAbstraction, pointnet2_ssg, shared_mlp, split_columns
from i2p_lib.weights.cards import is_random

BALL = 32  # points
STAGES = {"sa2.mlp": "sa1.mlp", "sa3.mlp": "sa2.mlp", "sa4.mlp": "sa3"}  # here: on pixels


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


def pointnet2_segmentation(num_classes: int, channels: int, weights: str | None = "random",
                           seed: int = 0, weights_dir: str | Path | None = None
                           ) -> PointNet2Segmentation:  # fmt: skip
    """Return PointNet++ for segmentation, random or with what pixels have taught.

    channels: features of a point besides its coordinates.  weights, seed, weights_dir, errors: as
    for ``pointnet2_ssg``, the classification network on pixels; all tensors of the file must be
    there and fit that network.  ``net.i2p_report`` says which were copied.
    """
    with seeded(seed):
        net = PointNet2Segmentation(num_classes, channels)
    copied: list[str] = []
    if not is_random(weights):
        pixels = pointnet2_ssg(1, weights, seed, weights_dir)
        copied = _take(net, pixels)
        net.i2p_transfer = pixels.i2p_transfer
    known = {name: size for name, size in shapes(net).items() if name in copied}
    return describe(net, ["sa1.mlp.0", "sa1.mlp.1"], "decoder", known, [])


def _take(net: nn.Module, pixels: nn.Module) -> list[str]:
    """Copy every layer, and the norm behind it, that has its equal in shape; the tensors' names."""
    state, theirs, copied = net.state_dict(), pixels.state_dict(), []
    for stage, source in STAGES.items():
        for layer in (0, 3, 6):  # linear, norm, activation
            ours = f"{stage}.{layer}.weight"
            if state[ours].shape != theirs[f"{source}.{layer}.weight"].shape:
                continue
            names = [ours, *(n for n in state if n.startswith(f"{stage}.{layer + 1}."))]
            copied += names
            state |= {n: theirs[n.replace(stage, source, 1)] for n in names}
    net.load_state_dict(state, strict=True)
    return copied
