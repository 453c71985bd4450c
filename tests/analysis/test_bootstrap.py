"""Intervals and p values: SciPy as reference, what is drawn together, and rates of error."""

import math

import numpy as np
import pytest
from scipy.stats import permutation_test, spearmanr, ttest_1samp

from i2p_lib.analysis.bootstrap import paired_difference, seed_correlation


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


def test_pairs_are_drawn_together():
    """Promise: a seed that moves both sides alike cancels; one that moves one side does not."""
    seeds = rng(1).random((3, 1)) + np.zeros((3, 20))
    alike = paired_difference(seeds + 0.25, seeds, rng())
    assert (alike.low, alike.value, alike.high) == pytest.approx((0.25, 0.25, 0.25))
    apart = paired_difference(seeds, np.zeros((3, 20)), rng())
    assert apart.low < seeds.mean() < apart.high and apart.high - apart.low > 0.5


def test_pairs_without_noise_of_items_have_students_interval():
    """Promise: where seeds alone differ, the interval is that of a paired t test (SciPy's)."""
    seeds = rng(2).normal(size=12)
    gap = paired_difference(np.repeat(seeds[:, None], 4, 1), np.zeros((12, 4)), rng(), 20_000)
    expected = ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx(tuple(expected), abs=0.04)


@pytest.mark.parametrize("pairs, clouds", [(2, 125), (3, 125), (3, 500), (10, 125)])
def test_null_data_are_told_apart_no_more_often_than_stated(pairs, clouds):
    """Promise: two equal methods, whose seeds and clouds vary, differ in one case of twenty."""
    random, trials, wrong = rng(5), 250, 0
    for _ in range(trials):
        difficulty = random.normal(0, 1.5, clouds)
        sides = []
        for _ in range(2):
            score = random.normal(0, 0.25, (pairs, 1)) + random.normal(0, 0.4, clouds)
            sides.append(difficulty + score + random.logistic(size=(pairs, clouds)) > 0)
        gap = paired_difference(*sides, random, 300)
        wrong += gap.low > 0 or gap.high < 0
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_a_planted_difference_is_found():
    random, found = rng(4), 0
    for _ in range(50):
        chances = [np.full((3, 125), chance) for chance in (0.7, 0.5)]
        gap = paired_difference(*(random.random((3, 125)) < c for c in chances), random, 200)
        found += gap.low > 0
    assert found > 40


def test_seed_correlation_is_spearmans_within_a_group():
    """Promise: of one group SciPy's number, and nearly the p of SciPy's permutation test."""
    x = rng().normal(size=9)
    y = x + rng(1).normal(size=9)
    value, p = seed_correlation(x, y, np.zeros(9), np.arange(9), rng(2), 4000)
    assert value == pytest.approx(spearmanr(x, y).statistic)
    expected = permutation_test((x,), lambda one: spearmanr(one, y).statistic,
                                permutation_type="pairings", n_resamples=2000, rng=rng(3))
    assert p == pytest.approx(expected.pvalue, abs=0.02)


def test_differences_between_groups_are_no_correlation():
    """Promise: methods that differ in both numbers, with seeds that do not, have none."""
    group = np.repeat([0, 1, 2], 3)
    noise = np.tile([0.0, 1.0, 2.0], 3), np.array([0, 2, 1, 1, 0, 2, 2, 1, 0.5])
    value, p = seed_correlation(*(10 * group + side for side in noise), group, np.arange(9), rng())
    assert abs(value) < 0.5 and p > 0.2
    assert np.isnan(seed_correlation([1, 2], [1, 2], [0, 1], [0, 1], rng())).all()
    assert np.isnan(seed_correlation([1, 2], [3, 3], [0, 0], [0, 1], rng())).all()


def test_runs_of_one_starting_network_count_as_one():
    """Promise: the same three starts, trained by many methods alike, make nothing surer."""
    x, y = np.tile([1.0, 2.0, 3.0], 8), np.tile([0.1, 0.2, 0.3], 8)
    _, p = seed_correlation(x, y, np.repeat(np.arange(8), 3), np.tile([0, 1, 2], 8), rng())
    assert p == pytest.approx(1 / 3, abs=0.04)  # two of the six orders are as extreme


@pytest.mark.parametrize("call, message", [
    (lambda: paired_difference([[1, 2]], [[1]], rng()), "same items"),
    (lambda: paired_difference([[1, 2], [1, 2]], [[1, 2]], rng()), "pairs of runs"),
    (lambda: paired_difference([], [[1]], rng()), "same items"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
