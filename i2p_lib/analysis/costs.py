"""What inflated networks cost on point clouds: parameters, multiply-accumulates, time."""

from __future__ import annotations

import math
import time
from typing import Protocol

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


class Setting(Protocol):
    """What a network's cost depends on; a run's spec says it."""

    data: str
    points: int
    voxel_size: float
    axis: str
    normalize: bool
    recipe: str


def layer_macs(net: nn.Module, x: SparseTensor) -> pd.DataFrame:
    """Multiply-accumulates of each convolution and linear layer of one forward pass.

    Counts pairs of occupied voxels only; normalisation and activations are left out, as usual.
    """
    rows = []

    def note(name):
        def hook(layer, inputs, output):
            if isinstance(layer, nn.Linear):
                rows.append((name, output.shape[0] * layer.weight.numel()))
                return
            source = inputs[0].sites
            if math.prod(layer.kernel_size) == 1 and layer.stride == 1:
                pairs = len(source)
            else:
                kmap = source.kernel_map(layer.kernel_size, layer.stride, layer.padding,
                                         layer.dilation)
                pairs = len(kmap.rows_in)
            width = layer.out_channels // layer.groups
            rows.append((name, pairs * layer.in_channels * width))
        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in net.named_modules()
               if isinstance(layer, SparseConv3d | nn.Linear)]
    try:
        with torch.no_grad():
            net.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows, columns=["layer", "macs"])


def cost_table(models: tuple[str, ...], spec: Setting, clouds: int = 8) -> pd.DataFrame:
    """Parameters, MACs and milliseconds per test cloud of networks in the spec's setting.

    Random weights serve, since cost does not depend on them. The time is the fastest of three
    forward passes over a batch of ``clouds`` on one CPU thread, voxelisation left out.
    """
    data = load_dataset(spec.data, "test")
    points = torch.tensor(data.points[:clouds, : spec.points])
    rows = [_cost(name, spec, points, len(data.class_names)) for name in models]
    return pd.DataFrame(rows).set_index("network")


def _cost(name: str, spec: Setting, points: torch.Tensor, classes: int) -> dict:
    """One row of the table; a function, so that only one network is in memory at a time."""
    flat = image_model(name, weights="random")
    image_parameters = _millions(flat)
    net = inflate(flat, 3, classes, spec.axis, spec.normalize, spec.recipe,
                  torch.Generator().manual_seed(0))
    del flat
    x = voxelize(points, spec.voxel_size)
    return {
        "network": name,
        "image parameters (M)": image_parameters,
        "point parameters (M)": _millions(net),
        "GMACs per cloud": layer_macs(net, x)["macs"].sum() / len(points) / 1e9,
        "ms per cloud": 1e3 * _seconds(net, x) / len(points),
    }


def _millions(net: nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


def _seconds(net: nn.Module, x: SparseTensor) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = math.inf
        with torch.no_grad():
            for _ in range(3):
                began = time.perf_counter()
                net(x)
                best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return best
