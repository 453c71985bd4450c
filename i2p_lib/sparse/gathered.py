"""Sparse convolution with torch's own operations, tap by tap: what a GPU runs."""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_lib.sparse.kernel_map import KernelMap


def multiply(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] @ weight[k], group by group.

    ``x`` [N, G * c_in] and ``weight`` [K, G, c_in, c_out]; the result is [M, G * c_out].
    Sums of 16-bit formats are float32.  No row occurs twice in a tap, so that parallel sums do not
    depend on an order.
    """
    out = _sums(x, kmap.n_out, weight.shape[1] * weight.shape[3])
    if kmap.identity is not None:
        out += _product(x, weight[kmap.identity])
    for k, rows_in, rows_out in kmap.taps():
        out.index_add_(0, rows_out, _product(x[rows_in], weight[k]).to(out.dtype))
    return out.to(x.dtype)


def weight_gradient(x: Tensor, grad: Tensor, kmap: KernelMap, groups: int) -> Tensor:
    """grad_weight[k] = sum over pairs (i, o) of tap k: x[i].T @ grad[o], group by group.

    ``x`` [N, G * c_in], ``grad`` [M, G * c_out]; the result is [K, G, c_in, c_out].
    """
    shape = (groups, x.shape[1] // groups, grad.shape[1] // groups)
    out = x.new_zeros(len(kmap.sizes), *shape)
    for k, left, right in _sides(x, grad, kmap):
        out[k] = torch.bmm(_by_group(left, groups).mT, _by_group(right, groups))
    return out


def weighted_sum(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] * weight[k]; [N, C] to [M, C]."""
    out = _sums(x, kmap.n_out, x.shape[1])
    if kmap.identity is not None:
        out += x * weight[kmap.identity]
    for k, rows_in, rows_out in kmap.taps():
        out.index_add_(0, rows_out, (x[rows_in] * weight[k]).to(out.dtype))
    return out.to(x.dtype)


def weighted_gradient(x: Tensor, grad: Tensor, kmap: KernelMap) -> Tensor:
    """grad_weight[k] = sum over pairs (i, o) of tap k: x[i] * grad[o]; [K, C]."""
    out = x.new_zeros(len(kmap.sizes), x.shape[1])
    for k, left, right in _sides(x, grad, kmap):
        out[k] = (left * right).sum(0)
    return out


def _sides(x: Tensor, grad: Tensor, kmap: KernelMap):
    """(tap, input rows, output gradients) of each tap that has pairs."""
    if kmap.identity is not None:
        yield kmap.identity, x, grad
    for k, rows_in, rows_out in kmap.taps():
        yield k, x[rows_in], grad[rows_out]


def _sums(x: Tensor, rows: int, channels: int) -> Tensor:
    return x.new_zeros(rows, channels, dtype=torch.promote_types(x.dtype, torch.float32))


def _product(x: Tensor, tap: Tensor) -> Tensor:
    """[n, G * c_in] times [G, c_in, c_out], without a batch of one where there is one group."""
    if len(tap) == 1:
        return torch.mm(x, tap[0])
    return torch.bmm(_by_group(x, len(tap)), tap).transpose(0, 1).flatten(1)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Rows [n, G * c] as one matrix per group, [G, n, c], without a copy."""
    return rows.unflatten(1, (groups, -1)).transpose(0, 1)
