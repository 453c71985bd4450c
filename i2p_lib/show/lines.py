"""Lines: means over seeds along epochs, layers or settings, with every run or their spread."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from i2p_lib.analysis.methods import present, with_method
from i2p_lib.show.style import COLOURS, INK, method_legend, plain_log


def method_lines(axis: Axes, table: pd.DataFrame, x: str, y: str, **changes: object) -> None:
    """Draw a line for each method over the column x: the mean of y over the runs.

    changes are seaborn's (`seaborn.lineplot`): style="split" for instance, or units="seed" with
    estimator=None for a line for each run.
    """
    if table.empty:
        return
    usual = {"hue": "method", "hue_order": present(table["method"]), "palette": COLOURS,
             "errorbar": None, "linewidth": 2.4, "legend": False}  # fmt: skip
    sns.lineplot(table, x=x, y=y, ax=axis, **(usual | changes))
    axis.set(xlabel="", ylabel="")


def means_and_runs(axis: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Draw `method_lines`, and every run as a dot."""
    method_lines(axis, table, x, y)
    axis.scatter(table[x], table[y], s=16, c=table["method"].astype(str).map(COLOURS), alpha=0.7,
                 zorder=3, linewidth=0)


def curves(histories: pd.DataFrame, targets: Mapping[str, float]) -> Figure:
    """Draw validation accuracy over epochs, a panel for each network.

    A thin line for each seed, a thick one for their mean.  targets: network -> the accuracy
    (0..1) at which speed is compared, dashed.
    """
    histories = with_method(histories).assign(top1=100 * histories["val_top1"])
    groups = list(histories.groupby("model", sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(1.5 + 5.6 * len(groups), 4.3),
                                sharey=True, squeeze=False, layout="constrained")
    for axis, (name, part) in zip(axes[0], groups, strict=True):
        dots = {"marker": "o"} if part["epoch"].nunique() == 1 else {}  # which no line joins
        method_lines(axis, part, "epoch", "top1", units="seed", estimator=None, alpha=0.35,
                     linewidth=1, **dots)
        method_lines(axis, part, "epoch", "top1", linewidth=2.6, **dots)
        if name in targets:
            axis.axhline(100 * targets[name], color=INK, linestyle="--", linewidth=1)
            axis.annotate(f"target {100 * targets[name]:.0f} %", (0, 100 * targets[name]),
                          xycoords=("axes fraction", "data"), xytext=(5, 4),
                          textcoords="offset points", fontsize=9)
        _epochs(axis)
        axis.set_title(name)
    axes[0, 0].set(ylabel="top-1 on validation clouds (%)", ylim=(0, None))
    method_legend(figure, histories["method"])
    return figure


def _epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def collapse_curves(
    probes: pd.DataFrame, metrics: Mapping[str, str], layer: str = "penultimate"
) -> Figure:
    """Draw collapse measures over the epochs, one panel each; train clouds dashed.

    metrics: measure -> its title.
    """
    probes = with_method(probes[probes["layer"] == layer])
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.3 * columns, 3.3 * rows + 0.5),
                                squeeze=False, layout="constrained")
    for axis in axes.flat[len(metrics):]:
        axis.set_axis_off()
    for axis, (metric, title) in zip(axes.flat, metrics.items(), strict=False):
        part = probes[probes["metric"] == metric]
        for split, style, alpha in (("train", "--", 0.55), ("test", "-", 1)):
            method_lines(axis, part[part["split"] == split], "epoch", "value", linestyle=style,
                         alpha=alpha, marker="o", markersize=3.5, markeredgewidth=0, linewidth=2)
        if (part["value"] > 0).all() and part["value"].max() > 20 * part["value"].min():
            plain_log(axis, "y")
        axis.set_title(title, fontsize=10.5)
        _epochs(axis)
    keys = [(f"{name} clouds", {"linestyle": style}) for name, style in
            (("test", "-"), ("train", "--"))]
    method_legend(figure, probes["method"], keys, "outside lower center", ncols=6)
    return figure


def layer_profiles(probes: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Draw measures through the network's depth, a row each, on train and test clouds.

    Dotted: before training, where it was probed; solid: after it.
    """
    probes = with_method(probes)
    layers, last = list(dict.fromkeys(probes["layer"])), probes["epoch"].max()
    probes = probes.assign(place=probes["layer"].map(layers.index))
    splits = [split for split in ("train", "test") if (probes["split"] == split).any()]
    figure, axes = plt.subplots(len(metrics), len(splits), sharex=True, sharey="row",
                                squeeze=False, layout="constrained",
                                figsize=(4.9 * len(splits) + 2, 2.7 * len(metrics) + 0.6))
    for row, (metric, title) in zip(axes, metrics.items(), strict=True):
        for axis, split in zip(row, splits, strict=True):
            part = probes[(probes["metric"] == metric) & (probes["split"] == split)]
            for epoch, alpha, style in ((0, 0.45, ":"), (last, 1.0, "-")):
                method_lines(axis, part[part["epoch"] == epoch], "place", "value", alpha=alpha,
                             linestyle=style, linewidth=2.1, marker="o", markersize=4,
                             markeredgewidth=0)
            plain_log(axis, "y")
            axis.set_xticks(range(len(layers)), layers, rotation=20)
            axis.set_title(f"{split} clouds")
        row[0].set_ylabel(title)
    moments = [(f"{name} training", {"linestyle": style}) for name, style in
               (("before", ":"), ("after", "-"))] if (probes["epoch"] == 0).any() else []
    method_legend(figure, probes["method"], moments)
    return figure
