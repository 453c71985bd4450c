"""Sums of rows that share a place, in a fixed order on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_rows(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Return [count, C]: row p of `values` [P, C] is added to row `places[p]`.

    float32 for 16-bit formats. Rows are added in their order on every device: on the CPU by a
    compiled loop, as `index_add` takes 20 times as long where rows are short.
    """
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    if exact.device.type == "cpu":
        return _SumRows.apply(exact, places, count)
    with fixed_order():
        return exact.new_zeros(count, values.shape[1]).index_add(0, places, exact)


def mean_rows(values: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
    """Return [R, C], the means of `sum_rows`: row r is that of `sizes[r]` rows, or 0 if of none."""
    total = sum_rows(values, places, len(sizes))
    return total / sizes.clamp(min=1)[:, None].to(total.dtype)


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, places: Tensor, count: int) -> Tensor:
        from i2p_lib.sparse import loops  # compiles, so that importing the package stays quick

        ctx.save_for_backward(places)
        total = values.new_zeros(count, values.shape[1])
        loops.add_rows(total.numpy(), places.numpy(), values.detach().contiguous().numpy())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places), None, None


@contextmanager
def fixed_order() -> Iterator[None]:
    """Let torch use ordered sums on a GPU inside the block; nothing changes on the CPU."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
