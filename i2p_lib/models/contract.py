"""What a network on points carries: the roles of its parameters and what became of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature

import pandas as pd
import torch
from torch import nn

from i2p_lib.inflation.regimes import roles_of, within

Shapes = dict[str, tuple[int, ...]]


def point_network(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Mark a function whose name is that of a network on points, see `models.point_models`.

    It takes num_classes and the keywords weights, seed, weights_dir and up (the axis that points
    up), and returns a network that maps points [B, P, 3] to logits, described by `describe`.
    """

    @wraps(build)
    def built(*given: object, up: str = "z", **settings: object) -> nn.Module:
        looking = {"up": up} if "up" in signature(build).parameters else {}
        return build(*given, **settings, **looking)

    return built


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the layers built inside, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def shapes(net: nn.Module, prefix: str = "") -> Shapes:
    """Name (behind a prefix) -> shape of every parameter and buffer."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def describe(net: nn.Module, inputs: Sequence[str], classifier: str, image: Shapes,
             new: Sequence[str], head: Sequence[str] = (),
             reshaped: str = "inflated") -> nn.Module:  # fmt: skip
    """Give a network on points its ``i2p_`` attributes and return it.

    Args:
        inputs: modules whose parameters have the role "input".
        classifier, head: the classifier, and the modules before it with the role "output" too. Of
            the rest, norm layers are "norm" and everything else is "backbone".
        image: names and shapes of the image network's tensors; empty where there was none.
        new: modules that did not come from the image network. ``net.i2p_report`` says of each
            tensor whether it was copied, is new, or was dropped, with both shapes.
        reshaped: what the report says of an image tensor that has another shape now.
    """
    points = shapes(net)

    def action(name: str) -> str:
        if name not in points:
            return "dropped"
        if name not in image or within(name, new):
            return "new"
        return "copied" if image[name] == points[name] else reshaped

    def text(sizes: Shapes, name: str) -> str:
        return "x".join(map(str, sizes[name])) or "scalar" if name in sizes else ""

    net.i2p_input = "points"
    net.i2p_roles = roles_of(net, inputs, [classifier, *head])
    net.i2p_classifier = classifier
    net.i2p_report = pd.DataFrame([
        {"tensor": name, "image": text(image, name), "points": text(points, name),
         "action": action(name)} for name in dict.fromkeys([*image, *points])])  # fmt: skip
    return net
