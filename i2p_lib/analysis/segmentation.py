"""Metrics of segmentation: one confusion matrix over all points, and what follows from it."""

import numpy as np


def confusion_of(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return counts of points [classes, classes]: rows are labels, columns predictions.

    predictions and labels: [N] class numbers.  Points whose label is negative are not counted.
    Raises ValueError where lengths differ, or numbers are none of 0 .. classes - 1.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"expected as many predictions as labels, got {predictions.shape} and "
                         f"{labels.shape}")  # fmt: skip
    found, true = predictions[labels >= 0], labels[labels >= 0]
    for numbers in (found, true):
        if numbers.dtype.kind not in "iu" or ((numbers < 0) | (numbers >= classes)).any():
            raise ValueError(f"expected class numbers below {classes}, got {np.unique(numbers)}")
    pairs = true.astype(np.int64) * classes + found.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class [C], in 0..1.

    NaN where no point has the class as its label: the class is absent, whatever was predicted
    (wrong predictions of it count against the classes that they were taken from).
    """
    hits, labelled = np.diag(confusion).astype(float), confusion.sum(1)
    union = labelled + confusion.sum(0) - hits
    return np.where(labelled > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray, absent: str = "skipped") -> float:
    """Return the mean IoU over the classes, in 0..1; NaN where all of them are absent.

    absent: "skipped", the mean of the classes that occur, the rule of this book; or "perfect", an
    absent class has IoU 1, as in the paper's released code.
    """
    if absent not in ("skipped", "perfect"):
        raise ValueError(f"absent must be skipped or perfect, got {absent!r}")
    iou = class_iou(confusion)
    if absent == "skipped":
        return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else float("nan")
    return float(np.nan_to_num(iou, nan=1.0).mean())


def accuracy(confusion: np.ndarray) -> float:
    """Return the share of labelled points with the right class; NaN where there is no point."""
    return float(np.trace(confusion) / total) if (total := confusion.sum()) else float("nan")


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Return the mean over the classes that occur of the accuracy within the class."""
    labelled = confusion.sum(1)
    seen = labelled > 0
    return float((np.diag(confusion)[seen] / labelled[seen]).mean()) if seen.any() else float("nan")
