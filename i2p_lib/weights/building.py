"""Image models: the one place where they are built, and given the weights of a file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from i2p_lib.weights.cards import OWN_BUILDERS, WeightCard, is_random, model_library, weight_card
from i2p_lib.weights.files import verified
from i2p_lib.weights.loading import TransferReport, named_tensors, transfer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the layers built inside, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def image_model(
    name: str,
    weights: str | None = None,
    seed: int = 0,
    weights_dir: str | Path | None = None,
) -> nn.Module:
    """Return an unchanged 2D image model, in training mode.

    name         `efficientnet_lite0` to `_lite2` (timm's `tf_` network), or any classifier of
                 torchvision (`resnet18`, `wide_resnet101_2`, ...), or any model of timm, or
                 `bagnet17`, `bagnet33` and `res16unet34`, which neither has.
    weights      None or "random": the library's own initialisation, the same for the same `seed`
                 whatever was drawn before, and without touching torch's global generator.
                 "imagenet1k" (torchvision: the V1 weights, which were the only ones in 2021),
                 "imagenet21k", a name that `i2p weights list` shows (`resnet50`: "fractaldb1k",
                 "stylized_imagenet", ...; `resnet18`: "fractal", which comes with this package),
                 or a tag of torchvision ("imagenet1k_v2") or timm.
                 The classifier has as many classes as the file's.
    weights_dir  searched first for the file; then `$I2P_WEIGHTS`, then torch hub's checkpoints.

    A loaded model carries its `TransferReport` as `net.i2p_transfer`.  Nothing is downloaded.

    Raises ValueError for an unknown model or weights name, a file with the wrong hash, or a
    tensor without its counterpart, and FileNotFoundError, saying what to place where, for a file
    that is not there.

    >>> net = image_model("efficientnet_lite0", weights="imagenet1k")     # doctest: +SKIP
    """
    card = None if is_random(weights) else weight_card(name, weights)
    if card and card.network != "image":
        raise ValueError(
            f"the {card.weights} weights are for a network on points ({card.note}); "
            "image_model builds image networks"
        )
    net = _build(name, card, seed)
    if card:
        load_weights(net, name, weights, weights_dir)
    return net


def load_weights(
    net: nn.Module, name: str, weights: str, weights_dir: str | Path | None = None
) -> TransferReport:
    """Copy the file of a card into a network that `image_model` does not build, all or nothing.

    The network must name its tensors as the file does, once the card's rules are applied.
    Raises as `image_model` does.
    """
    card = weight_card(name, weights)
    path, digest = verified(card, weights_dir)
    return transfer(net, card, path, digest, named_tensors(net, card, path))


def _build(name: str, card: WeightCard | None, seed: int) -> nn.Module:
    """Build the network; the one place where image models draw random numbers."""
    library = model_library(name)
    classes = {"num_classes": card.classes} if card and card.classes else {}
    with seeded(seed):
        if library == "torchvision":
            import torchvision

            return torchvision.models.get_model(name, weights=None, **classes)
        if library == "i2p":
            return getattr(importlib.import_module(OWN_BUILDERS[name]), name)()
        import timm

        tag = f".{card.tag}" if card and card.tag else ""
        name = f"tf_{name}" if library == "lite" else f"{name}{tag}"
        return timm.create_model(name, pretrained=False, **classes)
