"""Sparse convolution with torch's own operations, tap by tap: what a GPU runs."""

import torch
from torch import Tensor

from i2p_lib.sparse.kernel_map import KernelMap


def multiply(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] @ weight[k], group by group.

    ``x`` [N, G * c_in] and ``weight`` [K, G, c_in, c_out]; the result is [M, G * c_out].
    A depthwise ``weight`` [K, C] multiplies value by value.
    Sums of 16-bit formats are float32.  No row occurs twice in a tap, so that parallel sums do not
    depend on an order.
    """
    width = weight.shape[1] * weight.shape[3] if weight.ndim == 4 else x.shape[1]
    out = x.new_zeros(kmap.n_out, width, dtype=torch.promote_types(x.dtype, torch.float32))
    if kmap.identity is not None:
        out += _product(x, weight[kmap.identity])
    for k, rows_in, rows_out in kmap.taps():
        out.index_add_(0, rows_out, _product(x[rows_in], weight[k]).to(out.dtype))
    return out.to(x.dtype)


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """grad_weight[k] = sum over pairs (i, o) of tap k: x[i].T @ grad[o], of ``weight``'s shape.

    ``x`` [N, G * c_in], ``grad`` [M, G * c_out]; group by group, or value by value if depthwise.
    """
    out = x.new_zeros(weight.shape)
    for k, rows_in, rows_out in kmap.taps(identity=True):
        whole = k == kmap.identity
        left, right = (x, grad) if whole else (x[rows_in], grad[rows_out])
        if weight.ndim == 2:
            out[k] = (left * right).sum(0)
        else:
            groups = weight.shape[1]
            out[k] = torch.bmm(_by_group(left, groups).mT, _by_group(right, groups))
    return out


def _product(x: Tensor, tap: Tensor) -> Tensor:
    """[n, G * c_in] times [G, c_in, c_out], without a batch of one where there is one group."""
    if tap.ndim == 1:
        return x * tap
    if len(tap) == 1:
        return torch.mm(x, tap[0])
    return torch.bmm(_by_group(x, len(tap)), tap).transpose(0, 1).flatten(1)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Rows [n, G * c] as one matrix per group, [G, n, c], without a copy."""
    return rows.unflatten(1, (groups, -1)).transpose(0, 1)
