"""Bars: the mean of some runs is a bar, every run a dot, and the mean is written above them."""

from __future__ import annotations

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
    _finish(axes[0], runs, chance)
    return figure


def shots(runs: pd.DataFrame, chance: float | None = None) -> Figure:
    """Draw few-shot accuracy: methods side by side, a dot for each episode (paper, Table 3)."""
    runs = with_method(runs)
    used, levels = present(runs["method"]), sorted(runs["shots"].unique())
    figure, axis = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    width = 0.8 / len(used)
    for (method, level), part in runs.groupby(["method", "shots"], observed=True):
        place = levels.index(level) + (used.index(method) - (len(used) - 1) / 2) * width
        bar(axis, place, 100 * part["top1"].to_numpy(), COLOURS[method], 0.92 * width)
    for method in used:
        axis.bar(0, 0, label=method, **filled(COLOURS[method]))
    axis.set_xticks(range(len(levels)), [f"{int(n)}-shot" for n in levels])
    _finish([axis], runs, chance)
    axis.legend(loc="upper left")
    return figure


def class_bars(classes: pd.DataFrame) -> Figure:
    """Draw IoU per class: a panel per scenes and network, a bar per method, a dot per seed.

    classes: a row per run and class, with its iou; classes without a point are left out.
    """
    panels = list(classes.dropna(subset="iou").groupby(["scenes", "model"], sort=False))
    figure, axes = plt.subplots(max(1, len(panels)), 1, squeeze=False, layout="constrained",
                                figsize=(10.5, 2.9 * max(1, len(panels))))
    for axis, ((scenes, model), part) in zip(axes[:, 0], panels, strict=False):
        names = list(dict.fromkeys(part["class"]))
        series = list(part.groupby(["method", "weights"], sort=False))
        width = 0.8 / len(series)
        for number, ((method, weights), rows) in enumerate(series):
            places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
            means = rows.groupby("class")["iou"].mean().reindex(names)
            label = method if method == "scratch" else f"{method}, {weights}"
            axis.bar(places, 100 * means, width=0.92 * width, label=label, zorder=2,
                     **filled(COLOURS[method]))
            at = dict(zip(names, places, strict=True))
            axis.scatter(rows["class"].map(at), 100 * rows["iou"], s=9, color="#1f2937", zorder=3)
        axis.set_title(f"{model} on {scenes.replace('_', ' ')}")
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set(ylim=(0, 100), ylabel="IoU (%)")
        axis.grid(axis="x", visible=False)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _finish(axes: list[Axes], runs: pd.DataFrame, chance: float | None) -> None:
    chance_line(axes, chance)
    axes[0].set_ylabel(TOP1)
    axes[0].set_ylim(0, 115 * runs["top1"].max())
