"""Distances between samples: first Wasserstein, under many weightings at once."""

from __future__ import annotations

import numpy as np


def weighted_wasserstein1(x: np.ndarray, y: np.ndarray, x_owner: np.ndarray, y_owner: np.ndarray,
                          x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Return the first Wasserstein distance between x [n] and y [m] under many weightings: [draws].

    That is the area between their CDFs, in the numbers' unit.
    x_owner [n] and y_owner [m] say whose each number is (an image's, a cloud's), as rows of the
    weights [owners, draws]; all numbers of an owner weigh alike.  Hundreds of draws cost one
    sorting, which SciPy's function repeats for each.
    Raises ValueError for an empty sample, a number that is not finite, owners or weights that do
    not fit, or weights that are negative or all zero in a column.
    """
    x, p = _weighted(x, x_owner, x_weights, "x")
    y, q = _weighted(y, y_owner, y_weights, "y")
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"expected as many draws on both sides, got {p.shape[1]}, {q.shape[1]}")
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    owner = np.concatenate([x_owner, len(p) + np.asarray(y_owner)])
    gaps = np.concatenate([p, -q])[owner[order]].cumsum(0)[:-1]  # of the CDFs, by draw
    return (np.abs(gaps) * np.diff(values[order])[:, None]).sum(0)


def _weighted(values: np.ndarray, owner: np.ndarray, weights: np.ndarray,
              name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample, and the share of each of an owner's numbers, [owners, draws]."""
    values, weights = (np.asarray(a, dtype=np.float64) for a in (values, weights))
    owner = np.asarray(owner)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected {name} [n >= 1], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite; the run may have diverged")
    if owner.shape != values.shape or weights.ndim != 2:
        raise ValueError(f"expected {name}_owner [{len(values)}] and {name}_weights [owners, "
                         f"draws], got shapes {owner.shape} and {weights.shape}")
    if owner.min() < 0 or owner.max() >= len(weights):
        raise ValueError(f"{name}_owner must be rows of the {len(weights)} weights")
    totals = np.bincount(owner, minlength=len(weights)) @ weights
    if not np.isfinite(weights).all() or (weights < 0).any() or (totals <= 0).any():
        raise ValueError(f"{name}_weights must be finite, not negative, and positive for some")
    return values, weights / totals
