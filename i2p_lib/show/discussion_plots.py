"""Plots of the discussion: destroyed cues, short sight, fractals' collapse, forecasts, bounds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2p_lib.analysis.methods import with_method
from i2p_lib.analysis.taps import PENULTIMATE
from i2p_lib.show.drawings import front_view
from i2p_lib.show.plots import METHODS, plain_log, with_method
from i2p_lib.show.style import COLOURS as METHODS
from i2p_lib.show.style import plain_log

TITLES = {"arrangement": "arrangement destroyed, patches kept",
          "detail": "detail destroyed, arrangement kept"}
MARKERS = "osD^vP"
_SOURCES = {"fractal": "#0f9d76", "random": "#6b7280"}


def shuffled_clouds(whole: np.ndarray, versions: dict[str, Sequence[tuple[int, np.ndarray]]],
                    voxel_size: float) -> Figure:  # fmt: skip
    """One cloud [P, 3], and its versions {kind: [(cell in voxels, cloud)]}, a row for each kind."""
    columns = 1 + max(len(found) for found in versions.values())
    figure, axes = plt.subplots(len(versions), columns, squeeze=False, layout="constrained",
                                figsize=(2.3 * columns, 2.5 * len(versions)))
    for row, (kind, found) in zip(axes, versions.items(), strict=True):
        shown = [("whole", whole), *((f"cells of {cell} voxels ({cell * voxel_size:.2g})", cloud)
                                     for cell, cloud in found)]
        for axis, (name, cloud) in zip(row, shown, strict=True):
            x, y, depth = front_view(cloud)
            order = np.argsort(-depth)
            axis.scatter(x[order], y[order], c=depth[order], s=1.2, cmap="viridis_r", linewidth=0)
            axis.set(xticks=[], yticks=[], aspect="equal")
            axis.set_title(name, fontsize=9, fontweight="normal")
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(TITLES[kind].replace(", ", ",\n"), fontsize=9)
    return figure


def shuffled_lines(table: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over the edge of the shuffled cells: a row per network, a column per kind.

    A thick line is the mean over seeds, a dot is one run; at the right the whole clouds.
    """
    kinds, models = list(TITLES), list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(len(models), len(kinds), sharex=True, sharey=True, squeeze=False,
                                figsize=(5.3 * len(kinds) + 1.4, 3.5 * len(models) + 0.4),
                                layout="constrained")
    cells = sorted(table["cell"].unique())
    table = with_method(table).assign(place=table["cell"].map(cells.index))
    whole = table.drop_duplicates("key").assign(top1=lambda t: t["whole"], place=len(cells))
    for row, model in zip(axes, models, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            part = table[(table["model"] == model) & (table["kind"] == kind)]
            _means(axis, pd.concat([part, whole[whole["model"] == model]]), "place")
            axis.axhline(100 * chance, color="#111827", linestyle=":", linewidth=1.2)
            axis.set_title(f"{model}\n{TITLES[kind]}")
            axis.set_xticks(range(len(cells) + 1), [*map(str, cells), "whole"])
            axis.set_ylim(0, None)
        row[0].set_ylabel("top-1 on test clouds (%)")
    for axis in axes[-1]:
        axis.set_xlabel("edge of the shuffled cells (voxels)")
    _legend(figure, table["method"], [("chance", ":")])
    return figure


def sight_lines(table: pd.DataFrame, chance: float) -> Figure:
    """Accuracy of nearest centres over the receptive field in voxels, a panel for each network."""
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, len(models), sharey=True, squeeze=False, layout="constrained",
                                figsize=(4.8 * len(models) + 1.6, 3.8))
    for axis, model in zip(axes[0], models, strict=True):
        _means(axis, with_method(table[table["model"] == model]), "field")
        axis.axhline(100 * chance, color="#111827", linestyle=":", linewidth=1.2)
        axis.set(xlabel="receptive field of the last stage (voxels)", title=model)
        plain_log(axis, "x")
        axis.set_ylim(0, None)
    axes[0, 0].set_ylabel("nearest centres on test clouds (%)")
    _legend(figure, with_method(table)["method"], [("chance", ":")])
    return figure


def _means(axis: Axes, table: pd.DataFrame, place: str) -> None:
    """Draw the mean top1 of each method over a column, and every run as a dot."""
    for method, lines in table.groupby("method", observed=True):
        mean = 100 * lines.groupby(place)["top1"].mean()
        axis.plot(mean.index, mean, color=METHODS[method], linewidth=2.4)
        axis.scatter(lines[place], 100 * lines["top1"], s=14, color=METHODS[method], zorder=3,
                     edgecolor="#374151", linewidth=0.3)


def _legend(figure: Figure, methods: pd.Series, extra: Sequence[tuple[str, str]] = ()) -> None:
    used = [m for m in METHODS if (methods == m).any()]
    handles = [plt.Line2D([], [], color=METHODS[m], linewidth=2.5, label=m) for m in used]
    handles += [plt.Line2D([], [], color="#111827", linestyle=s, label=n) for n, s in extra]
    figure.legend(handles=handles, loc="outside right center")


def source_layers(table: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Collapse of fractals by stage of the ResNet-18, pretrained and random, a panel a metric."""
    layers = list(dict.fromkeys(table["layer"]))
    figure, axes = plt.subplots(1, len(metrics), squeeze=False, layout="constrained",
                                figsize=(3.9 * len(metrics) + 1.9, 3.6))
    for axis, (metric, title) in zip(axes[0], metrics.items(), strict=True):
        part = table[table["metric"] == metric]
        for (weights, split), lines in part.groupby(["weights", "split"]):
            mean = lines.set_index("layer")["value"].reindex(layers)
            axis.plot(range(len(layers)), mean, "-" if split == "held_out" else "--", marker="o",
                      color=_SOURCES[weights], linewidth=2.1, markersize=4)
        axis.set_xticks(range(len(layers)), [n.replace(PENULTIMATE, "last") for n in layers])
        axis.set_title(title, fontsize=10.5)
        plain_log(axis, "y")
    handles = [plt.Line2D([], [], color=c, linewidth=2.5, label=f"{w} weights")
               for w, c in _SOURCES.items()]
    handles += [plt.Line2D([], [], color="#374151", linestyle=s, label=n) for s, n in
                (("-", "held-out shapes"), ("--", "trained shapes"))]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def forecast_scatter(table: pd.DataFrame) -> Figure:
    """Accuracy after training over the CDNV before it, a panel for each group of runs.

    Colours are methods, markers pairs of network and image source.
    """
    groups = list(dict.fromkeys(table["group"]))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, sharex=True, sharey=True, squeeze=False,
                                figsize=(3.7 * columns + 2.2, 3.1 * rows + 0.4),
                                layout="constrained")
    table = with_method(table)
    pairs = list(dict.fromkeys(zip(table["model"], table["weights"], strict=True)))
    for axis, group in zip(axes.flat, groups, strict=False):
        for (method, model, weights), part in table[table["group"] == group].groupby(
            ["method", "model", "weights"], observed=True
        ):
            axis.scatter(part["cdnv"], 100 * part["top1"], s=46, color=METHODS[method], zorder=3,
                         marker=MARKERS[pairs.index((model, weights)) % len(MARKERS)],
                         edgecolor="#374151", linewidth=0.5)
        axis.set_title(group)
        plain_log(axis, "x")
    for axis in axes.flat[len(groups):]:
        axis.set_axis_off()
    figure.supxlabel("CDNV of the test features before training (left: more collapsed)",
                     fontsize=10.5)
    figure.supylabel("top-1 on test clouds after training (%)", fontsize=10.5)
    handles = [plt.Line2D([], [], color="#374151", linestyle="", markersize=7,
                          marker=MARKERS[i % len(MARKERS)], label=f"{m},\n{w}")
               for i, (m, w) in enumerate(pairs)]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def forecast_forest(summary: pd.DataFrame) -> Figure:
    """Rank correlations with their intervals, one line a group: over all runs, and within pairs."""
    figure, axis = plt.subplots(figsize=(7.6, 0.55 * len(summary) + 1.5), layout="constrained")
    sides = {"all runs": ("rho", "low", "high", -0.14, "#2563c9"),
             "seeds within network and source": ("within", "within_low", "within_high", 0.14,
                                                 "#9aa1ad")}
    for name, (middle, low, high, shift, colour) in sides.items():
        place = np.arange(len(summary)) + shift
        axis.hlines(place, summary[low], summary[high], color=colour, linewidth=5, alpha=0.5)
        axis.scatter(summary[middle], place, s=46, color=colour, zorder=3, label=name,
                     edgecolor="#374151", linewidth=0.6)
    axis.axvline(0, color="#111827", linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(summary)), summary["group"])
    axis.set(xlim=(-1.05, 1.05), ylim=(len(summary) - 0.5, -0.5),
             xlabel="rank correlation of CDNV before training and accuracy after it")
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def bound_lines(table: pd.DataFrame) -> Figure:
    """Measured few-shot errors and their bounds over the number of shots, a panel for each pair."""
    pairs = list(dict.fromkeys(zip(table["model"], table["weights"], strict=True)))
    figure, axes = plt.subplots(1, len(pairs), sharey=True, squeeze=False, layout="constrained",
                                figsize=(3.1 * len(pairs) + 2, 3.8))
    styles = {"bound": ("--", "#dc2626", "bound"),
              "error": ("-", "#2563c9", "nearest centres, untrained"),
              "trained": ("-", "#e8871e", "trained on the shots")}
    for axis, (model, weights) in zip(axes[0], pairs, strict=True):
        part = table[(table["model"] == model) & (table["weights"] == weights)]
        for column, (style, colour, name) in styles.items():
            axis.plot(part["shots"], part[column], style, color=colour, marker="o", label=name,
                      linewidth=2.2)
        axis.axhline(1, color="#111827", linestyle=":", linewidth=1.2, label="no information")
        axis.set(title=f"{model},\n{weights}", xlabel="shots")
        axis.set_xticks(sorted(table["shots"].unique()))
        plain_log(axis, "y")
    axes[0, 0].set_ylabel("error (1 = all wrong)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure
