"""Networks that no image library has, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

# name -> builder(num_classes, weights="random", seed=0, weights_dir=None)
POINT_MODELS: dict[str, Callable[..., nn.Module]] = {}


def point_model(
    name: str,
    num_classes: int,
    weights: str = "random",
    seed: int = 0,
    weights_dir: str | Path | None = None,
) -> nn.Module:
    """Return a network on points by its name; ValueError for an unknown one."""
    if name not in POINT_MODELS:
        raise ValueError(f"point model: expected one of {', '.join(POINT_MODELS)}, got {name!r}")
    return POINT_MODELS[name](num_classes, weights=weights, seed=seed, weights_dir=weights_dir)
