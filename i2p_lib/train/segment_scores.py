"""Measuring a segmentation network: whole scenes in, classes of their original points out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.analysis.segmentation import confusion_of
from i2p_lib.data.scenes import Scene
from i2p_lib.models.encodings import Encoding

KEPT_POINTS = 20_000


def classes_of(
    net: nn.Module, encoding: Encoding, scene: Scene, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Return the predicted class of each of the scene's own points, int64 [N].

    Raises ValueError where the network's answer does not cover the scene.
    """
    scores = encoding.predict(net, scene, device)
    if scores.ndim != 2 or len(scores) != len(scene.points):
        raise ValueError(
            f"{scene.name}: expected scores [{len(scene.points)}, classes], "
            f"got {list(scores.shape)}"
        )
    return scores.argmax(1).cpu().numpy()


def measure(
    net: nn.Module,
    encoding: Encoding,
    scenes: Sequence[Scene],
    classes: int,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return one confusion matrix [classes, classes] over all original points of the scenes.

    The network is in eval mode meanwhile, and back in its own afterwards.
    """
    total = np.zeros((classes, classes), np.int64)
    for index in range(len(scenes)):
        scene = scenes[index]
        total += confusion_of(classes_of(net, encoding, scene, device), scene.labels, classes)
    return total


def kept_scenes(
    net: nn.Module,
    encoding: Encoding,
    scenes: Sequence[Scene],
    device: torch.device | str = "cpu",
    most: int = KEPT_POINTS,
) -> dict[str, Tensor]:
    """Return predictions for pictures: of each scene at most `most` points, evenly thinned out.

    Keys are NAME/points [P, 3] float32, NAME/labels and NAME/predictions [P] int16.
    """
    kept = {}
    for index in range(len(scenes)):
        scene = scenes[index]
        found = classes_of(net, encoding, scene, device)
        chosen = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
        kept |= {
            f"{scene.name}/points": torch.from_numpy(scene.points[chosen]),
            f"{scene.name}/labels": torch.from_numpy(scene.labels[chosen].astype(np.int16)),
            f"{scene.name}/predictions": torch.from_numpy(found[chosen].astype(np.int16)),
        }
    return kept
