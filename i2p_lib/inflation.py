"""From an image network to a network on points: inflated weights and replaced leaf layers.

The image model's own ``forward`` stays in charge. Only its leaf layers (convolution, norm,
pooling) are exchanged for sparse 3D ones, and ``SparseTensor`` answers the functions in between.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.sparse import (
    SparseAvgPool3d,
    SparseBatchNorm,
    SparseConv3d,
    SparseGlobalPool,
    SparseMaxPool3d,
)

AXES = {"x": 0, "y": 1, "z": 2}
RECIPES = (None, "paper")
PAPER_STRIDE = 8  # total stride of the paper's ResNets: no stem stride, no pooling, three stages
FEATURE_WISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.Mish, nn.Dropout, nn.Flatten,
)  # fmt: skip


class InflationError(ValueError):
    """A layer has no sparse 3D twin; the message names the layer and the reason."""


def inflate_weight(weight: Tensor, axis: str = "z", normalize: bool = True) -> Tensor:
    """Repeat a 2D filter along a third axis (paper, section 3.1; I3D).

    Args:
        weight: [C_out, C_in, kh, kw].
        axis: the axis ``x``, ``y`` or ``z`` along which the 3D filter is constant. Of the other
            two, kw lies on the first and kh on the second.
        normalize: divide by the number of repeats, so that a volume that is constant along the
            axis gives the 2D activations. The paper's released code does not divide.

    Returns:
        [C_out, C_in, kx, ky, kz], with as many repeats as the longer side of the filter.
    """
    if weight.ndim != 4:
        raise ValueError(f"expected a 2D filter [C_out, C_in, kh, kw], got {list(weight.shape)}")
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    depth = max(weight.shape[2:])
    plane = weight.transpose(2, 3).unsqueeze(2 + AXES[axis])
    shape = list(plane.shape)
    shape[2 + AXES[axis]] = depth
    volume = plane.expand(shape).contiguous()
    return volume / depth if normalize else volume


def to_taps(weight: Tensor, depthwise: bool) -> Tensor:
    """[C_out, C_in, kx, ky, kz] to the sparse layers' [K, C_in, C_out], or [K, C] if depthwise."""
    taps = weight.flatten(2)
    return (taps[:, 0].T if depthwise else taps.permute(2, 1, 0)).contiguous()


@dataclass(frozen=True)
class _Step:
    """One leaf layer as the image model runs it: where, and at which input and total stride."""

    name: str
    layer: nn.Module
    stride_in: int
    stride_out: int


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

    Returns:
        A module that maps a SparseTensor to logits [B, num_classes]. ``net.i2p_roles`` maps each
        parameter's name to "input", "output", "norm" or "backbone"; ``net.i2p_report`` is a table
        of what became of each layer.

    Raises:
        InflationError: a layer that cannot be inflated, with its name and why.
        ValueError: an unknown axis or recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {RECIPES}, got {recipe!r}")
    if recipe == "paper" and in_channels is None:
        raise ValueError("the paper's recipe replaces the input layer: give in_channels")
    net = copy.deepcopy(model)
    steps = _trace(net)
    convolutions = [s for s in steps if isinstance(s.layer, nn.Conv2d)]
    linears = [s for s in steps if isinstance(s.layer, nn.Linear)]
    if not convolutions or not linears:
        raise InflationError("the model needs a convolution first and a linear classifier last")
    if recipe == "paper":
        _apply_paper_geometry(net, steps)
    maker = _Maker(axis, normalize, recipe, in_channels, convolutions[0].name, generator)
    rows = []
    for name, layer in _leaves(net):
        new, action = maker.replace(name, layer)
        _set(net, name, new)
        rows.append(_row(name, layer, new, action))
    if num_classes is not None:
        last = linears[-1]
        head = _classifier(last.layer.in_features, num_classes, recipe == "paper", generator)
        _set(net, last.name, head)
        rows = [r for r in rows if r["layer"] != last.name]
        rows.append(_row(last.name, last.layer, head, "new"))
    net.i2p_roles = _roles(net, steps, linears[-1].name, in_channels, num_classes)
    net.i2p_classifier = linears[-1].name
    net.i2p_report = pd.DataFrame(rows)
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
        if isinstance(layer, nn.BatchNorm2d) or not next(layer.children(), None):
            leaves.append((name, layer))
    return leaves


def _trace(model: nn.Module, size: int = 224) -> list[_Step]:
    """Run the image model once on an empty image and note its leaf layers in order."""
    steps: list[_Step] = []

    def note(name):
        def hook(layer, inputs, output):
            image = inputs[0]
            before = size // image.shape[-1] if image.ndim == 4 else 0
            after = size // output.shape[-1] if output.ndim == 4 else 0
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.BatchNorm2d):
                steps.append(_Step(name, layer, before, after))
            elif isinstance(layer, nn.Linear) or not next(layer.children(), None):
                steps.append(_Step(name, layer, 0, 0))
        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in model.named_modules()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(next(model.parameters()).new_zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return steps


def _apply_paper_geometry(net: nn.Module, steps: list[_Step]) -> None:
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
            _restride(step.layer)
    after_stem = [s for s in steps[1:3] if isinstance(s.layer, nn.ReLU) and "." not in s.name]
    for step in after_stem:
        _set(net, step.name, nn.Identity())


def _restride(conv: nn.Conv2d) -> None:
    """Give a strided convolution stride 1 and a centred kernel."""
    conv.stride = (1, 1)
    if not _pads_by_itself(conv):
        conv.padding = tuple(d * (k - 1) // 2
                             for k, d in zip(conv.kernel_size, conv.dilation, strict=True))


@dataclass(frozen=True)
class _Maker:
    """Makes the sparse twin of a leaf layer."""

    axis: str
    normalize: bool
    recipe: str | None
    in_channels: int | None
    stem: str
    generator: torch.Generator | None

    def replace(self, name: str, layer: nn.Module) -> tuple[nn.Module, str]:
        """The twin and what was done; InflationError where there is none."""
        if isinstance(layer, nn.Conv2d):
            if name == self.stem and self.in_channels is not None:
                return self._stem(name, layer), "new"
            return self._conv(name, layer), "inflated"
        if isinstance(layer, nn.BatchNorm2d):
            return _norm(layer), "copied"
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            return _pool(name, layer), "replaced"
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            if layer.output_size not in (1, (1, 1)):
                raise InflationError(f"{name}: only global pooling (output 1) has a sparse twin, "
                                     f"got output size {layer.output_size}")
            return SparseGlobalPool(), "replaced"
        if isinstance(layer, nn.Linear):
            return layer, "copied"
        if isinstance(layer, FEATURE_WISE):
            return layer, "kept"
        raise InflationError(
            f"{name or 'the model'}: no sparse 3D twin of {type(layer).__name__} is known"
        )

    def _stem(self, name: str, conv: nn.Conv2d) -> SparseConv3d:
        _check_conv(name, conv)
        if self.recipe == "paper":
            kernel, stride, padding = 3, 1, 1
        else:
            kernel, stride = max(conv.kernel_size), conv.stride[0]
            padding = max(_padding(conv))
        return SparseConv3d(self.in_channels, conv.out_channels, kernel, stride, padding,
                            bias=conv.bias is not None, generator=self.generator)

    def _conv(self, name: str, conv: nn.Conv2d) -> SparseConv3d:
        _check_conv(name, conv)
        weight = inflate_weight(conv.weight.detach(), self.axis, self.normalize)
        pad_h, pad_w = _padding(conv)
        padding = [pad_w, pad_h]
        depth = weight.shape[2 + AXES[self.axis]]
        square = conv.kernel_size[0] == conv.kernel_size[1]
        padding.insert(AXES[self.axis], pad_h if square else (depth - 1) // 2)
        if self.recipe == "paper" and ".downsample." in name and conv.kernel_size == (1, 1):
            weight = weight.expand(*weight.shape[:2], 2, 2, 2) / (8 if self.normalize else 1)
        depthwise = conv.groups > 1
        with torch.device("meta"):  # no random weights, they would be replaced at once
            twin = SparseConv3d(conv.in_channels, conv.out_channels, tuple(weight.shape[2:]),
                                conv.stride[0], tuple(padding), conv.dilation[0], conv.groups,
                                conv.bias is not None)
        twin.weight = nn.Parameter(to_taps(weight, depthwise))
        if conv.bias is not None:
            twin.bias = nn.Parameter(conv.bias.detach().clone())
        return twin


def _check_conv(name: str, conv: nn.Conv2d) -> None:
    """InflationError where the grid of the convolution's outputs is not that of its inputs."""
    if conv.groups not in (1, conv.in_channels) or (
        conv.groups > 1 and conv.in_channels != conv.out_channels
    ):
        raise InflationError(f"{name}: grouped convolution ({conv.groups} groups of "
                             f"{conv.in_channels} channels); only full and depthwise ones exist")
    if conv.stride[0] != conv.stride[1] or conv.dilation[0] != conv.dilation[1]:
        raise InflationError(f"{name}: stride {conv.stride} or dilation {conv.dilation} differ "
                             "between height and width; sparse levels have one stride")
    if conv.padding_mode != "zeros":
        raise InflationError(f"{name}: padding mode {conv.padding_mode!r}; empty space is zero")
    for k, p in zip(conv.kernel_size, _padding(conv), strict=True):
        reach = conv.dilation[0] * (k - 1) + 1
        if not _pads_by_itself(conv) and not reach - conv.stride[0] <= 2 * p < reach:
            raise InflationError(
                f"{name}: kernel {k} with stride {conv.stride[0]} and padding {p} shrinks the "
                "image at its border; sparse sites have no border"
            )


def _pads_by_itself(conv: nn.Conv2d) -> bool:
    """TensorFlow's "same" padding (timm's Conv2dSame), or torch's."""
    return isinstance(conv.padding, str) or type(conv).__name__ == "Conv2dSame"


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Cells before the first tap, for height and width."""
    if not _pads_by_itself(conv):
        return conv.padding
    stride = conv.stride[0]
    return tuple(max(0, d * (k - 1) + 1 - stride) // 2
                 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))


def _norm(norm: nn.BatchNorm2d) -> SparseBatchNorm:
    twin = SparseBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine,
                           norm.track_running_stats, activation=getattr(norm, "act", None))
    twin.load_state_dict(norm.state_dict())
    return twin


def _pool(name: str, pool: nn.MaxPool2d | nn.AvgPool2d) -> nn.Module:
    sides = [pool.kernel_size, pool.stride, pool.padding]
    if any(isinstance(v, tuple) and v[0] != v[1] for v in sides):
        raise InflationError(f"{name}: uneven pooling window {pool.kernel_size}")
    kernel, stride, padding = (v[0] if isinstance(v, tuple) else v for v in sides)
    if not kernel - stride <= 2 * padding < kernel and not pool.ceil_mode:
        raise InflationError(f"{name}: pooling {kernel} with stride {stride} and padding {padding} "
                             "shrinks the image at its border; sparse sites have no border")
    if isinstance(pool, nn.MaxPool2d):
        return SparseMaxPool3d(kernel, stride, padding)
    return SparseAvgPool3d(kernel, stride, padding)


def _classifier(features: int, classes: int, norm: bool, generator) -> nn.Module:
    linear = nn.Linear(features, classes)
    with torch.no_grad():
        bound = features**-0.5
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.zero_()
    return nn.Sequential(linear, nn.BatchNorm1d(classes)) if norm else linear


def _roles(net, steps, classifier, in_channels, num_classes) -> dict[str, str]:
    """What each parameter belongs to; the norm right behind a new input layer counts as input."""
    names = [s.name for s in steps]
    stem = next(s.name for s in steps if isinstance(s.layer, nn.Conv2d))
    norms = {n for n, m in net.named_modules() if isinstance(m, SparseBatchNorm)}
    stem_norm = next((n for n in names[names.index(stem) + 1 :] if n in norms), None)
    roles = {}
    for name, _ in net.named_parameters():
        owner = name.rpartition(".")[0]
        if in_channels is not None and owner in (stem, stem_norm):
            roles[name] = "input"
        elif num_classes is not None and (owner + ".").startswith(classifier + "."):
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

    if isinstance(new, nn.Sequential):
        new = new[0]
    return {"layer": name, "type": type(old).__name__, "image": shape(old),
            "points": shape(new), "action": action}  # fmt: skip
