"""What inflated networks cost on point clouds: parameters, multiply-accumulates, time."""

from __future__ import annotations

import math
from functools import partial
from timeit import repeat
from typing import Any

import pandas as pd
import torch
from torch import nn

from i2p_lib.data import load_dataset
from i2p_lib.inflation import inflate
from i2p_lib.sparse import SparseConv3d, SparseTensor, voxelize
from i2p_lib.weights import image_model

PAPER_MODELS = ("efficientnet_lite0", "resnet18", "resnet50", "resnet101", "wide_resnet101_2",
                "resnet152")
"""The offline profiles' own network, then the voxel networks of Table 1, by their library names."""


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


def cost_table(models: tuple[str, ...], spec: Any, clouds: int = 8) -> pd.DataFrame:
    """Parameters, MACs and milliseconds per test cloud of networks in the spec's setting.

    Of the spec, a run's, data, points, voxel_size, axis, normalize and recipe count.
    Random weights serve, since cost does not depend on them. The time is the fastest of three
    forward passes over a batch of ``clouds`` on one CPU thread, voxelisation left out.
    """
    data = load_dataset(spec.data, "test")
    points = torch.tensor(data.points[:clouds, : spec.points])
    rows = []
    for name in models:
        flat = image_model(name, weights="random")
        sizes = [sum(p.numel() for p in flat.parameters())]
        net = inflate(flat, 3, len(data.class_names), spec.axis, spec.normalize, spec.recipe,
                      torch.Generator().manual_seed(0))
        del flat  # only one network is in memory at a time
        sizes.append(sum(p.numel() for p in net.parameters()))
        x = voxelize(points, spec.voxel_size)
        macs = layer_macs(net, x)["macs"].sum()
        rows.append((name, *(n / 1e6 for n in sizes), macs / len(points) / 1e9,
                     1e3 * _seconds(net, x) / len(points)))
        del net
    return pd.DataFrame(rows, columns=[
        "network", "image parameters (M)", "point parameters (M)", "GMACs per cloud",
        "ms per cloud"]).set_index("network")


def _seconds(net: nn.Module, x: SparseTensor) -> float:
    """Return the fastest time of three forward passes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return min(repeat(lambda: net(x), number=1, repeat=3))
    finally:
        torch.set_num_threads(threads)
