"""Scatter plots: costs of networks, collapse against accuracy, features in their main plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from i2p_lib.analysis.methods import present
from i2p_lib.show.style import COLOURS, TOP1, plain_log


def cost_scatter(table: pd.DataFrame) -> Figure:
    """Draw time over MACs per cloud; the area of a dot is the number of parameters.

    table: what `analysis.costs.cost_table` returns.
    """
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
    """Draw test accuracy over the CDNV of the test features, one dot per run."""
    figure, axis = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
    sns.scatterplot(table.assign(top1=100 * table["top1"]), x="cdnv", y="top1", hue="method",
                    hue_order=present(table["method"]), palette=COLOURS, s=60, zorder=3, ax=axis,
                    edgecolor="#374151", linewidth=0.6)
    axis.set(xlabel="CDNV of test features after training (left: more collapsed)", ylabel=TOP1)
    plain_log(axis, "x")
    sns.move_legend(axis, "center left", bbox_to_anchor=(1.01, 0.5), title=None)
    return figure


def feature_maps(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> Figure:
    """Draw features [N, d] with labels [N] of each run in the plane of their main directions."""
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
