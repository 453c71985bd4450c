"""Bars: the mean of some runs is a bar, every run a dot, and the mean is written above them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2p_lib.analysis.methods import present, with_method
from i2p_lib.show.style import COLOURS, HATCHED, TOP1, chance_line


def filled(colour: str) -> dict[str, object]:
    """Return how bars of a method's colour are filled: those of controls are hatched."""
    return {"color": colour, "edgecolor": "white", "hatch": "///" if colour in HATCHED else None}


def bar(axis: Axes, place: float, values: np.ndarray, colour: str, width: float = 0.72) -> None:
    """Draw one bar at a place: mean of the values [N], a dot for each of them, the mean above."""
    axis.bar(place, values.mean(), width=width, zorder=2, **filled(colour))
    spread = np.linspace(-0.15, 0.15, len(values)) * width if len(values) > 1 else np.zeros(1)
    axis.scatter(place + spread, values, s=20, color="#1f2937", zorder=3, edgecolor="white",
                 linewidth=0.6)
    axis.annotate(f"{values.mean():.1f}", (place, values.max()), xytext=(0, 5), ha="center",
                  textcoords="offset points", fontweight="bold", color="#1f2937")


def method_bars(runs: pd.DataFrame, by: str | None = None, chance: float | None = None) -> Figure:
    """Draw test accuracy by method; the column `by` parts the runs into panels.

    chance: the accuracy of guessing, 0..1.
    """
    runs = with_method(runs)
    panels = [("", runs)] if by is None else list(runs.groupby(by, sort=False))
    used = [present(part["method"]) for _, part in panels]
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, layout="constrained",
                                figsize=(1.5 + sum(1.1 * len(m) for m in used), 4.2),
                                width_ratios=[max(1.6, len(m)) for m in used])
    for axis, (name, part), methods in zip(axes[0], panels, used, strict=True):
        for place, method in enumerate(methods):
            values = part.loc[part["method"] == method, "top1"]
            bar(axis, place, 100 * values.to_numpy(), COLOURS[method])
        narrow = [m.replace(" IO", "\nIO").replace(", moving", ",\nmoving").replace("-", "-\n")
                  for m in methods]
        axis.set_xticks(range(len(methods)), narrow)
        axis.set_xlim(-0.6, max(len(methods), 4 if len(panels) == 1 else 0) - 0.4)
        axis.set_title(str(name))
    finish(axes[0], runs, chance)
    return figure


def finish(axes: list[Axes], runs: pd.DataFrame, chance: float | None) -> None:
    """Name the accuracy axis of panels of runs, and draw the accuracy of guessing (0..1)."""
    chance_line(axes, chance)
    axes[0].set_ylabel(TOP1)
    axes[0].set_ylim(0, 115 * runs["top1"].max())
