"""Image models: the one place where they are built, given a file's weights, and shown a photo."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.weights.cards import OWN_BUILDERS, is_random, model_library, weight_card
from i2p_lib.weights.files import verified
from i2p_lib.weights.loading import named_tensors, transfer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the layers built inside, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def image_model(name: str, weights: str | Path | None = None, seed: int = 0,
                weights_dir: str | Path | None = None,
                weights_except: str | Sequence[str] = ()) -> nn.Module:
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
                 Or the path of a file of your own, such as "~/runs/best.pth" or a .safetensors: a
                 state_dict, by itself or in one of the entries state_dict, model,
                 model_state_dict and net of a checkpoint, with the names of this network, before
                 which `module.`, `model.` or `_orig_mod.` may stand.
                 The classifier has as many classes as the file's.
    weights_dir  searched first for the file; then `$I2P_WEIGHTS`, then torch hub's checkpoints.

    weights_except
                 parts of the network, such as ["layer4", "fc"], that do not get the file's
                 tensors and keep their random start, that of `seed`.

    A loaded model carries the table of its tensors as `net.i2p_transfer`, see `transfer`.
    Nothing is downloaded.

    Raises ValueError for an unknown model or weights name, a file with the wrong hash, a tensor
    without its counterpart, or a part that the network has not, and FileNotFoundError, saying
    what to place where, for a file that is not there.

    >>> net = image_model("efficientnet_lite0", weights="imagenet1k")     # doctest: +SKIP
    >>> net = image_model("resnet18", weights="runs/my birds.pth")        # doctest: +SKIP
    """
    card = None if is_random(weights) else weight_card(name, weights)
    if not card and weights_except:
        raise ValueError("weights_except leaves out parts of a file, and random weights have none")
    if card and card.network != "image":
        raise ValueError(f"the {card.weights} weights are for a network on points ({card.note}); "
                         "image_model builds image networks")
    library = model_library(name)

    def build(**classes: int) -> nn.Module:
        with seeded(seed):  # the one place where image models draw random numbers
            if library == "torchvision":
                import torchvision

                return torchvision.models.get_model(name, weights=None, **classes)
            if library == "i2p":
                return getattr(importlib.import_module(OWN_BUILDERS[name]), name)(**classes)
            import timm

            tag = f".{card.tag}" if card and card.tag else ""
            full = f"tf_{name}" if library == "lite" else f"{name}{tag}"
            return timm.create_model(full, pretrained=False, **classes)

    return with_weights(build, name, weights, weights_dir, weights_except) if card else build()


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


def with_weights(build: Callable[..., nn.Module], name: str, weights: str | Path,
                 weights_dir: str | Path | None = None,
                 weights_except: str | Sequence[str] = ()) -> nn.Module:
    """Return a network with the tensors of a file and as many classes as the file's classifier.

    build: called as build() or build(num_classes=n).  name, weights, weights_dir, weights_except
    and errors: as for `image_model`.
    """
    card = weight_card(name, weights)
    path, _ = verified(card, weights_dir)
    net = build(**{"num_classes": card.classes} if card.classes else {})
    found = named_tensors(net, card, path)
    if card.path and (classes := _other_classes(net, found)):
        first, net = net.state_dict(), build(num_classes=classes)
        kept = {n: first[n] for n, own in net.state_dict().items() if own.shape == first[n].shape}
        net.load_state_dict(kept, strict=False)  # the random start does not depend on the classes
    left_out = (weights_except,) if isinstance(weights_except, str) else tuple(weights_except)
    transfer(net, card, path, found, left_out)
    return net


def _other_classes(net: nn.Module, found: Mapping[str, tuple[str, Tensor]]) -> int | None:
    """The classes of a file, where its classifier is of another size than a network's."""
    usual, sizes = getattr(net, "num_classes", 1000), set()
    for name, own in net.state_dict().items():
        theirs = found[name][1].shape if name in found else own.shape
        if own.shape[:1] == (usual,) != theirs[:1] and own.shape[1:] == theirs[1:]:
            sizes.update(theirs[:1])
    return sizes.pop() if len(sizes) == 1 else None
