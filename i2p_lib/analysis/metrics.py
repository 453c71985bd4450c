"""Speed: how many epochs a target accuracy takes, and how much sooner one side is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


@dataclass(frozen=True)
class Speedup:
    """How much sooner the faster curves reach the target (`speedup`); ratios of epochs.

    ratio is None where the slow curves never, or the fast curves not all, reach the target.
    at_least is then a lower bound, where one is known: slow curves that were cut off.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{self.ratio:.2f}x ({self.low:.2f} to {self.high:.2f})"
        return "target not reached" if self.at_least is None else f"more than {self.at_least:.2f}x"


def speedup(
    slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], target: float
) -> Speedup:
    """Return the ratio of mean epochs to target, slow over fast, one curve per seed each.

    low and high are the smallest and largest ratio of any two seeds.  A seed that never reaches
    the target is not left out: the ratio is then None.  Where all fast seeds reach it and some
    slow ones do not, those count with their whole length, which bounds the ratio from below.
    Paper, Figure 3: 2.14x (ResNet18), 11.1x (ResNet50), 2.95x (ResNet152), one seed each.
    """
    if not len(slow) or not len(fast):
        raise ValueError("expected at least one curve on either side")
    slow_epochs = [epochs_to_target(curve, target) for curve in slow]
    fast_epochs = [epochs_to_target(curve, target) for curve in fast]
    if None in fast_epochs:
        return Speedup()
    waited = [epoch or len(curve) for epoch, curve in zip(slow_epochs, slow, strict=True)]
    ratio = float(np.mean(waited) / np.mean(fast_epochs))
    if None in slow_epochs:
        return Speedup(at_least=ratio)
    return Speedup(ratio, min(waited) / max(fast_epochs), max(waited) / min(fast_epochs))
