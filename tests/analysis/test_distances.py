"""The first Wasserstein distance: known cases, SciPy as reference, its draws, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_notebooks import chapter_functions
from scipy.stats import wasserstein_distance

from i2p_lib.analysis.bootstrap import interval
from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "05_neural_collapse.ipynb")
weighted_wasserstein1 = chapter.weighted_wasserstein1


def wasserstein1(x, y):
    """The distance where all numbers of a side weigh alike."""
    alike, owners = np.ones((1, 1)), (np.zeros(len(x), int), np.zeros(len(y), int))
    return weighted_wasserstein1(x, y, *owners, alike, alike)[0]


def test_a_shift_costs_its_length_and_a_scaling_the_mean_distance():
    """Promise: exact on cases whose answer can be written down."""
    x = np.random.default_rng(0).normal(size=1000)
    assert wasserstein1(x, x + 3) == pytest.approx(3)
    assert wasserstein1(x, x[::-1]) == 0
    positive = np.abs(x)
    assert wasserstein1(positive, 5 * positive) == pytest.approx(4 * positive.mean())
    assert wasserstein1(np.array([0.0]), np.array([1.0, 3.0])) == 2


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_it_equals_scipy_under_every_weighting(seed, n, m):
    """Promise: the same number as SciPy's, with ties, other sizes, and weights of owners."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-4, 4, n) / 2, rng.normal(size=m).round(1)
    assert wasserstein1(x, y) == pytest.approx(wasserstein_distance(x, y), abs=1e-12)
    owners = rng.integers(3, size=n), rng.integers(2, size=m)
    weights = rng.integers(1, 4, size=(3, 5)).astype(float), rng.random((2, 5)) + 0.1
    ours = weighted_wasserstein1(x, y, *owners, *weights)
    theirs = [
        wasserstein_distance(x, y, weights[0][owners[0], d], weights[1][owners[1], d])
        for d in range(5)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_bootstrap_draws_owners_whole_and_an_interval_holds_the_truth():
    """Promise: an interval over owners covers the distance of the two populations."""
    rng = np.random.default_rng(1)
    weights = chapter.drawn_weights(7, rng)
    assert weights.shape == (7, 1 + chapter.DRAWS) and (weights.sum(0) == 7).all()
    assert (weights[:, 0] == 1).all(), "the first column is the sample itself"
    held, offset = 0, 2.0
    for _ in range(60):
        means = rng.normal(size=(2, 40))  # one mean for each owner: its numbers are not independent
        owner = np.repeat(np.arange(40), 25)
        x, y = (m[owner] + rng.normal(size=1000) for m in means)
        weights = chapter.drawn_weights(40, rng), chapter.drawn_weights(40, rng)
        _, *draws = weighted_wasserstein1(x, y + offset, owner, owner, *weights)
        low, high = interval(draws)
        held += low <= offset <= high
    assert held >= 52  # 57 of 60 expected


def test_halves_are_disjoint_and_show_no_distance_but_chance():
    """Promise: the floor compares one half of the owners with the other, none in both."""
    half = chapter.halves(5, 30, np.random.default_rng(0))
    assert set(half.sum(0)) == {2} and set(np.unique(half)) == {0, 1}
    owner = np.repeat(np.arange(5), 4)
    alike = np.tile([1.0, 2.0, 5.0, 9.0], 5)
    np.testing.assert_allclose(
        weighted_wasserstein1(alike, alike, owner, owner, half, 1 - half), 0, atol=1e-12
    )
    alone = chapter.halves(1, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="positive for some"):
        weighted_wasserstein1(alike, alike, 0 * owner, 0 * owner, alone, 1 - alone)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([]), "n >= 1"),
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1.0, np.inf]), "not finite"),
        (np.ones((2, 2)), "shape"),
    ],
)
def test_a_sample_without_a_distance_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        wasserstein1(x, np.array([1.0]))
    with pytest.raises(ValueError, match=message):
        wasserstein1(np.array([1.0]), x)


@pytest.mark.parametrize(
    ("owner", "weights", "message"),
    [
        ([0], np.ones((1, 2)), "expected x_owner"),
        ([0, 2], np.ones((2, 2)), "rows of the 2 weights"),
        ([0, 1], -np.ones((2, 2)), "not negative"),
        ([0, 0], np.array([[0.0], [1.0]]), "positive for some"),
        ([0, 1], np.ones((2, 3)), "as many draws"),
    ],
)
def test_weights_that_do_not_fit_are_refused(owner, weights, message):
    pair = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        weighted_wasserstein1(pair, pair, owner, [0, 0], weights, np.ones((1, 2)))
