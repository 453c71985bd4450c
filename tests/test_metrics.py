"""Metrics: scikit-learn and SciPy as references, and the rules for targets and speed-ups."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from i2p_lib.analysis import metrics


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_accuracies_equal_scikit_learns(pairs):
    """Promise: accuracy, balanced accuracy and confusion are the usual ones, absent classes too."""
    predictions, labels = (np.array(side) for side in zip(*pairs, strict=True))
    assert metrics.top1(predictions, labels) == sk.accuracy_score(labels, predictions)
    matrix = metrics.confusion_matrix(predictions, labels, 7)
    assert (matrix == sk.confusion_matrix(labels, predictions, labels=range(7))).all()
    recalls = sk.recall_score(labels, predictions, labels=np.unique(labels), average=None)
    assert metrics.mean_class_accuracy(predictions, labels) == pytest.approx(recalls.mean())


@pytest.mark.parametrize("hits, total", [(0, 10), (7, 10), (160, 160), (2234, 2468)])
def test_the_interval_is_wilsons(hits, total):
    """Promise: equal to SciPy's Wilson interval, at both ends of the scale as well."""
    theirs = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, total) == pytest.approx(tuple(theirs), abs=1e-12)


def test_the_bootstrap_agrees_with_the_normal_interval():
    """Promise: for many hits the bootstrap gives mean +- 1.96 standard errors, and repeats."""
    hits = np.arange(1000) < 700
    low, high = metrics.bootstrap_interval(hits, np.random.default_rng(0))
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=3e-3)
    assert (low, high) == metrics.bootstrap_interval(hits, np.random.default_rng(0))


def test_spread_over_seeds():
    """Promise: the standard deviation is that of a sample, and of one seed there is none."""
    assert metrics.over_seeds([1, 2, 3]) == metrics.Spread(2, 1, 3)
    one = metrics.over_seeds([5.0])
    assert math.isnan(one.std) and str(one) == "5.00"
    with pytest.raises(ValueError, match="finite"):
        metrics.over_seeds([1, math.nan])


def test_epochs_count_from_one_and_never_is_none():
    """Promise: the first epoch at the target counts, also where the curve falls again."""
    assert metrics.epochs_to_target([0.9, 0.5], 0.9) == 1
    assert metrics.epochs_to_target([0.1, 0.95, 0.2, 0.97], 0.9) == 2
    assert metrics.epochs_to_target([0.1, 0.2], 0.9) is None


def test_speedup_of_the_papers_epochs():
    """Promise: 122 epochs against 11 is the paper's 11.1x."""
    result = metrics.speedup([[0] * 121 + [0.9]], [[0] * 10 + [0.9]], 0.9)
    assert (result.slow, result.fast) == ((122,), (11,))
    assert str(result) == "11.09x (11.09 to 11.09)"


def test_speedup_names_what_is_not_known():
    """Promise: seeds that never arrive are not dropped; slow ones leave a lower bound."""
    fast = [[0.5, 0.9], [0.9, 0.9]]
    bound = metrics.speedup([[0.1] * 12, [0.1, 0.1, 0.9]], fast, 0.9)
    assert bound.ratio is None and bound.at_least == pytest.approx(7.5 / 1.5)
    assert str(bound) == "more than 5.00x"
    lost = metrics.speedup([[0.9]], [[0.1], [0.9]], 0.9)
    assert lost.ratio is None and lost.at_least is None and str(lost) == "target not reached"
    full = metrics.speedup([[0, 0.9], [0, 0, 0, 0.9]], fast, 0.9)
    assert (full.ratio, full.low, full.high) == (2, 1, 4)


def test_the_common_target_follows_its_rule():
    """Promise: 90 % where every scratch run gets there, else the highest 5 % step all reach."""
    assert metrics.common_target([[0.2, 0.95], [0.91]]) == 0.90
    assert metrics.common_target([[0.2, 0.95], [0.89]]) == 0.85
    assert metrics.common_target([[0.1, 0.34], [0.52]]) == 0.30
    assert metrics.common_target([[0.049]]) is None


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=4))
def test_every_scratch_run_reaches_the_common_target(curves):
    """Promise: whatever the curves, the target is reached by all of them."""
    target = metrics.common_target(curves)
    if target is not None:
        assert all(metrics.epochs_to_target(curve, target) for curve in curves)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.top1([1, 2], [1]), "expected predictions and labels"),
        (lambda: metrics.top1([0.5], [1]), "class numbers"),
        (lambda: metrics.top1([-1], [1]), "class numbers"),
        (lambda: metrics.confusion_matrix([3], [0], 3), "below 3, got up to 3"),
        (lambda: metrics.wilson_interval(3, 2), "got 3 of 2"),
        (lambda: metrics.wilson_interval(1, 2, level=95), "level between 0 and 1"),
        (lambda: metrics.bootstrap_interval([1], np.random.default_rng()), "two values"),
        (lambda: metrics.epochs_to_target([], 0.9), "finite"),
        (lambda: metrics.speedup([], [[1]], 0.9), "at least one curve"),
        (lambda: metrics.common_target([]), "from-scratch"),
    ],
)
def test_wrong_input_is_refused(call, message):
    """Promise: errors say what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        call()
