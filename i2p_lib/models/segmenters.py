"""Networks that label every point, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from i2p_lib.models.encodings import encoding_for
from i2p_lib.models.pointnet2 import pointnet2_segmentation
from i2p_lib.models.range_view import range_network
from i2p_lib.models.unet import unet


def segmenter(
    name: str, num_classes: int, in_features: int, weights: str | None = "random", **settings: Any
) -> nn.Module:
    """Return a segmentation network on the CPU; it maps what its encoding gives to logits [M, C].

    Args:
        name: "unet:NAME", a sparse U-Net around the inflated image network (paper: resnet18);
            "pointnet2_ssg"; "range:NAME", the image network on range images (paper: hrnet_w48).
        in_features: features of a point besides its coordinates (3 colours, 1 intensity).
        weights: "random", or image weights of NAME; of pointnet2_ssg those of pixels.
        settings: weights_dir (see ``i2p_lib.weights.image_model``), seed (of every random layer;
            torch's global generator stays as it was), and those of ``unet``, ``range_network``.

    ``net.i2p_roles`` maps each parameter's name to "input", "output" (the decoder included, which
    the paper trains in every regime), "norm" or "backbone"; ``net.i2p_report`` is a table of what
    became of each tensor: copied, inflated, new or dropped.

    Raises:
        ValueError: an unknown name, classes or features below 1, weights that do not fit.
        FileNotFoundError: the weight file is not there; says what to place where.
        TypeError: a setting that the network does not have.
    """
    channels = in_features + encoding_for(name).place_channels
    if num_classes < 1 or in_features < 1:
        raise ValueError("num_classes and in_features must be at least 1, "
                         f"got {num_classes} and {in_features}")
    family, _, image_name = name.partition(":")
    if family == "pointnet2_ssg":
        return pointnet2_segmentation(num_classes, channels, weights, **settings)
    build = unet if family == "unet" else range_network
    return build(image_name, num_classes, channels, weights, **settings)
