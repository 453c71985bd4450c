"""Drawings of what goes in and what is done to it: clouds, images, voxels, filters, Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

Item = tuple[str, np.ndarray | tuple[np.ndarray, np.ndarray]] | None


def gallery(clouds: np.ndarray, names: Sequence[str], columns: int = 8) -> Figure:
    """Thumbnails of point clouds [N, P, 3] under their names."""
    items = [(name.replace("_", " "), cloud) for name, cloud in zip(names, clouds, strict=True)]
    return sheet([("", items[i : i + columns]) for i in range(0, len(items), columns)])


def contact_sheet(images: np.ndarray, names: Sequence[str]) -> Figure:
    """Grey images [R, C, H, W], a row of C for each of the R names."""
    rows = [(name, [("", one) for one in row]) for name, row in zip(names, images, strict=True)]
    return sheet(rows, size=(1.1, 1.13))


def sheet(
    rows: Sequence[tuple[str, Sequence[Item]]], size: tuple[float, float] = (1.45, 1.62),
    dot: float = 1.1, limit: float | None = 1.05,
) -> Figure:  # fmt: skip
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


def draw_cloud(
    axis: Axes, cloud: np.ndarray, values: np.ndarray | None = None, size: float = 1.1
) -> None:
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


def filters(image_filter: np.ndarray, volume: np.ndarray, axis: str) -> Figure:
    """A 2D filter [k, k] beside the slices of its inflated twin [k, k, k] along ``axis``."""
    slices = np.moveaxis(volume, "xyz".index(axis), 0).transpose(0, 2, 1)
    largest = np.abs(image_filter).max()
    columns = -(-(1 + len(slices)) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(2.6 * columns, 5), layout="constrained")
    largest *= 1.6  # no cell so dark that its number cannot be read
    titles = ["image filter", *[f"{axis} = {i}" for i in range(len(slices))]]
    for panel, values, title in zip(axes.flat, [image_filter, *slices], titles, strict=False):
        sns.heatmap(values, vmin=-largest, vmax=largest, cmap="RdBu_r", annot=True, fmt=".2f",
                    annot_kws={"color": "#0b1a3a"}, cbar=False, square=True, xticklabels=False,
                    yticklabels=False, ax=panel)
        panel.set_title(title)
    return figure


def voxels(cloud: np.ndarray, coords: np.ndarray, voxel_size: float, title: str) -> Figure:
    """A cloud [P, 3] and the voxels [N, 3] that it occupies, side by side."""
    figure = plt.figure(figsize=(9.5, 4.2), layout="constrained")
    left = figure.add_subplot(1, 2, 1, projection="3d")
    left.scatter(*cloud.T, c=cloud[:, 2], s=2, cmap="viridis", linewidth=0)
    left.set_title(f"{len(cloud):,} points")
    right = figure.add_subplot(1, 2, 2, projection="3d")
    low = coords.min(0)
    filled = np.zeros(coords.max(0) - low + 1, bool)
    filled[tuple((coords - low).T)] = True
    shade = plt.get_cmap("viridis")(np.linspace(0.1, 0.95, filled.shape[2]))
    colours = np.broadcast_to(shade, (*filled.shape, 4))
    right.voxels(filled, facecolors=colours, edgecolor=(1, 1, 1, 0.35), linewidth=0.3)
    right.set_title(f"{len(coords):,} voxels of {voxel_size:g}  ({title})")
    for axis in (left, right):
        axis.set_box_aspect(np.ptp(cloud, axis=0) + 1e-6)
        axis.set_axis_off()
        axis.view_init(18, -60)
    return figure


def framework() -> Figure:
    """Figure 1 of the paper, drawn anew: what is copied, what is inflated, what is new."""
    figure, axis = plt.subplots(figsize=(10.5, 4.6), layout="constrained")
    axis.set(xlim=(0, 21), ylim=(0, 9.2))
    axis.set_axis_off()
    colours = {"inflate": "#2563c9", "copy": "#cf6f1b", "new": "#0f9d76"}
    image = [("image\n224 x 224 x 3", None), ("stem\n2D conv", None), ("conv k x k", "inflate"),
             ("norm", "copy"), ("conv k x k", "inflate"), ("norm", "copy"), ("classifier", None)]
    points = [("points\nvoxels, xyz", None), ("stem\n3D conv", "new"),
              ("sparse conv\nk x k x k", "inflate"), ("norm", "copy"),
              ("sparse conv\nk x k x k", "inflate"), ("norm", "copy"),
              ("classifier", "new")]
    for row, (layers, y) in enumerate(((image, 6.4), (points, 1.6))):
        for place, (text, kind) in enumerate(layers):
            x = 0.3 + 2.95 * place
            edge = colours.get(kind, "#868d99")
            axis.add_patch(FancyBboxPatch((x, y), 2.2, 1.5, boxstyle="round,pad=0.08",
                                          facecolor=edge + "22", edgecolor=edge, linewidth=1.6))
            axis.text(x + 1.1, y + 0.75, text, ha="center", va="center", fontsize=7.5)
            if place:
                axis.add_patch(FancyArrowPatch((x - 0.66, y + 0.75), (x - 0.1, y + 0.75),
                                               arrowstyle="-|>", mutation_scale=10,
                                               color="#6b7280"))
            if row and kind in ("inflate", "copy"):
                axis.add_patch(FancyArrowPatch((x + 1.1, 6.25), (x + 1.1, 3.25), linewidth=1.8,
                                               arrowstyle="-|>", mutation_scale=14, color=edge))
                axis.text(x + 1.25, 4.75, kind, fontweight="bold")
    axis.text(0.3, 8.55, "network pretrained on images", fontweight="bold")
    axis.text(0.3, 0.75, "the same network on a point cloud", fontweight="bold")
    axis.text(20.6, 0.75, "green: new, always trained    orange: trained in IO+BN    "
              "blue: trained in ALL", ha="right", fontsize=8)
    return figure
