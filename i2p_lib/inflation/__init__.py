"""From an image network to a network on points: inflated weights and replaced leaf layers.

The image model's own ``forward`` stays in charge. Only its leaf layers (convolution, norm,
pooling) are exchanged for sparse 3D ones, and ``SparseTensor`` answers the functions in between.
"""

import torch
from torch import nn
from torch.nn.modules.utils import _pair

from i2p_lib.inflation.classifier import find_classifier, new_classifier
from i2p_lib.inflation.filters import AXES, ORIGINAL_AXES, inflate_weight, to_taps
from i2p_lib.inflation.initial import initialize, match_norms
from i2p_lib.inflation.layers import IMAGE_NORMS, new_stem, restride, sparse_twin
from i2p_lib.inflation.regimes import NORMS, describe, shapes, within
from i2p_lib.inflation.trace import InflationError, Step, copied, trace, try_out

RECIPES = (None, "paper")
PAPER_STRIDE = 8  # total stride of the paper's ResNets: no stem stride, no pooling, three stages


def inflate(model: nn.Module, in_channels: int | None = 3, num_classes: int | None = None,
            axis: str = "z", normalize: bool = True, recipe: str | None = None,
            generator: torch.Generator | None = None) -> nn.Module:  # fmt: skip
    """Turn an image CNN of torchvision or timm into a network on ``SparseTensor``.

    Args:
        model: the image model; it is copied and stays as it is.
        in_channels: channels of the point features; the input layer is then new and random.
            None keeps the image model's own input layer, inflated, and its channels.
        num_classes: size of a new, random classifier, in the place of the image model's own or,
            where it has none (any more), at its end. None keeps the image model's own.
        axis, normalize: see ``inflate_weight``.
        recipe: None changes nothing else. ``"paper"`` makes the paper's changes (of the released
            code, core/models/collection): a 3x3x3 input layer of stride 1 without
            activation, no pooling after it, total stride 8, 2x2x2 shortcuts, BatchNorm on the
            logits.
        generator: source of the new layers' random weights.

    A model of our own may ask by its attributes ``norm_on_logits`` for BatchNorm on the logits of a
    new classifier, and by ``more_inputs`` for the role "input" of further modules.

    Windows that shrink the image at its border are centred instead, since sites have no border;
    parts that the image model runs in training only (auxiliary classifiers) are left out.

    Returns:
        A module that maps a SparseTensor to logits [B, num_classes]. ``net.i2p_roles`` maps each
        parameter's name to "input", "output", "norm" or "backbone"; ``net.i2p_classifier`` names
        the classifier (None without one); ``net.i2p_report`` is a table of what
        became of each tensor, see `describe`.

    Raises:
        InflationError: a layer or function that cannot be inflated, with its name and why.
        ValueError: an unknown axis or recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {RECIPES}, got {recipe!r}")
    if recipe == "paper" and in_channels is None:
        raise ValueError("the paper's recipe replaces the input layer: give in_channels")
    net = copied(model)
    steps = trace(net)
    stem = next((step.name for step in steps if isinstance(step.layer, nn.Conv2d)), None)
    if stem is None:
        raise InflationError("the model needs a convolution first")
    _drop_unused(net, steps)
    if recipe == "paper":
        _apply_paper_geometry(net, steps, stem)
    twins: dict[object, object] = {}  # a layer or parameter of the image network -> ours
    for name, layer in _leaves(net):
        if layer in twins:
            net.set_submodule(name, twins[layer])
            continue
        try:
            if name == stem and in_channels is not None:
                new = new_stem(layer, in_channels, recipe, generator)
            else:
                new = sparse_twin(name, layer, axis, normalize, recipe)
        except ValueError as error:
            raise InflationError(f"{name}: {error}") from error
        if name != stem:  # parameters that layers share stay shared
            for key, value in layer.named_parameters(recurse=False):
                setattr(new, key, twins.setdefault(value, getattr(new, key)))
        twins[layer] = new.train(layer.training)
        net.set_submodule(name, new)
    norm = recipe == "paper" or getattr(model, "norm_on_logits", False)
    old = find_classifier(steps)
    head = new_classifier(net, steps, num_classes, norm, generator) if num_classes else (
        old and old.name)
    names = [step.name for step in steps]
    norms = {name for name, layer in net.named_modules() if isinstance(layer, NORMS)}
    first_norm = [name for name in names[names.index(stem) :] if name in norms][:1]
    inputs = [stem, *first_norm, *getattr(model, "more_inputs", ())]
    inputs, outputs = (inputs if in_channels else []), ([head] if num_classes else [])
    describe(net, inputs, outputs, shapes(model), [*inputs[:1], *outputs], takes="voxels")
    net.i2p_classifier = head  # also where it is the image network's own
    try_out(net, stem)
    return net


def _leaves(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers to replace: those without children, and norm layers with what they contain."""
    every = list(net.named_modules(remove_duplicate=False))
    norms = [name for name, layer in every if isinstance(layer, IMAGE_NORMS)]
    return [(name, layer) for name, layer in every if not within(name, norms)
            and (name in norms or next(layer.children(), None) is None)]


def _drop_unused(net: nn.Module, steps: list[Step]) -> None:
    """Take out the parts with parameters that did not run: classifiers for training only.

    ``aux_logits`` is the name under which torchvision's models keep the switch of such parts.
    """
    for part in net.modules():
        if getattr(part, "aux_logits", False):
            part.aux_logits = False
    running, dropped = {step.layer for step in steps}, []
    ran = [name + "." for name, part in net.named_modules(remove_duplicate=False)
           if part in running]  # fmt: skip
    for name, part in list(net.named_modules()):
        if (not name or within(name, dropped) or next(part.parameters(), None) is None
                or any(step.startswith(name + ".") for step in ran)
                or isinstance(net.get_submodule(name.rpartition(".")[0]), IMAGE_NORMS)):
            continue
        net.set_submodule(name, nn.Identity())
        dropped.append(name)


def _apply_paper_geometry(net: nn.Module, steps: list[Step], stem: str) -> None:
    """Stem of stride 1, no pooling and no activation behind it, and total stride 8 at most."""
    total = max(step.stride_out for step in steps if isinstance(step.layer, nn.Conv2d))
    surplus = max(1, total // PAPER_STRIDE)
    for step in steps:
        if step.stride_in >= surplus or max(_pair(getattr(step.layer, "stride", 1))) == 1:
            continue
        if isinstance(step.layer, nn.MaxPool2d | nn.AvgPool2d):
            net.set_submodule(step.name, nn.Identity())
        elif isinstance(step.layer, nn.Conv2d):
            restride(step.layer)
    core, first = _inside_wrappers(net), [step.name for step in steps].index(stem)
    for step in steps[first + 1 : first + 3]:
        if isinstance(step.layer, nn.ReLU) and "." not in step.name.removeprefix(core):
            net.set_submodule(step.name, nn.Identity())


def _inside_wrappers(net: nn.Module) -> str:
    """What the names begin with of a network that others only wrap: "0." in Sequential(resnet)."""
    path, core, inner = "", "", net
    while True:
        parts = [name for name, part in inner.named_children() if next(part.parameters(), None)
                 is not None]  # fmt: skip
        if len(parts) != 1:
            return core
        path, inner = f"{path}{parts[0]}.", inner.get_submodule(parts[0])
        core = core if isinstance(inner, nn.Sequential) else path
