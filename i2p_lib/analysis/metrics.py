"""Speed: how many epochs a target accuracy takes, and how much sooner one side is there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from i2p_lib.analysis.bootstrap import Estimate


def epochs_to_target(history: Sequence[float], target: float) -> int | None:
    """Return the first epoch (counted from 1) whose accuracy is at least target; None if never.

    history holds one accuracy per epoch, in the unit of target.  This is the count behind the
    paper's Figure 3, where target is 90 % top-1.
    """
    history = np.asarray(history, dtype=np.float64)
    if history.ndim != 1 or not len(history) or not np.isfinite(history).all():
        raise ValueError(f"expected one or more finite numbers [N], got {history}")
    reached = np.flatnonzero(history >= target)
    return int(reached[0]) + 1 if len(reached) else None


def speedup(
    slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], target: float
) -> Estimate:
    """Return the ratio of mean epochs to target, slow over fast, one curve per seed each.

    low and high are the smallest and largest ratio of any two seeds.  A seed that never reaches
    the target is not left out: the ratio is then NaN.  Where all fast seeds reach it and some
    slow ones do not, those count with their whole length: a lower bound, with no upper one.
    Paper, Figure 3: 2.14x (ResNet18), 11.1x (ResNet50), 2.95x (ResNet152), one seed each.
    """
    if not len(slow) or not len(fast):
        raise ValueError("expected at least one curve on either side")
    slow_epochs = [epochs_to_target(curve, target) for curve in slow]
    fast_epochs = [epochs_to_target(curve, target) for curve in fast]
    if None in fast_epochs:
        return Estimate(math.nan, math.nan, math.nan)
    waited = [epoch or len(curve) for epoch, curve in zip(slow_epochs, slow, strict=True)]
    ratio = float(np.mean(waited) / np.mean(fast_epochs))
    if None in slow_epochs:
        return Estimate(math.nan, ratio, math.inf)
    return Estimate(ratio, min(waited) / max(fast_epochs), max(waited) / min(fast_epochs))
