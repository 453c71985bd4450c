"""What inflated networks cost on point clouds: multiply-accumulates."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
import torch
from torch import nn

from i2p_lib.sparse import SparseConv3d, SparseTensor


def layer_macs(net: nn.Module, x: SparseTensor) -> pd.DataFrame:
    """Multiply-accumulates of each convolution and linear layer of one forward pass.

    Counts pairs of occupied voxels only; normalisation and activations are left out, as usual.
    """
    rows = []

    def note(name, layer, inputs, output):
        if isinstance(layer, nn.Linear):
            rows.append((name, output.shape[0] * layer.weight.numel()))
            return
        source = inputs[0].sites
        if math.prod(layer.kernel_size) == 1 and layer.stride == 1:
            pairs = len(source)
        else:
            kmap = source.kernel_map(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            pairs = len(kmap.rows_in)
        rows.append((name, pairs * layer.in_channels * (layer.out_channels // layer.groups)))

    handles = [layer.register_forward_hook(partial(note, name)) for name, layer
               in net.named_modules() if isinstance(layer, SparseConv3d | nn.Linear)]
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows, columns=["layer", "macs"])
