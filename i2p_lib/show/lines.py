"""Lines: means over seeds along epochs, layers or settings, with every run or their spread."""

from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2p_lib.analysis.methods import present
from i2p_lib.show.style import COLOURS, line_style

MEANS_AND_RUNS = ({}, {"units": "seed", "estimator": None, "linewidth": 0, "marker": "o",
                       "markersize": 4, "markeredgewidth": 0, "alpha": 0.7})  # fmt: skip
"""Strokes of `method_lines`: the mean as a line, every run as a dot."""


def method_lines(axis: Axes, table: pd.DataFrame, x: str, y: str, **changes: object) -> None:
    """Draw a line for each method over the column x: the mean of y over the runs.

    changes are seaborn's (`seaborn.lineplot`): style="split" for instance, or units="seed" with
    estimator=None for a line for each run.
    """
    if table.empty:
        return
    lonely = {"marker": "o"} if table[x].nunique() == 1 else {}  # which no line joins
    usual = lonely | {"hue": "method", "hue_order": present(table["method"]), "palette": COLOURS,
                      "errorbar": None, "linewidth": 2.4, "legend": False}  # fmt: skip
    before = len(axis.lines)
    sns.lineplot(table, x=x, y=y, ax=axis, **(usual | changes))
    for line in axis.lines[before:] if "linestyle" not in changes else ():
        line.set_linestyle(line_style(line.get_color()))
    axis.set(xlabel="", ylabel="")


def panels(table: pd.DataFrame, x: str, y: str, across: str, down: str | None = None,
           strokes: Sequence[Mapping[str, object]] = ({},), by: str = "", wrap: int = 3,
           size: tuple[float, float] = (4.3, 3.3),
           **shared: object) -> tuple[Figure, dict[tuple, Axes]]:
    """Draw `method_lines` in panels of a size in inches: a column for each value of `across`.

    down: the column of the table that the rows are of; without it, at most `wrap` panels stand in
    a row.  strokes: what is drawn in each panel, as changes of `method_lines`; an entry "only"
    picks the rows of that value in the column `by`.  shared: sharex and sharey of the axes.
    Returns the figure, which has room for a legend, and {(value of down, of across): panel}.
    """
    tops, sides = table[across].unique(), table[down].unique() if down else [None]
    columns = len(tops) if down else min(wrap, len(tops))
    rows = len(sides) if down else -(-len(tops) // columns)
    figure, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained", **shared,
                                figsize=(size[0] * columns + 1.5, size[1] * rows + 0.5))
    found = dict(zip(product(sides, tops), axes.flat, strict=False))
    for (side, top), axis in found.items():
        part = table[(table[across] == top) & ((table[down] == side) if down else True)]
        for stroke in strokes:
            changes = dict(stroke)
            mine = part[part[by] == changes.pop("only")] if "only" in changes else part
            method_lines(axis, mine, x, y, **changes)
        axis.set_title(top)
    for axis in axes.flat[len(found):]:
        axis.set_axis_off()
    return figure, found
