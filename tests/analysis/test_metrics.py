"""Metrics: scikit-learn as the reference, and the rules for targets and speed-ups."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from i2p_lib.analysis import metrics, segmentation
from i2p_lib.show import text


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_accuracies_equal_scikit_learns(pairs):
    """Promise: accuracy, balanced accuracy and confusion are the usual ones, absent classes too."""
    predictions, labels = (np.array(side) for side in zip(*pairs, strict=True))
    matrix = segmentation.confusion_of(predictions, labels, 7)
    assert segmentation.accuracy(matrix) == pytest.approx(sk.accuracy_score(labels, predictions))
    assert (matrix == sk.confusion_matrix(labels, predictions, labels=range(7))).all()
    recalls = sk.recall_score(labels, predictions, labels=np.unique(labels), average=None)
    assert segmentation.mean_class_accuracy(matrix) == pytest.approx(recalls.mean())


def test_epochs_count_from_one_and_never_is_none():
    """Promise: the first epoch at the target counts, also where the curve falls again."""
    assert metrics.epochs_to_target([0.9, 0.5], 0.9) == 1
    assert metrics.epochs_to_target([0.1, 0.95, 0.2, 0.97], 0.9) == 2
    assert metrics.epochs_to_target([0.1, 0.2], 0.9) is None


def test_speedup_of_the_papers_epochs():
    """Promise: 122 epochs against 11 is the paper's 11.1x."""
    result = metrics.speedup([[0] * 121 + [0.9]], [[0] * 10 + [0.9]], 0.9)
    assert result.value == 122 / 11 and text.times(result) == "11.09x (11.09 to 11.09)"


def test_speedup_names_what_is_not_known():
    """Promise: seeds that never arrive are not dropped; slow ones leave a lower bound."""
    fast = [[0.5, 0.9], [0.9, 0.9]]
    bound = metrics.speedup([[0.1] * 12, [0.1, 0.1, 0.9]], fast, 0.9)
    assert math.isnan(bound.value) and bound.low == pytest.approx(7.5 / 1.5)
    assert text.times(bound) == "more than 5.00x"
    lost = metrics.speedup([[0.9]], [[0.1], [0.9]], 0.9)
    assert math.isnan(lost.value) and math.isnan(lost.low)
    assert text.times(lost) == "target not reached"
    full = metrics.speedup([[0, 0.9], [0, 0, 0, 0.9]], fast, 0.9)
    assert (full.value, full.low, full.high) == (2, 1, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: segmentation.confusion_of([1, 2], [1], 3), "as many predictions as labels"),
        (lambda: segmentation.confusion_of([0.5], [1], 3), "class numbers"),
        (lambda: segmentation.confusion_of([-1], [1], 3), "class numbers"),
        (lambda: segmentation.confusion_of([3], [0], 3), "below 3, got \\[3\\]"),
        (lambda: metrics.epochs_to_target([], 0.9), "finite"),
        (lambda: metrics.speedup([], [[1]], 0.9), "at least one curve"),
    ],
)
def test_wrong_input_is_refused(call, message):
    """Promise: errors say what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        call()
