"""The bootstraps: SciPy and the normal interval as references, and what is drawn together."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from i2p_lib.analysis.bootstrap import paired_difference, rank_correlation


def rng(seed=0):
    return np.random.default_rng(seed)


def test_one_run_against_a_constant_gives_the_normal_interval():
    """Promise: for many test items mean +- 1.96 standard errors, and the same again."""
    hits = np.arange(1000) < 700
    gap = paired_difference([hits], [np.zeros(1000)], rng())
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert (gap.low, gap.value, gap.high) == pytest.approx((0.7 - half, 0.7, 0.7 + half), abs=3e-3)
    assert gap == paired_difference([hits], [np.zeros(1000)], rng())


def test_both_sides_are_measured_on_the_same_drawn_items():
    """Promise: where two runs differ by the same on each item, no draw of items changes that."""
    hits = rng(1).random(50)
    gap = paired_difference([hits + 0.25], [hits], rng())
    assert (gap.low, gap.value, gap.high) == pytest.approx((0.25, 0.25, 0.25))


def test_seeds_are_drawn_too():
    """Promise: runs that agree on every item among themselves, but not with each other, widen."""
    ours = [np.full(20, 0.2), np.full(20, 0.8)]
    gap = paired_difference(ours, [np.zeros(20)], rng())
    assert (gap.low, gap.high) == pytest.approx((0.2, 0.8)) and gap.value == pytest.approx(0.5)


def test_rank_correlation_is_spearmans_and_its_interval_draws_owners():
    """Promise: SciPy's number; and copies of an owner's rows make nothing surer."""
    random = rng()
    x = random.normal(size=24)
    y = x + random.normal(size=24)
    owner = np.arange(24)
    found = rank_correlation(x, y, owner, rng(1), 400)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert -1 <= found.low < found.value < found.high <= 1
    four = [np.tile(v, 4) for v in (x, y, owner)]
    again = rank_correlation(*four, rng(1), 400)
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=0.02)
    falling = rank_correlation(x, -x**3, owner, random, 50)
    assert (falling.value, falling.low, falling.high) == pytest.approx((-1, -1, -1))


def test_draws_without_a_rank_are_left_out():
    """Promise: a side that never varies has no interval; one that sometimes does has one."""
    x, owner = np.arange(3.0), np.array([0, 0, 1])
    found = rank_correlation(x, np.ones(3), owner, rng(), 10)
    assert np.isnan([found.value, found.low, found.high]).all()
    some = rank_correlation(x, x**2, owner, rng(), 50)
    assert (some.value, some.low, some.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("call, message", [
    (lambda: paired_difference([[1, 2]], [[1]], rng()), "same items"),
    (lambda: paired_difference([], [[1]], rng()), "same items"),
    (lambda: rank_correlation([1, 2], [1, 2], [0, 1], rng()), "three rows"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
