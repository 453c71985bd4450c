"""How sure a number is: draws of test items and of pairs of runs, and seeds dealt anew."""

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


def shares(count: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Return the share of each of `count` things in draws with replacement, [draws, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), draws) / count


def over_pairs(drawn: np.ndarray, whole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return draws [draws] of the mean gap of pairs of runs, which are drawn with replacement.

    drawn [draws, P]: the gap of each pair in each draw of test items; whole [P]: on all items.
    P pairs show (P - 1) / P of the variance between pairs, so what a draw of them changes is
    stretched by sqrt(P / (P - 1)); and few pairs do not know their variance well, so all is
    stretched as Student's t is against the normal distribution, with Satterthwaite's degrees of
    freedom (Biometrics Bulletin 2, 1946).  From three pairs on one in twenty intervals of equal
    methods leaves out zero; of two pairs whose seeds vary more than items do it can be one in nine.
    One pair says nothing of others: items alone vary.
    """
    from scipy.stats import norm, t

    pairs, middle = len(whole), whole.mean()
    weights = shares(pairs, rng, len(drawn))
    if pairs == 1:
        return (weights * drawn).sum(1)
    weights = 1 / pairs + (weights - 1 / pairs) * np.sqrt(pairs / (pairs - 1))
    sample, error = (weights * drawn).sum(1), whole.var(ddof=1) / pairs
    freedom = (pairs - 1) * max(1.0, sample.var() / error) ** 2 if error > 0 else np.inf
    tail = (1 + LEVEL) / 2
    return middle + (sample - middle) * t.ppf(tail, freedom) / norm.ppf(tail)


def two_way(gaps: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return draws of the mean of gaps [pairs, items]: of items, and of pairs (`over_pairs`)."""
    gaps = np.asarray(gaps, float)
    return over_pairs(shares(gaps.shape[1], rng, draws) @ gaps.T, gaps.mean(1), rng)


def paired_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray],
                      rng: np.random.Generator, draws: int = DRAWS) -> Estimate:
    """Return the difference of two means over runs and test items, with its 95 % interval.

    ours and theirs [P, N]: a value (such as hit or miss) of each run on each of the N test items;
    row p of both sides is one pair, of one seed or episode.  Every draw takes N items and P pairs
    with replacement (`two_way`): the interval covers other test items and, from two pairs on,
    other seeds.  Raises ValueError where the sides are not of the same runs and items.
    """
    a, b = np.array(ours, float), np.array(theirs, float)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"expected pairs of runs on the same items, [pairs, items] on either "
                         f"side, got {a.shape} and {b.shape}")  # fmt: skip
    return Estimate(float((a - b).mean()), *map(float, interval(two_way(a - b, rng, draws))))


def seed_correlation(x: Sequence[float], y: Sequence[float], group: Sequence, start: Sequence,
                     rng: np.random.Generator, draws: int = DRAWS) -> tuple[float, float]:
    """Return the rank correlation of x and y [N] within groups, and how often chance has as much.

    group: one method in one setting, so that its rows differ by their seed alone; ranks are taken
    within it.  start: the starting network of a row.  The p value deals the starting networks of
    each group anew; all runs of one move together, so they count as one.  Both are NaN where no
    group has an order on either side.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(x, float), np.asarray(y, float)
    codes, starts = (np.unique(side, return_inverse=True)[1] for side in (group, start))
    rows = [np.flatnonzero(codes == one) for one in np.unique(codes)]
    ranks = [[rankdata(side[some]) - (len(some) + 1) / 2 for side in (x, y)] for some in rows]
    size = np.prod([np.sqrt(sum(np.square(pair[i]).sum() for pair in ranks)) for i in (0, 1)])
    if not size:
        return np.nan, np.nan

    def correlation(order: np.ndarray) -> float:
        dealt = [np.argsort(np.argsort(order[starts[some]], kind="stable")) for some in rows]
        return sum(a @ b[one] for (a, b), one in zip(ranks, dealt, strict=True)) / size

    found = sum(a @ b for a, b in ranks) / size
    chance = np.array([correlation(rng.random(starts.max() + 1)) for _ in range(draws)])
    return float(found), float((1 + np.sum(abs(chance) >= abs(found) - 1e-12)) / (1 + draws))
