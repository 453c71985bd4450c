"""Sums of rows that share a place, in a fixed order on every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def sum_rows(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Return [count, C]: row p of `values` [P, C] is added to row `places[p]`.

    float32 for 16-bit formats. Rows are added in their order on every device.
    """
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    with fixed_order():
        return exact.new_zeros(count, values.shape[1]).index_add(0, places, exact)


def mean_rows(values: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
    """Return [R, C], the means of `sum_rows`: row r is that of `sizes[r]` rows, or 0 if of none."""
    total = sum_rows(values, places, len(sizes))
    return total / sizes.clamp(min=1)[:, None].to(total.dtype)


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
