"""From an image network to a network on points: inflated weights and replaced leaf layers.

The image model's own ``forward`` stays in charge. Only its leaf layers (convolution, norm,
pooling) are exchanged for sparse 3D ones, and ``SparseTensor`` answers the functions in between.
"""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import nn

from i2p_lib.inflation.filters import AXES, ORIGINAL_AXES, inflate_weight, to_taps
from i2p_lib.inflation.initial import initialize
from i2p_lib.inflation.layers import Maker, restride
from i2p_lib.inflation.trace import InflationError, Step, trace, try_out
from i2p_lib.sparse import SparseBatchNorm, SparseGlobalPool

__all__ = ["AXES", "ORIGINAL_AXES", "InflationError", "inflate", "inflate_weight", "initialize",
           "to_taps"]  # fmt: skip

RECIPES = (None, "paper")
PAPER_STRIDE = 8  # total stride of the paper's ResNets: no stem stride, no pooling, three stages


def inflate(
    model: nn.Module,
    in_channels: int | None = 3,
    num_classes: int | None = None,
    axis: str = "z",
    normalize: bool = True,
    recipe: str | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Turn an image CNN of torchvision or timm into a network on ``SparseTensor``.

    Args:
        model: the image model; it is copied and stays as it is.
        in_channels: channels of the point features; the input layer is then new and random.
            None keeps the image model's own input layer, inflated.
        num_classes: size of a new, random classifier. None keeps the image model's own.
        axis, normalize: see ``inflate_weight``.
        recipe: None changes nothing else. ``"paper"`` makes the paper's changes (section 3.2 of
            the released code): a 3x3x3 input layer of stride 1 without activation, no pooling
            after it, total stride 8, 2x2x2 shortcuts, BatchNorm on the logits.
        generator: source of the new layers' random weights.

    Convolutions and pooling windows that shrink the image at its border are centred instead, since
    sparse sites have no border; parts that the image model runs in training only (auxiliary
    classifiers) are left out.

    Returns:
        A module that maps a SparseTensor to logits [B, num_classes]. ``net.i2p_roles`` maps each
        parameter's name to "input", "output", "norm" or "backbone"; ``net.i2p_classifier`` names
        the classifier; ``net.i2p_report`` is a table of what became of each layer.

    Raises:
        InflationError: a layer or function that cannot be inflated, with its name and why.
        ValueError: an unknown axis or recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {RECIPES}, got {recipe!r}")
    if recipe == "paper" and in_channels is None:
        raise ValueError("the paper's recipe replaces the input layer: give in_channels")
    net = copy.deepcopy(model)
    steps = trace(net)
    convolutions = [s for s in steps if isinstance(s.layer, nn.Conv2d)]
    if not convolutions:
        raise InflationError("the model needs a convolution first")
    rows = _drop_unused(net, steps)
    dropped = {row["layer"] for row in rows}
    if recipe == "paper":
        _apply_paper_geometry(net, steps)
    stem = convolutions[0].name
    maker = Maker(axis, normalize, recipe, in_channels, stem, generator)
    for name, layer in _leaves(net):
        if name not in dropped:
            new, action = maker.replace(name, layer)
            _set(net, name, new.train(layer.training))
            rows.append(_row(name, layer, new, action))
    net.i2p_classifier, replaced = _new_classifier(net, steps, num_classes, recipe, generator)
    again = {row["layer"] for row in replaced}
    net.i2p_report = pd.DataFrame([row for row in rows if row["layer"] not in again] + replaced)
    net.i2p_roles = _roles(net, steps, in_channels, num_classes)
    try_out(net, stem)
    return net


def _leaves(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers to replace: those without children, and norm layers with what they contain."""
    leaves: list[tuple[str, nn.Module]] = []
    norms: tuple[str, ...] = ()
    for name, layer in net.named_modules():
        if name.startswith(norms):
            continue
        if isinstance(layer, nn.BatchNorm2d):
            norms = (*norms, name + ".")
        if isinstance(layer, nn.BatchNorm2d) or next(layer.children(), None) is None:
            leaves.append((name, layer))
    return leaves


def _drop_unused(net: nn.Module, steps: list[Step]) -> list[dict]:
    """Take out the parts with parameters that did not run: classifiers for training only.

    ``aux_logits`` is the name under which torchvision's models keep the switch of such parts.
    """
    if getattr(net, "aux_logits", False):
        net.aux_logits = False
    ran = {""}
    for step in steps:
        parts = step.name.split(".")
        ran |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    rows: list[dict] = []
    gone: tuple[str, ...] = ()
    for name, part in list(net.named_modules()):
        if name in ran or name.startswith(gone) or next(part.parameters(), None) is None:
            continue
        if isinstance(net.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d):
            continue
        gone = (*gone, name + ".")
        _set(net, name, nn.Identity())
        rows.append(_row(name, part, nn.Identity(), "dropped"))
    return rows


def _apply_paper_geometry(net: nn.Module, steps: list[Step]) -> None:
    """Stem of stride 1, no pooling and no activation behind it, and total stride 8 at most."""
    total = max(step.stride_out for step in steps if isinstance(step.layer, nn.Conv2d))
    surplus = max(1, total // PAPER_STRIDE)
    for step in steps:
        stride = getattr(step.layer, "stride", 1)
        if max(stride if isinstance(stride, tuple) else (stride,)) == 1:
            continue
        if step.stride_in < surplus and isinstance(step.layer, nn.MaxPool2d | nn.AvgPool2d):
            _set(net, step.name, nn.Identity())
        elif step.stride_in < surplus and isinstance(step.layer, nn.Conv2d):
            restride(step.layer)
    for step in steps[1:3]:
        if isinstance(step.layer, nn.ReLU) and "." not in step.name:
            _set(net, step.name, nn.Identity())


def _new_classifier(net, steps, num_classes, recipe, generator) -> tuple[str, list[dict]]:
    """Put the new classifier in its place; its name, and the report's rows on it.

    A model that ends in a convolution and pooling gets a linear classifier behind the pooling.
    """
    last = [s for s in steps if isinstance(s.layer, nn.Linear | nn.Conv2d)][-1]
    if num_classes is None:
        return last.name, []
    if isinstance(last.layer, nn.Linear):
        _check_single(last, steps)
        head = _classifier(last.layer.in_features, num_classes, recipe == "paper", generator)
        _set(net, last.name, head)
        return last.name, [_row(last.name, last.layer, head, "new")]
    pools = [n for n, m in net.named_modules() if isinstance(m, SparseGlobalPool)]
    if not pools:
        raise InflationError(f"{last.name}: the model ends in this convolution, and no pooling "
                             "layer follows behind which a linear classifier could stand")
    head = _classifier(last.layer.in_channels, num_classes, recipe == "paper", generator)
    pool = net.get_submodule(pools[-1])
    _set(net, pools[-1], nn.Sequential(pool, nn.Flatten(), head))
    _set(net, last.name, nn.Identity())
    name = f"{pools[-1]}.2"
    return name, [_row(last.name, last.layer, nn.Identity(), "dropped"),
                  _row(name, last.layer, head, "new")]


def _check_single(last: Step, steps: list[Step]) -> None:
    """InflationError where the logits come from several classifiers (distilled networks)."""
    shape = last.layer.weight.shape
    twins = [step.name for step in steps if step.name != last.name
             and isinstance(step.layer, nn.Linear) and step.layer.weight.shape == shape]
    if twins and last.layer.in_features != last.layer.out_features:
        raise InflationError(f"{last.name}: {twins[-1]} gives logits as well, and only a single "
                             "classifier can be replaced by a new one")


def _classifier(features: int, classes: int, norm: bool, generator) -> nn.Module:
    linear = nn.utils.skip_init(nn.Linear, features, classes)  # draws nothing globally
    with torch.no_grad():
        bound = features**-0.5
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.zero_()
    return nn.Sequential(linear, nn.BatchNorm1d(classes)) if norm else linear


def _roles(net, steps, in_channels, num_classes) -> dict[str, str]:
    """What each parameter belongs to; the norm right behind a new input layer counts as input."""
    names = [s.name for s in steps]
    stem = next(s.name for s in steps if isinstance(s.layer, nn.Conv2d))
    norms = {n for n, m in net.named_modules()
             if isinstance(m, SparseBatchNorm | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)}
    stem_norm = next((n for n in names[names.index(stem) + 1 :] if n in norms), None)
    roles = {}
    for name, _ in net.named_parameters():
        owner = name.rpartition(".")[0]
        if in_channels is not None and owner in (stem, stem_norm):
            roles[name] = "input"
        elif num_classes is not None and (owner + ".").startswith(net.i2p_classifier + "."):
            roles[name] = "output"
        else:
            roles[name] = "norm" if owner in norms else "backbone"
    return roles


def _set(net: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, layer)


def _row(name: str, old: nn.Module, new: nn.Module, action: str) -> dict:
    def shape(layer):
        weight = getattr(layer, "weight", None)
        return "" if weight is None else "x".join(map(str, weight.shape))

    if isinstance(new, nn.Sequential) and len(new):
        new = new[0]
    return {"layer": name, "type": type(old).__name__, "image": shape(old),
            "points": shape(new), "action": action}  # fmt: skip
