"""Batch normalisation of a batch whose rows lie in several processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from i2p_lib.sparse import SparseBatchNorm, SparseTensor

KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SparseBatchNorm)


def use_global_statistics(net: nn.Module, counts: Callable[[], bool]) -> None:
    """Let every batch norm of `net`, in training, take mean and variance over all processes.

    counts: tells at each call whether this process's rows belong to the batch.
    Parameters, buffers, hooks and frozen statistics stay as they are.
    Raises ValueError for a batch norm that computes something of its own.
    """
    for name, layer in net.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        if type(layer) not in KNOWN:
            raise ValueError(
                f"{name}: {type(layer).__name__} cannot be shared by several processes: "
                "train this network in one"
            )
        layer.forward = partial(_forward, layer, counts)


def _forward(
    layer: _BatchNorm, counts: Callable[[], bool], x: SparseTensor | Tensor
) -> SparseTensor | Tensor:
    if not layer.training or getattr(layer, "frozen_stats", False):
        return type(layer).forward(layer, x)
    sparse = isinstance(x, SparseTensor)
    feats = x.feats if sparse else x
    out, mean, var = Standardize.apply(feats, layer.eps, counts())
    _follow(layer, mean, var)
    if layer.affine:
        out = out * _channels(layer.weight, out) + _channels(layer.bias, out)
    out = out.to(feats.dtype)
    return layer.activation(x.replace(out)) if sparse else out


@torch.no_grad()
def _follow(layer: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Let the layer's stored statistics follow those of a batch."""
    if layer.running_mean is None:
        return
    layer.num_batches_tracked.add_(1)
    pace = layer.momentum
    if pace is None:  # the mean over all batches so far
        pace = 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), pace)
    layer.running_var.lerp_(var.to(layer.running_var.dtype), pace)


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """Return values [C] in a shape that goes with [N, C, ...]."""
    return values.view(1, -1, *[1] * (like.ndim - 2)).to(like.dtype)


class Standardize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) of each channel of x [N, C, ...] over all processes.

    Also returns mean and unbiased variance [C] in float64, as the stored statistics want them.
    Each process sends its mean, its sum of squared deviations and its count; one collective
    forward, one back.  16-bit input is computed in float32.
    """

    @staticmethod
    def forward(ctx, x: Tensor, eps: float, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtype, ctx.counts = x.dtype, counts
        x = x if x.dtype == torch.float64 else x.float()
        dims = (0, *range(2, x.ndim))
        mean = x.mean(dims)
        deviation = (x - _channels(mean, x)).square_().sum(dims)
        rows = torch.full_like(mean[:1], x.numel() / x.shape[1])
        own = torch.cat([mean, deviation, rows]).double() * counts
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        means, deviations, rows = torch.stack(every).split([len(mean), len(mean), 1], 1)
        total = rows.sum()
        mean = (means * rows).sum(0) / total
        var = (deviations + rows * (means - mean).square()).sum(0) / total
        scale = (var + eps).rsqrt().to(x.dtype)
        out = (x - _channels(mean, x)) * _channels(scale, x)
        ctx.save_for_backward(out, scale, total)
        unbiased = var * total / (total - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return out, mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_: Tensor | None) -> tuple[Tensor, None, None]:
        out, scale, total = ctx.saved_tensors
        dims = (0, *range(2, out.ndim))
        sums = torch.cat([grad.sum(dims), (grad * out).sum(dims)]).double()
        dist.all_reduce(sums)
        level, slope = (sums / total).to(out.dtype).chunk(2)
        if ctx.counts:
            grad = grad - _channels(level, out) - out * _channels(slope, out)
        return (grad * _channels(scale, out)).to(ctx.dtype), None, None
