"""What a network on points carries: the roles of its parameters and what became of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from torch import nn

from i2p_lib.inflation.regimes import roles_of, within

Shapes = dict[str, tuple[int, ...]]


def point_network(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Mark a function whose name is that of a network on points, see `models.point_models`.

    It takes num_classes, the keywords weights, seed, weights_dir and, where it looks at clouds,
    up (the axis that points up), and returns a network that maps points [B, P, 3] to logits,
    described by `describe`.
    """
    return build


def shapes(net: nn.Module, prefix: str = "") -> Shapes:
    """Name (behind a prefix) -> shape of every parameter and buffer."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def describe(net: nn.Module, inputs: Sequence[str], outputs: Sequence[str], image: Shapes,
             new: Sequence[str] = (), reshaped: str = "inflated") -> nn.Module:  # fmt: skip
    """Give a network on points its ``i2p_`` attributes and return it.

    Args:
        inputs: modules whose parameters have the role "input".
        outputs: the classifier, and behind it the other modules with the role "output". Of the
            rest, norm layers are "norm" and everything else is "backbone".
        image: names and shapes of the image network's tensors; empty where there was none.
            ``net.i2p_report`` says of each tensor whether it was copied, is new, or was dropped,
            with both shapes.
        new: modules that are new although the image network has some of the same name.
        reshaped: what the report says of an image tensor that has another shape now.
    """
    points = shapes(net)

    def row(name: str) -> dict[str, str]:
        action = "copied" if image.get(name) == points.get(name) else reshaped
        if name not in points:
            action = "dropped"
        elif name not in image or within(name, new):
            action = "new"
        text = ["x".join(map(str, sizes[name])) or "scalar" if name in sizes else ""
                for sizes in (image, points)]  # fmt: skip
        return {"tensor": name, "image": text[0], "points": text[1], "action": action}

    net.i2p_input, net.i2p_classifier = "points", outputs[0]
    net.i2p_roles = roles_of(net, inputs, outputs)
    net.i2p_report = pd.DataFrame([row(name) for name in dict.fromkeys([*image, *points])])
    return net
