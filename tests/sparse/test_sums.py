"""Sums of rows: the same numbers as a plain loop, wide enough, and no setting left changed."""

import pytest
import torch

from i2p_lib.sparse.sums import fixed_order, sum_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_added_where_they_belong(dtype):
    random = torch.Generator().manual_seed(0)
    values = torch.rand(50, 3, generator=random, dtype=dtype)
    places = torch.randint(0, 7, (50,), generator=random)
    expected = torch.stack([values[places == k].sum(0) for k in range(9)])
    found = sum_rows(values, places, 9)
    assert found.dtype == dtype and torch.allclose(found, expected)
    assert torch.equal(found, values.new_zeros(9, 3).index_add(0, places, values))


def test_many_rows_of_a_16_bit_format_are_not_lost():
    values = torch.ones(1000, 1, dtype=torch.bfloat16)
    found = sum_rows(values, torch.zeros(1000, dtype=torch.int64), 1)
    assert found.dtype == torch.float32 and found.item() == 1000


def test_gradients_go_back_to_each_row():
    values = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([0, 2, 2, 1, 0])
    assert torch.autograd.gradcheck(lambda v: sum_rows(v, places, 3), values)


@pytest.mark.parametrize("before", [False, True])
def test_the_setting_is_put_back_even_after_an_error(before):
    torch.use_deterministic_algorithms(before, warn_only=before)
    try:
        with pytest.raises(RuntimeError, match="stop"), fixed_order():
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError("stop")
        assert torch.are_deterministic_algorithms_enabled() is before
        assert torch.is_deterministic_algorithms_warn_only_enabled() is before
    finally:
        torch.use_deterministic_algorithms(False)
