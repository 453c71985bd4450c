"""Network dissection: what the single units of a layer respond to, and how much to one class."""

from __future__ import annotations

import numpy as np
import pandas as pd

TOP = 10  # samples that a unit is judged by


def top_samples(activations: np.ndarray, count: int) -> np.ndarray:
    """Return the samples that activate each unit most, strongest first: int64 [U, count].

    activations [N, U], one row for each sample.  Equal ones keep the samples' order.
    Raises ValueError for another shape, a value that is not finite, or fewer samples than `count`.
    """
    values = _activations(activations)
    if not 1 <= count <= len(values):
        raise ValueError(f"expected 1 to {len(values)} top samples, got {count}")
    return np.argsort(-values, axis=0, kind="stable")[:count].T


def class_entropy(labels: np.ndarray) -> np.ndarray:
    """Return the entropy, in bits, of the classes in each row of labels [U, count].

    0: one class alone; log2(count): all different.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels [U, count >= 1], got {labels.shape}")
    shares = (labels[:, :, None] == np.unique(labels)).mean(1)
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return np.abs((shares * logs).sum(1))  # abs: no minus zero


def class_selectivity(activations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each unit's selectivity for its strongest class, in 0..1: [U].

    (m - r) / (m + r), where m is the largest of the class means and r the mean of the others
    (Morcos et al., "On the importance of single directions for generalization", ICLR 2018).
    1: active in one class alone; 0: alike in all; NaN: a unit that is never active.
    activations [N, U] must not be negative, as behind a ReLU; labels int [N].
    """
    values, labels = _activations(activations), np.asarray(labels)
    if labels.shape != values.shape[:1] or len(np.unique(labels)) < 2:
        raise ValueError(
            f"expected labels [{len(values)}] of two classes or more, got shape {labels.shape}"
        )
    if values.min() < 0:
        raise ValueError("selectivity compares class means and needs activations of 0 or more")
    means = np.stack([values[labels == c].mean(0) for c in np.unique(labels)])
    most = means.max(0)
    others = (means.sum(0) - most) / (len(means) - 1)
    with np.errstate(invalid="ignore"):
        return (most - others) / (most + others)


def dissect(activations: np.ndarray, labels: np.ndarray, count: int = TOP) -> pd.DataFrame:
    """Return one row per unit that is ever active: unit, entropy (bits), selectivity.

    entropy: of the classes among the `count` samples that activate the unit most.
    Raises ValueError where no unit is.
    """
    values, labels = _activations(activations), np.asarray(labels)
    alive = np.flatnonzero(values.any(0))
    if len(alive) == 0:
        raise ValueError("no unit is ever active: the run may have diverged")
    values = values[:, alive]
    return pd.DataFrame({
        "unit": alive,
        "entropy": class_entropy(labels[top_samples(values, count)]),
        "selectivity": class_selectivity(values, labels),
    })


def _activations(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected activations [N >= 1, U >= 1], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("activations hold values that are not finite; the run may have diverged")
    return values
