"""What the encodings share: a labelled scene, and the way into a network and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.sparse import SparseTensor


class Labelled(Protocol):
    """A scene: points [N, 3] in metres, features [N, F] in 0..1, labels [N] (or IGNORED)."""

    points: np.ndarray | Tensor
    features: np.ndarray | Tensor
    labels: np.ndarray | Tensor


Scenes = Sequence[Labelled]
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

    def predict(self, net: nn.Module, scene: Labelled, device: Device = "cpu") -> Tensor:
        """Return scores [N, C] of the scene's own N points, in their order."""


def cloud_of(scene: Labelled, device: Device) -> tuple[Tensor, Tensor, Tensor]:
    """Return points and features as float32, labels as int64, on the device.

    Raises ValueError where points and features do not fit.
    """
    points = torch.as_tensor(scene.points, dtype=torch.float32, device=device)
    features = torch.as_tensor(scene.features, dtype=torch.float32, device=device)
    fits = points.ndim == features.ndim == 2 and points.shape[1] == 3
    if not fits or len(points) != len(features) or not len(points):
        raise ValueError("expected a scene with points [N, 3] and features [N, F], N at least 1, "
                         f"got {list(points.shape)} and {list(features.shape)}")
    return points, features, torch.as_tensor(scene.labels, dtype=torch.int64, device=device)
