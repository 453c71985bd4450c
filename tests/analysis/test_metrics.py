"""Metrics of a confusion matrix: scikit-learn as the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from i2p_lib.analysis import segmentation


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


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: segmentation.confusion_of([1, 2], [1], 3), "as many predictions as labels"),
        (lambda: segmentation.confusion_of([0.5], [1], 3), "class numbers"),
        (lambda: segmentation.confusion_of([-1], [1], 3), "class numbers"),
        (lambda: segmentation.confusion_of([3], [0], 3), "below 3, got \\[3\\]"),
    ],
)
def test_wrong_input_is_refused(call, message):
    """Promise: errors say what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        call()
