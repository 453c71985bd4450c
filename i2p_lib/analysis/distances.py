"""Distances between samples of numbers: the first Wasserstein distance, and how sure it is."""

from __future__ import annotations

import numpy as np
from numba import njit


def wasserstein1(x: np.ndarray, y: np.ndarray) -> float:
    """Return the first Wasserstein distance between two samples: the area between their CDFs.

    x [n] and y [m] are numbers in the same unit, which is the distance's.
    Raises ValueError for an empty sample or a number that is not finite.

    >>> wasserstein1(np.array([0.0, 1.0]), np.array([3.0, 4.0]))
    3.0
    """
    alike = np.ones((1, 1))
    owners = np.zeros(len(x), int), np.zeros(len(y), int)
    return float(weighted_wasserstein1(x, y, *owners, alike, alike)[0])


def weighted_wasserstein1(
    x: np.ndarray, y: np.ndarray, x_owner: np.ndarray, y_owner: np.ndarray,
    x_weights: np.ndarray, y_weights: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the distance between x [n] and y [m] under many weightings: [draws].

    x_owner [n] and y_owner [m] say whose each number is (an image's, a cloud's), as rows of the
    weights [owners, draws]; all numbers of an owner weigh alike.  Hundreds of draws cost one
    sorting, which SciPy's function repeats for each.
    Raises ValueError as `wasserstein1` does, and for owners or weights that do not fit, or
    weights that are negative or all zero in a column.
    """
    x, y = _sample(x, "x"), _sample(y, "y")
    p = _shares(len(x), x_owner, x_weights, "x")
    q = _shares(len(y), y_owner, y_weights, "y")
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"expected as many draws on both sides, got {p.shape[1]}, {q.shape[1]}")
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    owner = np.concatenate([x_owner, len(p) + np.asarray(y_owner)])
    return _area(values[order], owner[order], np.concatenate([p, -q]))


@njit(cache=True, nogil=True)
def _area(values: np.ndarray, owner: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Area between two CDFs: rising values, and the rows of mass that each of them brings."""
    draws = mass.shape[1]
    gap, area = np.zeros(draws), np.zeros(draws)
    for i in range(len(values) - 1):
        width = values[i + 1] - values[i]
        for d in range(draws):
            gap[d] += mass[owner[i], d]
            area[d] += abs(gap[d]) * width
    return area


def halves(owners: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return weights [owners, draws] of 0 and 1 that keep a random half of the owners.

    A sample under these weights against itself under one minus them: the distance that is there
    when nothing differs but the choice of owners.  Raises ValueError for a single owner.
    """
    if owners < 2:
        raise ValueError(f"expected two owners or more, got {owners}: there are no halves")
    ranks = rng.permuted(np.tile(np.arange(owners), (draws, 1)), axis=1)
    return (ranks < owners // 2).T.astype(float)


def _sample(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected {name} [n >= 1], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite; the run may have diverged")
    return values


def _shares(count: int, owner: np.ndarray, weights: np.ndarray, name: str) -> np.ndarray:
    """Return the share of each of an owner's numbers, [owners, draws]; all of them add up to 1."""
    owner, weights = np.asarray(owner), np.asarray(weights, dtype=np.float64)
    if owner.shape != (count,) or weights.ndim != 2:
        raise ValueError(
            f"expected {name}_owner [{count}] and {name}_weights [owners, draws], got shapes "
            f"{owner.shape} and {weights.shape}"
        )
    if owner.min() < 0 or owner.max() >= len(weights):
        raise ValueError(f"{name}_owner must be rows of the {len(weights)} weights")
    totals = np.bincount(owner, minlength=len(weights)) @ weights
    if not np.isfinite(weights).all() or (weights < 0).any() or (totals <= 0).any():
        raise ValueError(f"{name}_weights must be finite, not negative, and positive for some")
    return weights / totals
