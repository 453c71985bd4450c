"""The sparse twin of each leaf layer of an image model."""

import torch
from torch import nn

from i2p_lib import sparse
from i2p_lib.inflation.filters import AXES, inflate_weight, to_taps
from i2p_lib.sparse import SparseBatchNorm, SparseConv3d

IMAGE_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def sparse_twin(name: str, layer: nn.Module, axis: str, normalize: bool,
                recipe: str | None) -> nn.Module:
    """The sparse layer for a leaf layer; ValueError for a convolution or pooling without one.

    Any other layer stays: its functions have a meaning on sparse tensors, or refuse them.
    """
    if isinstance(layer, nn.Conv2d):
        wide = recipe == "paper" and ".downsample." in name and layer.kernel_size == (1, 1)
        return _conv(layer, axis, normalize, wide)
    if isinstance(layer, IMAGE_NORMS):
        return _norm(name, layer)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        twin = sparse.SparseMaxPool3d if isinstance(layer, nn.MaxPool2d) else sparse.SparseAvgPool3d
        return twin(*sparse.window(layer.kernel_size, layer.stride, layer.padding))
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return sparse.SparseGlobalPool(layer.output_size)
    return layer


def new_stem(conv: nn.Conv2d, in_channels: int, recipe: str | None,
             generator: torch.Generator | None) -> SparseConv3d:  # fmt: skip
    """A random input layer in the place of an image network's; ValueError as for its twin."""
    _check_conv(conv)
    geometry = max(conv.kernel_size), conv.stride[0], max(_padding(conv)), conv.dilation[0]
    return SparseConv3d(in_channels, conv.out_channels,
                        *((3, 1, 1) if recipe == "paper" else geometry),
                        bias=conv.bias is not None, generator=generator)  # fmt: skip


def _conv(conv: nn.Conv2d, axis: str, normalize: bool, wide: bool) -> SparseConv3d:
    """The inflated convolution; a wide one repeats a 1x1 kernel to 2x2x2."""
    _check_conv(conv)
    weight = inflate_weight(conv.weight.detach(), axis, normalize)
    pad_h, pad_w = _padding(conv)
    square = conv.kernel_size[0] == conv.kernel_size[1]
    deep = pad_h if square else conv.dilation[0] * ((max(conv.kernel_size) - 1) // 2)
    padding = AXES[axis].plane(pad_w, pad_h, deep)
    if wide:
        weight = weight.expand(*weight.shape[:2], 2, 2, 2) / (8 if normalize else 1)
    with torch.device("meta"):  # no random weights, they would be replaced at once
        twin = SparseConv3d(conv.in_channels, conv.out_channels, tuple(weight.shape[2:]),
                            conv.stride[0], padding, conv.dilation[0], conv.groups,
                            conv.bias is not None)
    twin.weight = nn.Parameter(to_taps(weight, conv.groups))
    if conv.bias is not None:
        twin.bias = nn.Parameter(conv.bias.detach())
    return twin


def _check_conv(conv: nn.Conv2d) -> None:
    """ValueError for what a convolution on sparse sites cannot be."""
    if type(conv) is not nn.Conv2d and not _pads_by_itself(conv):
        raise ValueError(f"{type(conv).__name__} is no plain convolution: it computes its weight, "
                         "or its output, in a way of its own")
    if conv.stride[0] != conv.stride[1] or conv.dilation[0] != conv.dilation[1]:
        raise ValueError(f"stride {conv.stride} or dilation {conv.dilation} differ between height "
                         "and width; sparse levels have one stride")
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding mode {conv.padding_mode!r}; empty space is zero")


def _pads_by_itself(conv: nn.Conv2d) -> bool:
    """TensorFlow's "same" padding (timm's Conv2dSame), or torch's."""
    return isinstance(conv.padding, str) or type(conv).__name__ == "Conv2dSame"


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Cells before the first tap, for height and width."""
    own = (-1, -1) if _pads_by_itself(conv) else conv.padding
    return tuple(sparse.grid_padding(k, conv.stride[0], p, d)
                 for k, p, d in zip(conv.kernel_size, own, conv.dilation, strict=True))


def restride(conv: nn.Conv2d) -> None:
    """Give a strided convolution stride 1 and a centred kernel."""
    conv.stride = (1, 1)
    if not _pads_by_itself(conv):
        conv.padding = tuple(d * (k - 1) // 2
                             for k, d in zip(conv.kernel_size, conv.dilation, strict=True))


def _norm(name: str, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> SparseBatchNorm:
    activation, drop = getattr(norm, "act", None), getattr(norm, "drop", None)  # timm's norms
    if not isinstance(drop, nn.Identity | None):
        activation = nn.Sequential(drop, *[activation] * (activation is not None))
    twin = SparseBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine,
                           norm.track_running_stats, activation=activation)
    twin.load_state_dict(norm.state_dict(), strict=False, assign=True)  # but for its activation's
    twin.label = name
    return twin
