"""Drawings of what goes in: clouds and images, in rows with their names."""

from collections.abc import Sequence
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Item = tuple[str, np.ndarray | tuple[np.ndarray, np.ndarray]] | None


def gallery(clouds: np.ndarray, names: Sequence[str], columns: int = 8) -> Figure:
    """Thumbnails of point clouds [N, P, 3] under their names."""
    items = [(name.replace("_", " "), cloud) for name, cloud in zip(names, clouds, strict=True)]
    return sheet([("", items[i : i + columns]) for i in range(0, len(items), columns)])


def sheet(rows: Sequence[tuple[str, Sequence[Item]]], size: tuple[float, float] = (1.45, 1.62),
          dot: float = 1.1, limit: float | None = 1.05) -> Figure:
    """Draw rows of pictures and clouds: each has a label, and its items from the left.

    An item is a title and a picture [H, W] (0 is black, the largest of all white) or [H, W, 3],
    a cloud [P, 3], or (cloud, values [P]), see `draw_cloud`; None stays empty.
    Without rows it says so.  size: of an item, in inches.  limit: clouds are shown from minus
    that to that, whole where it is None.
    """
    rows = rows or [("no run of this profile shows this", [None])]
    columns = max(len(items) for _, items in rows)
    room = 0.9 if any(label for label, _ in rows) else 0
    figure, axes = plt.subplots(len(rows), columns, squeeze=False, layout="constrained",
                                figsize=(size[0] * columns + room, size[1] * len(rows)))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    whats = [item[1] for _, items in rows for item in items if item]
    white = max((what.max() for what in whats if not isinstance(what, tuple)), default=1)
    for line, (label, items) in zip(axes, rows, strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for axis, item in zip_longest(line, items):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if item is None:
                continue
            title, what = item
            axis.set_title(title, fontsize=8, loc="center", fontweight="normal", pad=2)
            if isinstance(what, tuple) or (what.ndim == 2 and what.shape[1] == 3):
                draw_cloud(axis, *(what if isinstance(what, tuple) else (what,)), size=dot)
                if limit:
                    axis.set(xlim=(-limit, limit), ylim=(-limit, limit))
            else:
                axis.imshow(what, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
    return figure


def draw_cloud(axis: Axes, cloud: np.ndarray, values: np.ndarray | None = None,
               size: float = 1.1) -> None:
    """Draw points [P, 3], seen from the front and a little above, the nearest last.

    values [P] colour the points, from 0 to the largest; without them the depth does.
    """
    turn, tilt = np.deg2rad(35), np.deg2rad(18)
    x = cloud[:, 0] * np.cos(turn) + cloud[:, 1] * np.sin(turn)
    depth = -cloud[:, 0] * np.sin(turn) + cloud[:, 1] * np.cos(turn)
    y = cloud[:, 2] * np.cos(tilt) + depth * np.sin(tilt)
    order = np.argsort(-depth)
    if values is None:
        colours = {"c": depth[order], "cmap": "viridis_r"}
    else:
        top = max(float(values.max()), 1e-12)
        colours = {"c": values[order], "cmap": "viridis", "vmin": 0, "vmax": top}
    axis.scatter(x[order], y[order], s=size, linewidth=0, rasterized=True, **colours)
    axis.set_aspect("equal")
