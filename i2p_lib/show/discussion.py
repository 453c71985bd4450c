"""The discussion, shown: destroyed cues, receptive fields, fractals, forecasts and bounds."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from i2p_lib.analysis.methods import CONTROLS, with_method
from i2p_lib.show.drawings import draw_cloud
from i2p_lib.show.lines import means_and_runs
from i2p_lib.show.style import COLOURS, INK, method_legend, plain_log
from i2p_lib.show.text import spanned

KINDS = {"arrangement": "arrangement destroyed, patches kept",
         "detail": "detail destroyed, arrangement kept"}
MARKERS = "osD^vP"
_DARK = "#374151"


def shuffled_clouds(
    whole: np.ndarray, versions: Iterable[tuple[str, int, np.ndarray]], voxel_size: float
) -> Figure:
    """One cloud [P, 3], and its versions (kind, patch in voxels, cloud), a row for each kind."""
    rows = {kind: [("whole", whole)] for kind in KINDS}
    for kind, patch, cloud in versions:
        rows[kind].append((f"patches of {patch} voxels ({patch * voxel_size:.2g})", cloud))
    columns = max(map(len, rows.values()))
    figure, axes = _panels(len(rows), columns, 2.3, 2.5)
    for line, (kind, shown) in zip(axes, rows.items(), strict=True):
        for axis, (name, cloud) in zip(line, shown, strict=True):
            draw_cloud(axis, cloud, size=1.2)
            axis.set(xticks=[], yticks=[])
            axis.set_title(name, fontsize=9, fontweight="normal")
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(KINDS[kind].replace(", ", ",\n"), fontsize=9)
    return figure


def shuffled_lines(table: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over the edge of the shuffled patches: a row per network, a column per kind.

    A thick line is the mean over seeds, a dot is one run; at the right the whole clouds.
    """
    models, patches = list(dict.fromkeys(table["model"])), sorted(table["patch"].unique())
    figure, axes = _panels(len(models), len(KINDS), 5.3, 3.5, 1.4, 0.4, sharex=True, sharey=True)
    table = with_method(table).assign(place=table["patch"].map(patches.index))
    whole = table.assign(top1=table["whole"], place=len(patches))
    table = pd.concat([table, whole.drop_duplicates(["key", "kind"])])
    for row, model in zip(axes, models, strict=True):
        for axis, (kind, title) in zip(row, KINDS.items(), strict=True):
            part = table[(table["model"] == model) & (table["kind"] == kind)]
            means_and_runs(axis, part.assign(top1=100 * part["top1"]), "place", "top1")
            axis.axhline(100 * chance, color=INK, linestyle=":", linewidth=1.2)
            axis.set(xlabel="edge of the shuffled patches (voxels)", title=f"{model}\n{title}")
            axis.set_xticks(range(len(patches) + 1), [*map(str, patches), "whole"])
            axis.label_outer()
        row[0].set_ylabel("top-1 on test clouds (%)")
    axes[0, 0].set_ylim(0, None)  # of all panels, once all have their lines
    method_legend(figure, table["method"], [("chance", {"linestyle": ":"})])
    return figure


def _panels(rows: int, columns: int, width: float, height: float, wide: float = 0,
            high: float = 0, **shared: object) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """Panels [rows, columns] of a size in inches, and room beside them for a legend."""
    return plt.subplots(rows, columns, squeeze=False, layout="constrained", **shared,
                        figsize=(width * columns + wide, height * rows + high))


def shape_lines(table: pd.DataFrame, chance: float) -> list[str]:
    """Say which cue each method loses more by, and whether more than its control.

    At the largest patches.
    """
    patch = table["patch"].max()
    part = table[table["patch"] == patch].assign(lost=lambda t: 100 * (t["whole"] - t["top1"]))
    lines = []
    for model, runs in part.groupby("model", sort=False):
        lost = runs.pivot_table("lost", ["method", "seed"], "kind", sort=False)
        whole = 100 * runs.groupby("method")["whole"].mean()
        for method, mine in lost.groupby("method", sort=False):
            gap = mine["arrangement"] - mine["detail"]
            more = "arrangement" if gap.mean() > 0 else "detail"
            agree = int((np.sign(gap) == np.sign(gap.mean())).sum())
            lines.append(
                f"{model}, {method}, patches of {patch} voxels: {mine['arrangement'].mean():.0f} "
                f"points lost with the arrangement destroyed, {mine['detail'].mean():.0f} with the "
                f"detail; more by {more} in {agree} of {len(gap)} runs (whole {whole[method]:.0f} "
                f"%, chance {100 * chance:.0f} %)."
            )
        for method, control in CONTROLS.items():
            if {method, control} <= set(whole.index):
                gap = (lost.loc[method] - lost.loc[control]).dropna()["detail"]
                lines.append(
                    f"{model}, {method} against {control}: with the detail destroyed "
                    f"{gap.mean():+.0f} points are lost, more in {int((gap > 0).sum())} of "
                    f"{len(gap)} seeds."
                )
    return lines


def forecast_scatter(table: pd.DataFrame) -> Figure:
    """Accuracy after training over the CDNV before it, a panel for each group of runs.

    Colours are methods, markers pairs of network and image source.
    """
    groups = list(dict.fromkeys(table["group"]))
    columns = min(3, len(groups))
    figure, axes = _panels(-(-len(groups) // columns), columns, 3.7, 3.1, 2.2, 0.4, sharex=True,
                           sharey=True)
    pair = table["model"] + ",\n" + table["weights"]
    table = with_method(table).assign(pair=pair, top1=100 * table["top1"])
    marks = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(pair))}
    for axis, group in zip(axes.flat, groups, strict=False):
        sns.scatterplot(table[table["group"] == group], x="cdnv", y="top1", hue="method",
                        style="pair", palette=COLOURS, markers=marks, s=46, zorder=3, ax=axis,
                        edgecolor=_DARK, linewidth=0.5, legend=False)
        axis.set(title=group, xlabel="", ylabel="")
        plain_log(axis, "x")
    for axis in axes.flat[len(groups):]:
        axis.set_axis_off()
    figure.supxlabel("CDNV of the test features before training (left: more collapsed)",
                     fontsize=10.5)
    figure.supylabel("top-1 on test clouds after training (%)", fontsize=10.5)
    dot = {"color": _DARK, "linestyle": "", "markersize": 7}
    method_legend(figure, [], [(name, dot | {"marker": mark}) for name, mark in marks.items()])
    return figure


def forecast_lines(summary: pd.DataFrame) -> list[str]:
    """Say whether collapse before training predicts accuracy after it."""
    return [
        f"{row.group}: rank correlation {row.rho:+.2f} (95 % interval "
        f"{spanned(row.low, row.high, '+.2f')}; {row.runs} runs of {row.starts} starting networks "
        f"from {row.sources} pairs of network and source): {_verdict(row)}. Within the pairs, "
        f"over seeds alone: {row.within:+.2f} ({spanned(row.within_low, row.within_high, '+.2f')})."
        for row in summary.itertuples()
    ]


def forecast_answer(summary: pd.DataFrame) -> str:
    """Say in one sentence for which groups the forecast holds, and for which it does not."""
    said: dict[str, list[str]] = {}
    for row in summary.itertuples():
        said.setdefault(_verdict(row), []).append(row.group)
    return "Collapse before training and accuracy after it: " + "; ".join(
        f"{verdict} ({', '.join(groups)})" for verdict, groups in said.items()) + "."


def _verdict(row: object) -> str:
    if row.high < 0:
        return "the more collapsed, the better"
    return "the more collapsed, the worse" if row.low > 0 else "nothing can be told"
