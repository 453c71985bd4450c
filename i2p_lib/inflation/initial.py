"""Random weights that a network on points starts from where nothing is taken from images."""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from i2p_lib.inflation.regimes import NORMS
from i2p_lib.sparse import SparseConv3d, SparseConvTranspose3d

INITS = ("torchsparse", "he")


@torch.no_grad()
def initialize(net: nn.Module, init: Literal["torchsparse", "he"],
               generator: torch.Generator) -> None:
    """Draw a network's weights anew, in place, every tap of a kernel by itself.

    "torchsparse" is what the original starts from scratch with (torchsparse 1.2.0,
    ``nn/modules/conv.py: Conv3d.reset_parameters``): sparse convolutions uniform within
    1 / sqrt(C_in K) on either side, transposed ones within 1 / sqrt(C_out).  "he" is normal with
    the variance 2 / (C_out K), as torchvision and timm initialise.  Under both, linear layers and
    dense convolutions start as torch starts them, norms with 1 and 0 and fresh statistics, and
    parameters of other modules stay.

    The layers are drawn in the order of ``net.named_parameters()`` and a kernel in torchsparse's
    order of taps, so that a generator seeded as the original's gives the original's numbers.

    Raises ValueError for another ``init``.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    for layer in net.modules():
        if isinstance(layer, SparseConv3d | SparseConvTranspose3d):
            _draw(layer, init, generator)
        elif isinstance(layer, nn.Linear | _ConvNd):
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()


@torch.no_grad()
def match_norms(net: nn.Module, reference: nn.Module) -> None:
    """Scale every inflated kernel of a network, in place, to its Frobenius norm in another one.

    The directions of the weights stay.  The networks must be alike, and inflated (`inflate`).
    Batch norm makes what a network computes blind to this size, but not what a step of a given
    learning rate does to it.

    Raises ValueError for networks whose inflated kernels differ in name or shape.
    """
    shapes, given = ({name: value for name, value in one.named_parameters()
                      if value.ndim > 1 and one.i2p_roles[name] == "backbone"}
                     for one in (net, reference))  # fmt: skip
    if differing := {n for n in shapes.keys() | given.keys()
                     if n not in shapes or n not in given or shapes[n].shape != given[n].shape}:
        raise ValueError("expected two networks of one shape, these differ in "
                         f"{', '.join(sorted(differing))}")
    for name, weight in shapes.items():
        weight.mul_(given[name].norm() / weight.norm())


def _draw(layer: SparseConv3d | SparseConvTranspose3d, init: str, generator) -> None:
    taps, weight = math.prod(layer.kernel_size), torch.empty_like(layer.weight)
    if init == "he":
        fan, bound = taps * layer.out_channels // layer.groups, 0.0
        weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
    else:
        up = isinstance(layer, SparseConvTranspose3d)
        fan = layer.out_channels if up else taps * layer.in_channels // layer.groups
        bound = 1 / math.sqrt(fan)
        weight.uniform_(-bound, bound, generator=generator)
    if taps % 2:  # torchsparse numbers odd kernels with x fastest, we with z fastest
        weight = weight.unflatten(0, layer.kernel_size[::-1]).transpose(0, 2).flatten(0, 2)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.uniform_(-bound, bound, generator=generator)
