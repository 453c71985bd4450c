"""Depthwise convolution: one weight per tap and channel. No GEMM, all memory traffic."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.kernel_map import KernelMap


def depthwise_conv(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] * weight[k].

    ``x`` [N, C], ``weight`` [K, C], result [M, C]. On the CPU compiled loops run over the
    neighbours of each row; elsewhere torch runs tap by tap.
    """
    return _Depthwise.apply(x, weight, kmap)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kmap = kmap
        return _accumulate(x, weight, kmap)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        need_x, need_w, _ = ctx.needs_input_grad
        grad_x = _accumulate(grad, weight, ctx.kmap.transposed()) if need_x else None
        grad_w = _weight_gradient(x, grad, weight, ctx.kmap) if need_w else None
        return grad_x, grad_w, None


def _accumulate(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    if x.device.type == "cpu":
        x32, w32 = _plain(x), _plain(weight)
        out = x32.new_empty(kmap.n_out, x.shape[1])
        _kernels()[0](x32.numpy(), w32.numpy(), *_neighbours(kmap), out.numpy())
        return out.to(x.dtype)
    out = x.new_zeros(kmap.n_out, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    if kmap.identity is not None:
        out += x * weight[kmap.identity]
    for k, rows_in, rows_out in kmap.taps():
        out.index_add_(0, rows_out, (x[rows_in] * weight[k]).to(out.dtype))
    return out.to(x.dtype)


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    if x.device.type == "cpu":
        grad_w = torch.zeros_like(_plain(weight))
        _kernels()[1](
            _plain(x).numpy(), _plain(grad).numpy(), *_neighbours(kmap), grad_w.numpy()
        )
        return grad_w.to(weight.dtype)
    grad_w = torch.zeros_like(weight)
    if kmap.identity is not None:
        grad_w[kmap.identity] = (x * grad).sum(0)
    for k, rows_in, rows_out in kmap.taps():
        grad_w[k] = (x[rows_in] * grad[rows_out]).sum(0)
    return grad_w


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous float32 or float64 tensor: the formats that NumPy knows."""
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.detach().contiguous()


def _neighbours(kmap: KernelMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The map as lists per output row: start [M + 1], input row [P] and tap [P]."""
    if "neighbours" not in kmap._lists:
        kmap._lists["neighbours"] = _kernels()[2](
            kmap.rows_in.numpy(), kmap.rows_out.numpy(), kmap.tap_of_pair.numpy(), kmap.n_out
        )
    return kmap._lists["neighbours"]


@cache
def _kernels():
    """Compile on first use, so that importing the package stays quick; the code is cached."""
    from numba import njit

    @njit(cache=True, fastmath=True, nogil=True)
    def accumulate(x, weight, start, rows, taps, out):
        channels = x.shape[1]
        for o in range(out.shape[0]):
            y, p, end = out[o], start[o], start[o + 1]
            for c in range(channels):
                y[c] = 0
            while p + 4 <= end:  # four neighbours at a time: 10 to 30 % faster than one
                x0, x1, x2, x3 = x[rows[p]], x[rows[p + 1]], x[rows[p + 2]], x[rows[p + 3]]
                w0, w1 = weight[taps[p]], weight[taps[p + 1]]
                w2, w3 = weight[taps[p + 2]], weight[taps[p + 3]]
                for c in range(channels):
                    y[c] += x0[c] * w0[c] + x1[c] * w1[c] + x2[c] * w2[c] + x3[c] * w3[c]
                p += 4
            for q in range(p, end):
                i, k = rows[q], taps[q]
                for c in range(channels):
                    y[c] += x[i, c] * weight[k, c]

    @njit(cache=True, fastmath=True, nogil=True)
    def weight_gradient(x, grad, start, rows, taps, out):
        channels = x.shape[1]
        for o in range(grad.shape[0]):
            for p in range(start[o], start[o + 1]):
                i, k = rows[p], taps[p]
                for c in range(channels):
                    out[k, c] += x[i, c] * grad[o, c]

    @njit(cache=True, nogil=True)
    def neighbours(rows_in, rows_out, tap_of_pair, n_out):
        start = np.zeros(n_out + 1, np.int32)
        for o in rows_out:
            start[o + 1] += 1
        for o in range(n_out):
            start[o + 1] += start[o]
        place = start[:-1].copy()
        rows = np.empty(len(rows_in), np.int32)
        taps = np.empty(len(rows_in), np.int32)
        for p in range(len(rows_in)):
            slot = place[rows_out[p]]
            place[rows_out[p]] = slot + 1
            rows[slot] = rows_in[p]
            taps[slot] = tap_of_pair[p]
        return start, rows, taps

    return accumulate, weight_gradient, neighbours
