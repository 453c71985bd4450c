"""Photos as an image model wants them, and the names of what it may see in them."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn


def image_input(image: np.ndarray, model: nn.Module) -> Tensor:
    """Return one photo as the model wants it: [1, 3, S, S] float32, resized, cropped, normalised.

    image is uint8 [H, W, 3] (RGB).  Size, crop, interpolation, mean and standard deviation are
    timm's own for a timm model, and torchvision's V1 recipe (256, 224, bilinear) for the others.
    """
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 image [H, W, 3], got {image.dtype} {image.shape}")
    recipe = getattr(model, "pretrained_cfg", None) or {
        "input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    prepare = create_transform(**resolve_data_config(pretrained_cfg=recipe))
    return prepare(Image.fromarray(image))[None]


def imagenet_class_names() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names in the order of the logits."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
