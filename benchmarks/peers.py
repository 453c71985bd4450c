"""Other engines' convolutions on our kernel maps: their own kernels, weights in their own form.

They take a list of pairs or a table of neighbours and do not ask where they come from.  So one
layer, or a whole inflated network, runs on their kernels over exactly the same sites.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from i2p_lib.sparse import KernelMap, SparseConv3d, SparseConvTranspose3d, SparseTensor
from i2p_lib.sparse.backends import convolve, use_backend

PACKAGES = {
    "spconv": ("spconv", "spconv-cu126", "spconv-cu124", "spconv-cu120", "spconv-triton"),
    "ocnn": ("ocnn",),
    "torchsparse": ("torchsparse",),
}


class Unsupported(ValueError):
    """A peer cannot run a layer; the message says why."""


def installed(peer: str) -> str:
    """Return the peer's package and version, such as "spconv 2.3.8"; empty where it is absent."""
    for package in PACKAGES[peer]:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return ""


def must_run(peer: str, device: torch.device) -> None:
    """Raise Unsupported where a peer is not installed or has nothing for the device."""
    if peer == "torchsparse" and device.type != "cuda":
        raise Unsupported("runs on CUDA only")
    if not installed(peer):
        raise Unsupported("not installed")


class PeerConv(nn.Module):
    """A sparse convolution of ours with its geometry and weights, run by a peer's kernels.

    The weights are stored as the peer wants them, and the peer's form of a map is made once for
    each map.  Raises Unsupported for layers that the peer does not have.
    """

    def __init__(self, layer: SparseConv3d | SparseConvTranspose3d, peer: str):
        super().__init__()
        self.transposed = isinstance(layer, SparseConvTranspose3d)
        self.engine = ENGINES[peer](layer, self.transposed)
        self.peer, self.stride = peer, layer.stride
        self.geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        self.weight = nn.Parameter(self.engine.weight(layer.weight.detach()))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: SparseTensor) -> SparseTensor:
        """What the layer of ours gives."""
        fine = x.sites.level(x.stride // self.stride) if self.transposed else x.sites
        key = (self.peer, fine.stride, *self.geometry)
        if key not in fine.pyramid:
            fine.pyramid[key] = self.engine.map(fine.kernel_map(*self.geometry))
        out = self.engine.run(x.feats, self.weight, fine.pyramid[key])
        sites = fine if self.transposed else fine.downsample(self.stride)
        return SparseTensor(out if self.bias is None else out + self.bias, sites)


def hand_over(net: nn.Module, peer: str) -> nn.Module:
    """Exchange, in place, every sparse convolution of a network except those of kernel size 1.

    Those are plain matrix products, the same in every engine.  Raises Unsupported.
    """
    for name, layer in list(net.named_modules()):
        if isinstance(layer, SparseConv3d) and max(*layer.kernel_size, layer.stride) > 1:
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, PeerConv(layer, peer))
    return net


class _Spconv:
    """spconv's gather, multiply, scatter: pairs int32 [2, K, N] and their number per tap [K]."""

    def __init__(self, layer: nn.Module, transposed: bool):
        if layer.groups > 1:
            raise Unsupported("has no grouped convolution")
        self.transposed, self.kernel_size = transposed, layer.kernel_size

    def weight(self, weight: Tensor) -> Tensor:
        """[K, C_in, C_out] to [C_out, kx, ky, kz, C_in]."""
        return weight.permute(2, 0, 1).unflatten(1, self.kernel_size).contiguous()

    def map(self, kmap: KernelMap) -> SimpleNamespace:
        """The pairs, tap after tap."""
        device = kmap.rows_in.device
        pairs = torch.full((2, len(kmap.sizes), max(kmap.sizes)), -1, dtype=torch.int32,
                           device=device)
        for row, rows in zip(pairs, (kmap.rows_in, kmap.rows_out), strict=True):
            for tap, found in zip(row, rows.split(kmap.sizes), strict=True):
                tap[: len(found)] = found
        counts = torch.tensor(kmap.sizes, dtype=torch.int32, device=device)
        return SimpleNamespace(pairs=pairs, counts=counts, n_in=kmap.n_in, n_out=kmap.n_out,
                               submanifold=kmap.identity is not None)

    def run(self, feats: Tensor, weight: Tensor, kmap: SimpleNamespace) -> Tensor:
        """Features [N, C_in] to [M, C_out]."""
        return _Pairs.apply(feats, weight, kmap, self.transposed)


class _Pairs(torch.autograd.Function):
    """spconv's products of pairs; `inverse` exchanges inputs and outputs of the map."""

    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, kmap: SimpleNamespace, inverse: bool) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kmap, ctx.inverse = kmap, inverse
        rows = kmap.n_in if inverse else kmap.n_out
        return _spconv_ops().indice_conv(feats, weight, kmap.pairs, kmap.counts, rows, inverse,
                                         kmap.submanifold)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        kmap, ops = ctx.kmap, _spconv_ops()
        wanted = ops.get_current_stream if grad.is_cuda else lambda: 0  # asked for and never used
        with patch.object(ops, "get_current_stream", wanted):
            grads = ops.indice_conv_backward(*ctx.saved_tensors, grad, kmap.pairs, kmap.counts,
                                             ctx.inverse, kmap.submanifold)
        return *grads, None, None


@cache
def _spconv_ops() -> ModuleType:
    name = "spconv" if find_spec("spconv") else "spconv_triton"
    return importlib.import_module(f"{name}.pytorch.ops")


class _Ocnn:
    """ocnn's product with gathered neighbours: a table int64 [M, K], -1 where there is none."""

    def __init__(self, layer: nn.Module, transposed: bool):
        if layer.groups > 1 and not layer.depthwise:
            raise Unsupported("has no grouped convolution but the depthwise one")
        self.transposed, self.depthwise = transposed, layer.depthwise
        self.channels = (layer.in_channels, layer.out_channels)
        self.kernel_size = list(layer.kernel_size)

    def weight(self, weight: Tensor) -> Tensor:
        """[K, C_in, C_out] as it is, its transpose for a transposed layer; depthwise [K, 1, C]."""
        if self.depthwise:
            return weight[:, None].clone()
        return (weight.transpose(1, 2) if self.transposed else weight).clone()

    def map(self, kmap: KernelMap) -> SimpleNamespace:
        """What ocnn asks of its octree: how many nodes depths 1 and 0 have, and the table."""
        table = kmap.rows_in.new_full((kmap.n_out, len(kmap.sizes)), -1)
        sizes = torch.tensor(kmap.sizes, device=table.device)
        taps = torch.arange(len(sizes), device=table.device).repeat_interleave(sizes)
        table[kmap.rows_out, taps] = kmap.rows_in
        nodes = {1: kmap.n_in, 0: kmap.n_out}
        return SimpleNamespace(nnum_nempty=nodes, get_neigh=lambda *_: table)

    def run(self, feats: Tensor, weight: Tensor, octree: SimpleNamespace) -> Tensor:
        """Features [N, C_in] to [M, C_out]; stride 2 is ocnn's word for another depth."""
        conv, deconv, depthwise = _ocnn()
        rest = (self.kernel_size, 2, True)
        if self.depthwise:
            return depthwise(feats, weight, octree, 1, self.channels[0], *rest)
        if self.transposed:
            return deconv(feats, weight, octree, 0, *self.channels, *rest)
        return conv(feats, weight, octree, 1, *self.channels, *rest)


@cache
def _ocnn() -> tuple:
    """Import ocnn's functions; it imports torchvision, which must be able to."""
    layers = importlib.import_module("ocnn.nn.octree_conv")
    depthwise = importlib.import_module("ocnn.nn.octree_dwconv").octree_dwconv
    return layers.octree_conv, layers.octree_deconv, depthwise


class _Torchsparse:
    """torchsparse's gather, multiply, scatter, as the library's optional engine calls it."""

    def __init__(self, layer: nn.Module, transposed: bool):
        if layer.groups > 1:
            raise Unsupported("has no grouped convolution")
        self.transposed = transposed

    def weight(self, weight: Tensor) -> Tensor:
        """[K, C_in, C_out] as it is."""
        return weight.clone()

    def map(self, kmap: KernelMap) -> KernelMap:
        """Our map; the engine keeps its own form beside it."""
        return kmap.transposed() if self.transposed else kmap

    def run(self, feats: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        """Features [N, C_in] to [M, C_out]."""
        with use_backend("torchsparse") as use:
            out = convolve(feats, weight[:, None], kmap)
        if use.on_torch:
            raise Unsupported("lacks this layer")
        return out


ENGINES: dict[str, Callable] = {"spconv": _Spconv, "ocnn": _Ocnn, "torchsparse": _Torchsparse}
