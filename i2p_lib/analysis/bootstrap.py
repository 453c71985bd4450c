"""How sure a number is: bootstraps that draw test items, seeds or owners, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval, all in the same unit."""

    value: float
    low: float
    high: float


def interval(draws: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the 95 % percentile interval of draws along an axis: (low, high), [2, ...].

    NaN where there are no draws.
    """
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return np.quantile(draws, tails, axis=axis) if np.size(draws) else np.full(2, np.nan)


def paired_difference(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], rng: np.random.Generator,
    draws: int = DRAWS,
) -> Estimate:  # fmt: skip
    """Return the difference of two means over runs and test items, with its 95 % interval.

    ours [R, N] and theirs [S, N]: a value (such as hit or miss) of each run on each of the N test
    items, which both sides share.  Every draw takes N items, the same for both sides, and R and S
    runs, all with replacement: the interval covers other test items and other seeds.
    Raises ValueError where the sides were not measured on the same number of items.
    """
    a, b = np.array(ours, float), np.array(theirs, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size:
        raise ValueError(f"expected [runs, items] of the same items, got {a.shape} and {b.shape}")
    found = []
    for _ in range(draws):
        items = rng.integers(a.shape[1], size=a.shape[1])
        mine = a[rng.integers(len(a), size=len(a))][:, items]
        other = b[rng.integers(len(b), size=len(b))][:, items]
        found.append(mine.mean() - other.mean())
    return Estimate(float(a.mean() - b.mean()), *map(float, interval(found)))


def rank_correlation(
    x: np.ndarray, y: np.ndarray, owner: np.ndarray, rng: np.random.Generator, draws: int = DRAWS
) -> Estimate:
    """Return Spearman's rank correlation of x and y [N] and its 95 % interval over owners [N].

    Draws in which a side is constant have no correlation and are left out; NaN where all are.
    Raises ValueError for fewer than three rows, or sides of other lengths.
    """
    from scipy.stats import rankdata

    x, y, owner = np.asarray(x, float), np.asarray(y, float), np.asarray(owner)
    if not (x.shape == y.shape == owner.shape and x.ndim == 1 and len(x) > 2):
        raise ValueError(f"expected three rows or more of each, got {x.shape}, {y.shape}, "
                         f"{owner.shape}")  # fmt: skip

    def correlation(rows: np.ndarray) -> float:
        a, b = rankdata(x[rows]), rankdata(y[rows])
        return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else np.nan

    rows = [np.flatnonzero(owner == one) for one in np.unique(owner)]
    drawn = (rng.integers(len(rows), size=len(rows)) for _ in range(draws))
    found = np.array([correlation(np.concatenate([rows[i] for i in some])) for some in drawn])
    low, high = map(float, interval(found[np.isfinite(found)]))
    return Estimate(correlation(np.arange(len(x))), low, high)
