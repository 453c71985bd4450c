"""Receptive-field ablation: inflated networks whose later kernels see their own cell alone."""

from __future__ import annotations

import torch
from torch import nn

from i2p_lib.analysis.features import backbone_convolutions
from i2p_lib.sparse import SparseConv3d
from i2p_lib.sparse.kernel_map import kernel_offsets


def spatial_kernels(net: nn.Module) -> list[SparseConv3d]:
    """Return an inflated network's kernels that see more than one cell, first to last."""
    layers = (net.get_submodule(name) for name in backbone_convolutions(net))
    return [m for m in layers if isinstance(m, SparseConv3d) and max(m.kernel_size) > 1]


def ablate(net: nn.Module, kept: int) -> int:
    """Let only the first `kept` spatial kernels see beyond their own cell, in place.

    The later ones keep the taps that lie in the output's own cell: the centre where the stride
    is 1, as BagNet's 1x1 kernels, and the cells that are merged where it is more.
    Returns the receptive field of the last stage in voxels, from the input layer on.
    """
    cut = spatial_kernels(net)[kept:]
    for layer in cut:
        offsets = kernel_offsets(layer.kernel_size, layer.padding, layer.dilation)
        inside = ((offsets >= 0) & (offsets < layer.stride)).all(1)
        with torch.no_grad():
            layer.weight[~inside.to(layer.weight.device)] = 0
    field, jump = 1, 1
    stem = next(m for m in net.modules() if isinstance(m, SparseConv3d))
    for layer in (stem, *(net.get_submodule(name) for name in backbone_convolutions(net))):
        if isinstance(layer, SparseConv3d):
            reach = (layer.stride if any(layer is c for c in cut) else max(layer.kernel_size)) - 1
            field += reach * layer.dilation * jump
            jump *= layer.stride
    return field
