"""Networks that label every point, and the encodings of scenes for them, by name."""

from pathlib import Path
from typing import Any

from torch import nn

from i2p_lib.models.encodings import BlockEncoding, Encoding, VoxelEncoding
from i2p_lib.models.pointnet2 import pointnet2_segmentation
from i2p_lib.models.range_view import RangeEncoding, range_network
from i2p_lib.models.unet import unet

_FAMILIES = {"unet": (VoxelEncoding, unet), "range": (RangeEncoding, range_network),
             "pointnet2_ssg": (BlockEncoding, pointnet2_segmentation)}  # fmt: skip


def encoding_for(name: str, **settings: Any) -> Encoding:
    """Return the encoding for a network of that name, see ``segmenter``.

    settings: fields of ``VoxelEncoding`` ("unet:..."), ``BlockEncoding`` ("pointnet2_ssg") or
    ``RangeEncoding`` ("range:...").

    Raises:
        ValueError: an unknown name; TypeError: a setting that the encoding does not have.
    """
    family = name.partition(":")[0]
    if family not in _FAMILIES or (":" in name) == (family == "pointnet2_ssg"):
        raise ValueError("segmentation network: expected unet:NAME, range:NAME or pointnet2_ssg, "
                         f"got {name!r}")
    return _FAMILIES[family][0](**settings)


def segmenter(name: str, num_classes: int, in_features: int, weights: str | Path | None = "random",
              **settings: Any) -> nn.Module:
    """Return a segmentation network on the CPU; it maps what its encoding gives to logits [M, C].

    Args:
        name: "unet:NAME", a sparse U-Net around the inflated image network (paper: resnet18);
            "pointnet2_ssg"; "range:NAME", the image network on range images (paper: hrnet_w48).
        in_features: features of a point besides its coordinates (3 colours, 1 intensity).
        weights: "random", or image weights of NAME, of pointnet2_ssg those of pixels: a name or
            the path of a file.
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
    family, *image_name = name.split(":")
    return _FAMILIES[family][1](*image_name, num_classes, channels, weights, **settings)
