"""Batch normalisation over the sites of a batch, with the activation behind it in one pass."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.tensor import SparseTensor

_UNLIMITED = (-math.inf, math.inf)
_RANGES = {nn.Identity: _UNLIMITED, nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}


class SparseBatchNorm(nn.BatchNorm1d):
    """BatchNorm of each channel over all sites; the 2D layer's weights and statistics fit as is.

    While ``frozen_stats`` is set, the stored mean and variance are used in training too.
    ``activation`` is the activation that some image models keep inside their norm layer.
    """

    frozen_stats = False

    def __init__(self, *args, activation: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """Normalise the features [N, C] over N, then apply the activation.

        A dense tensor [B, C, 1, 1] (squeeze-and-excitation layers) is normalised over B.
        """
        batch = self.training and not self.frozen_stats
        if batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        sparse = isinstance(x, SparseTensor)
        if sparse and self._fusible(x.feats):
            return x.replace(self._fused(x.feats, batch))
        feats = F.batch_norm(
            x.feats if sparse else x, self.running_mean, self.running_var, self.weight, self.bias,
            batch or self.running_mean is None, self.momentum, self.eps,
        )  # fmt: skip
        return self.activation(x.replace(feats) if sparse else feats)

    def _fusible(self, feats: Tensor) -> bool:
        ordinary = self.affine and self.running_mean is not None and self.momentum is not None
        plain = feats.device.type == "cpu" and feats.dtype == torch.float32
        return ordinary and plain and len(feats) > 1 and type(self.activation) in _RANGES

    def _fused(self, feats: Tensor, batch: bool) -> Tensor:
        feats = feats.contiguous()
        if not batch:
            mean, var = self.running_mean, self.running_var
        else:
            mean, var = (torch.from_numpy(a) for a in _kernels()[0](feats.detach().numpy()))
            with torch.no_grad():
                unbiased = var * (len(feats) / (len(feats) - 1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        scale = torch.rsqrt(var + self.eps)
        limits = _RANGES[type(self.activation)]
        return _NormActivation.apply(feats, self.weight, self.bias, mean, scale, batch, limits)


class _NormActivation(torch.autograd.Function):
    """clamp((x - mean) * scale * weight + bias), the clamp undone on the way back.

    Two layers of an image model in three passes over memory instead of seven. A frozen norm with
    stored statistics keeps its output for the way back, which the next layer may keep too, and not
    its input.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, scale, batch, limits):
        mean, scale = mean.clone(), scale.clone()
        out = torch.empty_like(x)
        _kernels()[1](*_arrays(x, weight, bias, mean, scale), *limits, out.numpy())
        ctx.frozen = not (batch or ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        if ctx.frozen:
            ctx.save_for_backward(weight, scale, *([] if limits == _UNLIMITED else [out]))
        else:
            ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.batch, ctx.limits = batch, limits
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad = grad.contiguous()
        grad_x = torch.empty_like(grad)
        if ctx.frozen:  # the slope, and nothing where the clamp held
            weight, scale, *out = ctx.saved_tensors
            if not out:
                return grad * (weight * scale), *[None] * 6
            _kernels()[3](*_arrays(*out, weight * scale, grad), *ctx.limits, grad_x.numpy())
            return grad_x, *[None] * 6
        weight = ctx.saved_tensors[1]
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(weight)
        _kernels()[2](
            *_arrays(*ctx.saved_tensors, grad), *ctx.limits, ctx.batch,
            *_arrays(grad_x, grad_weight, grad_bias),
        )  # fmt: skip
        return grad_x, grad_weight, grad_bias, *[None] * 4


def _arrays(*tensors: Tensor) -> list:
    return [tensor.detach().numpy() for tensor in tensors]


@cache
def _kernels():
    """Compile on first use, so that importing the package stays quick; the code is cached."""
    import numpy as np
    from numba import njit

    @njit(cache=True, nogil=True)
    def moments(x):
        rows, channels = x.shape
        mean, var = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
        block = np.empty(channels, np.float32)
        for start in range(0, rows, 256):
            block[:] = 0
            for r in range(start, min(rows, start + 256)):
                for c in range(channels):
                    block[c] += x[r, c]
            mean += block
        mean /= rows
        centre = mean.astype(np.float32)
        for start in range(0, rows, 256):
            block[:] = 0
            for r in range(start, min(rows, start + 256)):
                for c in range(channels):
                    delta = x[r, c] - centre[c]
                    block[c] += delta * delta
            var += block
        return centre, (var / rows).astype(np.float32)

    @njit(cache=True, nogil=True)
    def forward(x, weight, bias, mean, scale, low, high, out):
        low, high = np.float32(low), np.float32(high)
        slope = weight * scale
        shift = bias - mean * slope
        for r in range(x.shape[0]):
            for c in range(x.shape[1]):
                z = x[r, c] * slope[c] + shift[c]
                z = low if z < low else z
                out[r, c] = high if z > high else z

    @njit(cache=True, nogil=True)
    def backward(x, weight, bias, mean, scale, grad, low, high, batch, out, out_weight, out_bias):
        low, high, zero = np.float32(low), np.float32(high), np.float32(0)
        rows, channels = x.shape
        slope = weight * scale
        shift = bias - mean * slope
        total, product = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
        block, block_product = np.empty(channels, np.float32), np.empty(channels, np.float32)
        for start in range(0, rows, 256):
            block[:] = 0
            block_product[:] = 0
            for r in range(start, min(rows, start + 256)):
                for c in range(channels):
                    z = x[r, c] * slope[c] + shift[c]
                    g = grad[r, c] if (z > low) & (z < high) else zero
                    block[c] += g
                    block_product[c] += g * (x[r, c] - mean[c])
            total += block
            product += block_product
        for c in range(channels):
            out_weight[c] = product[c] * scale[c]
            out_bias[c] = total[c]
        inner = (product * scale * scale / rows).astype(np.float32)
        level = (total / rows).astype(np.float32)
        if not batch:
            inner[:] = 0
            level[:] = 0
        for r in range(rows):
            for c in range(channels):
                z = x[r, c] * slope[c] + shift[c]
                g = grad[r, c] if (z > low) & (z < high) else zero
                out[r, c] = slope[c] * (g - level[c] - (x[r, c] - mean[c]) * inner[c])

    @njit(cache=True, nogil=True)
    def backward_frozen(y, slope, grad, low, high, out):
        low, high, zero = np.float32(low), np.float32(high), np.float32(0)
        for r in range(y.shape[0]):
            for c in range(y.shape[1]):
                inside = (y[r, c] > low) & (y[r, c] < high)
                out[r, c] = slope[c] * grad[r, c] if inside else zero

    return moments, forward, backward, backward_frozen
