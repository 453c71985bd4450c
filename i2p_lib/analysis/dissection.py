"""Network dissection: what the single units of a layer respond to, and how much to one class."""

from __future__ import annotations

import numpy as np
import pandas as pd

TOP = 10  # samples that a unit is judged by


def top_samples(activations: np.ndarray, count: int) -> np.ndarray:
    """Return the samples that activate each unit most, strongest first: int64 [U, count].

    activations [N, U], one row for each sample.  Equal ones keep the samples' order.
    """
    return np.argsort(-activations, axis=0, kind="stable")[:count].T


def class_entropy(labels: np.ndarray) -> np.ndarray:
    """Return the entropy, in bits, of the classes in each row of labels [U, count].

    0: one class alone; log2(count): all different.
    """
    shares = (labels[:, :, None] == np.unique(labels)).mean(1)
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return np.abs((shares * logs).sum(1))  # abs: no minus zero


def class_selectivity(activations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each unit's selectivity for its strongest class, in 0..1: [U].

    (m - r) / (m + r), where m is the largest of the class means and r the mean of the others
    (Morcos et al., "On the importance of single directions for generalization", ICLR 2018).
    1: active in one class alone; 0: alike in all; NaN: a unit that is never active.
    activations [N, U] of 0 or more, as behind a ReLU; labels int [N], of two classes or more.
    """
    values = activations.astype(np.float64)
    means = np.stack([values[labels == c].mean(0) for c in np.unique(labels)])
    most = means.max(0)
    others = (means.sum(0) - most) / (len(means) - 1)
    with np.errstate(invalid="ignore"):
        return (most - others) / (most + others)


def dissect(activations: np.ndarray, labels: np.ndarray, count: int = TOP) -> pd.DataFrame:
    """Return one row per unit that is ever active: unit, entropy (bits), selectivity.

    activations [N, U] behind a ReLU; labels int [N].
    entropy: of the classes among the `count` samples that activate the unit most.
    Raises ValueError for other shapes or values, fewer samples than `count`, a single class, or
    where no unit is ever active.
    """
    shape = activations.shape
    if len(shape) != 2 or labels.shape != shape[:1] or not 1 <= count <= len(labels):
        raise ValueError(f"expected activations [N, U] and labels [N] of {count} samples or more, "
                         f"got shapes {shape} and {labels.shape}")  # fmt: skip
    if len(np.unique(labels)) < 2:
        raise ValueError("selectivity compares class means and needs two classes or more")
    if not np.isfinite(activations).all() or (activations < 0).any():
        raise ValueError("expected activations of 0 or more, got some that are not finite or "
                         "negative; the run may have diverged")  # fmt: skip
    alive = np.flatnonzero(activations.any(0))
    if len(alive) == 0:
        raise ValueError("no unit is ever active: the run may have diverged")
    values = activations[:, alive]
    return pd.DataFrame({
        "unit": alive,
        "entropy": class_entropy(labels[top_samples(values, count)]),
        "selectivity": class_selectivity(values, labels),
    })
