"""Segmentation metrics: the confusion matrix and IoU are scikit-learn's, absent classes by rule."""

import numpy as np
import pytest
from made_notebooks import chapter_functions
from sklearn import metrics as sklearn_metrics

from i2p_lib.analysis import segmentation as metrics
from i2p_lib.sources import PACKAGE


@pytest.fixture
def answers():
    """Labels of six classes, of which 4 never occurs; every seventh point is not counted."""
    random = np.random.default_rng(3)
    labels = random.choice([0, 1, 2, 3, 5], size=500, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    predictions = np.where(random.random(500) < 0.6, labels, random.integers(0, 6, 500))
    labels[::7] = -1
    return predictions, labels


def test_the_matrix_is_scikit_learns(answers):
    predictions, labels = answers
    counted = labels >= 0
    wanted = sklearn_metrics.confusion_matrix(
        labels[counted], predictions[counted], labels=range(6)
    )
    assert np.array_equal(metrics.confusion_of(predictions, labels, 6), wanted)


def test_the_iou_of_classes_that_occur_is_scikit_learns(answers):
    predictions, labels = answers
    counted, seen = labels >= 0, [0, 1, 2, 3, 5]
    wanted = sklearn_metrics.jaccard_score(
        labels[counted], predictions[counted], labels=seen, average=None
    )
    confusion = metrics.confusion_of(predictions, labels, 6)
    iou = metrics.class_iou(confusion)
    assert iou[seen] == pytest.approx(wanted)
    assert np.isnan(iou[4])
    assert metrics.mean_iou(confusion) == pytest.approx(wanted.mean())
    accuracy = sklearn_metrics.accuracy_score(labels[counted], predictions[counted])
    assert metrics.accuracy(confusion) == pytest.approx(accuracy)
    recall = sklearn_metrics.recall_score(
        labels[counted], predictions[counted], labels=seen, average="macro"
    )
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(recall)


def test_the_cells_of_the_chapter_are_scikit_learns_too(answers):
    """Promise: what chapter 7 writes from scratch is the measure of the field."""
    chapter = chapter_functions(PACKAGE.parent / "notebooks" / "07_segmentation.ipynb")
    predictions, labels = (side[answers[1] >= 0] for side in answers)
    counts = chapter.count_pairs(predictions, labels, 6)
    assert np.array_equal(counts, sklearn_metrics.confusion_matrix(labels, predictions))
    wanted = sklearn_metrics.jaccard_score(labels, predictions, labels=[0, 1, 2, 3, 5],
                                           average="macro")  # fmt: skip
    assert chapter.miou(counts) == pytest.approx(wanted)
    assert chapter.miou(counts, absent=1) == pytest.approx((5 * wanted + 1) / 6)


def test_the_released_rule_gives_an_absent_class_one(answers):
    """Promise: both rules stand side by side; 55.09 logged over 14 classes means 51.6 of 13."""
    confusion = metrics.confusion_of(*answers, 6)
    five = metrics.mean_iou(confusion)
    assert metrics.mean_iou(confusion, "perfect") == pytest.approx((5 * five + 1) / 6)
    with pytest.raises(ValueError, match="skipped or perfect, got 'one'"):
        metrics.mean_iou(confusion, "one")


def test_a_scene_without_counted_points_gives_zeros_and_no_number():
    confusion = metrics.confusion_of(np.array([1, 2]), np.array([-1, -1]), 3)
    assert confusion.sum() == 0 and confusion.shape == (3, 3)
    assert np.isnan(metrics.mean_iou(confusion)) and np.isnan(metrics.accuracy(confusion))


def test_confusions_of_scenes_add_up(answers):
    predictions, labels = answers
    halves = [metrics.confusion_of(predictions[part], labels[part], 6)
              for part in (slice(0, 200), slice(200, None))]  # fmt: skip
    assert np.array_equal(sum(halves), metrics.confusion_of(predictions, labels, 6))


def test_answers_of_another_length_or_class_are_refused():
    with pytest.raises(ValueError, match="as many predictions as labels"):
        metrics.confusion_of(np.zeros(3, int), np.zeros(4, int), 2)
    with pytest.raises(ValueError, match="class numbers below 2"):
        metrics.confusion_of(np.array([0, 2]), np.array([0, 1]), 2)
