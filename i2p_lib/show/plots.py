"""Plots of results: one look, one palette, and one function per kind of plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from i2p_lib.analysis.methods import method_label, with_method  # noqa: F401
from i2p_lib.show.style import COLOURS as METHODS
from i2p_lib.show.style import plain_log, use_style  # noqa: F401


def method_bars(
    runs: pd.DataFrame, value: str = "top1", by: str | None = None, chance: float | None = None,
    title: str = "", label: str = "top-1 accuracy on test clouds (%)",
) -> Figure:  # fmt: skip
    """Mean over seeds as bars, every seed as a dot; ``by`` groups the bars into panels."""
    runs = with_method(runs)
    panels = [(title, runs)] if by is None else list(runs.groupby(by, sort=False))
    used = [[m for m in METHODS if (part["method"] == m).any()] for _, part in panels]
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, layout="constrained",
                                figsize=(1.5 + sum(1.1 * len(m) for m in used), 4.2),
                                width_ratios=[max(1.6, len(m)) for m in used])
    for axis, (name, part), methods in zip(axes[0], panels, used, strict=True):
        for place, method in enumerate(methods):
            _bar(axis, place, 100 * part.loc[part["method"] == method, value].to_numpy(),
                 METHODS[method])
        axis.set_xticks(range(len(methods)), [_wrapped(m) for m in methods])
        axis.set_title(str(name))
    _chance_line(chance, *axes[0])
    axes[0, 0].set_ylabel(label)
    axes[0, 0].set_ylim(0, 115 * runs[value].max())
    return figure


def _bar(axis: Axes, place: float, values: np.ndarray, colour: str, width: float = 0.72) -> None:
    """A bar of the mean, a dot for each value, the mean written above."""
    axis.bar(place, values.mean(), color=colour, width=width, zorder=2)
    spread = np.linspace(-0.15, 0.15, len(values)) * width if len(values) > 1 else np.zeros(1)
    axis.scatter(place + spread, values, s=20, color="#1f2937", zorder=3, edgecolor="white",
                 linewidth=0.6)
    axis.annotate(f"{values.mean():.1f}", (place, values.max()), xytext=(0, 5), ha="center",
                  textcoords="offset points", fontsize=10, fontweight="bold", color="#1f2937")


def _chance_line(chance: float | None, *axes: Axes) -> None:
    """The accuracy of guessing as a line through all panels, named right of the last one."""
    for axis in axes:
        axis.grid(axis="x", visible=False)
        if chance is not None:
            axis.axhline(100 * chance, color="#6b7280", linestyle=":", linewidth=1.2, zorder=4)
    if chance is not None:
        axes[-1].annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"),
                          xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5,
                          color="#6b7280", annotation_clip=False)


def _wrapped(method: str) -> str:
    return method.replace(" IO", "\nIO").replace(", moving", ",\nmoving").replace("FIP-", "FIP-\n")


def curves(
    histories: pd.DataFrame, targets: Mapping[str, float], value: str = "val_top1",
    label: str = "top-1 on validation clouds (%)",
) -> Figure:  # fmt: skip
    """One thin line per seed and one thick line for their mean, per method; a panel per network.

    ``targets`` maps networks to the accuracy at which speed is compared.
    """
    histories = with_method(histories)
    groups = list(histories.groupby("model", sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(1.5 + 5.6 * len(groups), 4.3),
                                sharey=True, squeeze=False, layout="constrained")
    for axis, (name, part) in zip(axes[0], groups, strict=True):
        for method, lines in part.groupby("method", observed=True):
            colour = METHODS[method]
            for _, line in lines.groupby("seed"):
                axis.plot(line["epoch"], 100 * line[value], color=colour, alpha=0.35, linewidth=1)
            mean = lines.groupby("epoch")[value].mean()
            axis.plot(mean.index, 100 * mean, color=colour, linewidth=2.6, label=method)
        if name in targets:
            axis.axhline(100 * targets[name], color="#111827", linestyle="--", linewidth=1)
            axis.annotate(f"target {100 * targets[name]:.0f} %", (0, 100 * targets[name]),
                          xycoords=("axes fraction", "data"), xytext=(5, 4),
                          textcoords="offset points", fontsize=9)
        _epochs(axis)
        axis.set_title(name)
        axis.set_ylim(0, None)
    axes[0, 0].set_ylabel(label)
    handles = {text: handle for axis in axes.flat
               for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = [method for method in METHODS if method in handles]
    figure.legend([handles[m] for m in order], order, loc="outside right center")
    return figure


def _epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def rates(grid: pd.DataFrame, chosen: Mapping[str, float]) -> Figure:
    """Validation accuracy over the learning rate: mean and every seed; a ring marks the choice."""
    figure, axis = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    for method, part in grid.groupby("method", observed=True):
        colour = METHODS[method]
        mean = 100 * part.groupby("lr")["val_top1"].mean()
        axis.plot(mean.index, mean, color=colour, linewidth=2.4, label=method)
        axis.scatter(part["lr"], 100 * part["val_top1"], s=16, color=colour, alpha=0.6)
        axis.scatter(chosen[method], mean[chosen[method]], s=110, facecolor="white",
                     edgecolor=colour, linewidth=2.4, zorder=4)
    axis.set(xscale="log", xlabel="peak learning rate", ylabel="top-1 on validation clouds (%)")
    tried = sorted(grid["lr"].unique())
    axis.set_xticks(tried, [f"{rate:g}" for rate in tried])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0, None)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def shots(runs: pd.DataFrame, value: str = "top1", chance: float | None = None) -> Figure:
    """Few-shot accuracy: mean over episodes with one dot per episode (paper, Table 3)."""
    runs = with_method(runs)
    used = [m for m in METHODS if (runs["method"] == m).any()]
    levels = sorted(runs["shots"].unique())
    figure, axis = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    width = 0.8 / len(used)
    for offset, method in enumerate(used):
        for place, level in enumerate(levels):
            chosen = (runs["method"] == method) & (runs["shots"] == level)
            x = place + (offset - (len(used) - 1) / 2) * width
            _bar(axis, x, 100 * runs.loc[chosen, value].to_numpy(), METHODS[method], 0.92 * width)
        axis.bar(0, 0, color=METHODS[method], label=method)
    axis.set_xticks(range(len(levels)), [f"{int(n)}-shot" for n in levels])
    axis.set_ylabel("top-1 accuracy on test clouds (%)")
    axis.set_ylim(0, 115 * runs[value].max())
    _chance_line(chance, axis)
    axis.legend(loc="upper left")
    return figure


def collapse_curves(
    probes: pd.DataFrame, metrics: Mapping[str, str], layer: str = "penultimate"
) -> Figure:
    """Collapse metrics over the epochs, one panel each; test clouds solid, train clouds dashed."""
    probes = with_method(probes[probes["layer"] == layer])
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.3 * columns, 3.3 * rows + 0.5),
                                squeeze=False, layout="constrained")
    for axis, (metric, title) in zip(axes.flat, metrics.items(), strict=False):
        part = probes[probes["metric"] == metric]
        for (method, split), lines in part.groupby(["method", "split"], observed=True):
            mean = lines.groupby("epoch")["value"].mean()
            axis.plot(mean.index, mean, color=METHODS[method], linewidth=2, marker="o",
                      markersize=3.5, linestyle="-" if split == "test" else "--",
                      alpha=1 if split == "test" else 0.55)
        if (part["value"] > 0).all() and part["value"].max() > 20 * part["value"].min():
            plain_log(axis, "y")
        axis.set_title(title, fontsize=10.5)
        _epochs(axis)
    for axis in axes.flat[len(metrics):]:
        axis.set_axis_off()
    used = [m for m in METHODS if (probes["method"] == m).any()]
    handles = [plt.Line2D([], [], color=METHODS[m], linewidth=2.5, label=m) for m in used]
    handles += [plt.Line2D([], [], color="#374151", linestyle=s, label=f"{n} clouds")
                for s, n in (("-", "test"), ("--", "train"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    return figure


def layer_profiles(probes: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Metrics through the network's depth, a row each, on train and test clouds.

    Dotted: before training, where it was probed; solid: after it.
    """
    probes = with_method(probes)
    layers, last = list(dict.fromkeys(probes["layer"])), probes["epoch"].max()
    splits = [split for split in ("train", "test") if (probes["split"] == split).any()]
    figure, axes = plt.subplots(len(metrics), len(splits), sharex=True, sharey="row",
                                squeeze=False, layout="constrained",
                                figsize=(4.9 * len(splits) + 2, 2.7 * len(metrics) + 0.6))
    for row, (metric, title) in zip(axes, metrics.items(), strict=True):
        for axis, split in zip(row, splits, strict=True):
            part = probes[(probes["metric"] == metric) & (probes["split"] == split)]
            for method, lines in part.groupby("method", observed=True):
                for epoch, alpha, style in ((0, 0.45, ":"), (last, 1.0, "-")):
                    mean = lines[lines["epoch"] == epoch].groupby("layer")["value"].mean()
                    if len(mean):
                        axis.plot(range(len(layers)), mean.reindex(layers), style, alpha=alpha,
                                  color=METHODS[method], linewidth=2.1, marker="o", markersize=4)
            plain_log(axis, "y")
            axis.set_xticks(range(len(layers)), layers, rotation=20)
            axis.set_title(f"{split} clouds")
        row[0].set_ylabel(title)
    used = [m for m in METHODS if (probes["method"] == m).any()]
    handles = [plt.Line2D([], [], color=METHODS[m], linewidth=2.5, label=m) for m in used]
    if (probes["epoch"] == 0).any():
        handles += [plt.Line2D([], [], color="#374151", linestyle=s, label=f"{n} training")
                    for s, n in ((":", "before"), ("-", "after"))]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def setting_bars(runs: pd.DataFrame, setting: str, chance: float | None = None) -> Figure:
    """One bar per value of a column: mean over seeds, every seed as a dot."""
    names = list(dict.fromkeys(runs[setting]))
    figure, axis = plt.subplots(figsize=(1.5 + 1.25 * len(names), 3.8), layout="constrained")
    for place, name in enumerate(names):
        _bar(axis, place, 100 * runs.loc[runs[setting] == name, "top1"].to_numpy(),
             METHODS["FIP-IO+BN"])
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("top-1 accuracy on test clouds (%)")
    axis.set_ylim(0, 115 * runs["top1"].max())
    _chance_line(chance, axis)
    return figure


def cost_scatter(table: pd.DataFrame) -> Figure:
    """Time per cloud over MACs per cloud; the area of a dot is the number of parameters."""
    figure, axis = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    x, y = table["GMACs per cloud"], table["ms per cloud"]
    colours = sns.color_palette("crest", len(table))
    axis.scatter(x, y, s=8 * table["point parameters (M)"] + 30, c=colours, alpha=0.85, zorder=3)
    for i, (name, place_x, place_y) in enumerate(zip(table.index, x, y, strict=True)):
        above = i % 2 == 0
        axis.annotate(name, (place_x, place_y), xytext=(0, 24 if above else -24), ha="center",
                      va="bottom" if above else "top", textcoords="offset points", fontsize=9,
                      arrowprops={"arrowstyle": "-", "color": "#9aa1ad", "linewidth": 0.7})
    axis.set(xlabel="GMACs per cloud", ylabel="milliseconds per cloud, one CPU thread")
    plain_log(axis, "x")
    plain_log(axis, "y")
    axis.margins(0.18)
    return figure


def collapse_scatter(table: pd.DataFrame) -> Figure:
    """Test accuracy over the CDNV of the test features, one dot per run."""
    figure, axis = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
    for method, part in table.groupby("method", observed=True):
        axis.scatter(part["cdnv"], 100 * part["top1"], s=60, color=METHODS[method], label=method,
                     edgecolor="#374151", linewidth=0.6, zorder=3)
    axis.set(xlabel="CDNV of test features after training (left: more collapsed)",
             ylabel="top-1 accuracy on test clouds (%)")
    plain_log(axis, "x")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def feature_maps(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> Figure:
    """Features [N, d] and labels [N] of each run in the plane of their two main directions."""
    figure, axes = plt.subplots(1, len(features), figsize=(5.2 * len(features) + 1.6, 4.4),
                                squeeze=False, layout="constrained")
    palette = sns.color_palette("husl", len(class_names))
    for axis, (title, (values, labels)) in zip(axes[0], features.items(), strict=True):
        centred = values - values.mean(0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        plane = centred @ directions[:2].T
        for label, name in enumerate(class_names):
            mine = labels == label
            axis.scatter(*plane[mine].T, s=26, color=palette[label], label=name.replace("_", " "),
                         edgecolor="white", linewidth=0.4)
        low, high = np.quantile(plane, [0.01, 0.99], axis=0)
        margin = 0.08 * (high - low)
        axis.set(title=title, xticks=[], yticks=[], xlim=(low[0] - margin[0], high[0] + margin[0]),
                 ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
    return figure
