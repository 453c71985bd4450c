"""Plots of chapter 5's tables and figures: feature distances, and what single units respond to."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from i2p_lib.analysis.why import Distances
from i2p_lib.analysis.why_units import UnitPictures
from i2p_lib.show.drawings import front_view
from i2p_lib.show.style import COLOURS as METHODS
from i2p_lib.show.style import plain_log

_SCALES = {"relative": "in standard deviations of the image features",
           "own unit": "in the features' own unit"}


def layer_distances(distances: Distances) -> Figure:
    """Distance of image and cloud features: by layer, and the mean over the layers.

    By layer a thick line is the running mean of three layers, its band the 95 % interval, and
    dashes are one half of the pictures against the other; faint lines are the single layers.
    """
    table = distances.methods
    used = [m for m in METHODS if (table["method"] == m).any()]
    figure, axes = plt.subplots(1, 3, figsize=(13.6, 4.8), layout="constrained",
                                width_ratios=[2.3, 1, 1])
    for method in used:
        part = table[(table["method"] == method) & (table["scale"] == "relative")]
        part = part[part["place"] > 0].sort_values("place")
        place, colour = part["place"], METHODS[method]
        axes[0].plot(place, part["distance"], color=colour, linewidth=0.8, alpha=0.35)
        axes[0].fill_between(place, _running(part["low"]), _running(part["high"]), color=colour,
                             alpha=0.22, linewidth=0)
        axes[0].plot(place, _running(part["distance"]), color=colour, linewidth=2.6)
        axes[0].plot(place, _running(part["floor"]), "--", color=colour, linewidth=1.1)
    axes[0].set(xlabel="convolution, first to last", ylabel=_SCALES["relative"],
                title="by layer", xlim=(1, max(2, len(distances.layers))))
    plain_log(axes[0], "y")
    for axis, scale in zip(axes[1:], _SCALES, strict=True):
        _forest(axis, table[(table["scale"] == scale) & (table["place"] == 0)], used)
        axis.set_xlabel(_SCALES[scale])
        axis.set_title("mean over layers")
    axes[1].set_yticks(range(len(used)), used)
    axes[2].set_yticks(range(len(used)), [])
    return figure


def _running(values: pd.Series) -> np.ndarray:
    """Return the running mean of three on a logarithmic scale; the ends have two."""
    return np.exp(np.log(values).rolling(3, center=True, min_periods=1).mean()).to_numpy()


def _forest(axis: plt.Axes, table: pd.DataFrame, used: Sequence[str]) -> None:
    table = table.set_index("method").loc[list(used)]
    for place, (method, row) in enumerate(table.iterrows()):
        colour = METHODS[method]
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=5, alpha=0.45,
                  solid_capstyle="round")
        axis.scatter(row["distance"], place, s=60, color=colour, edgecolor="#374151",
                     linewidth=0.6, zorder=3)
        axis.plot([row["floor"]] * 2, [place - 0.3, place + 0.3], "--", color=colour,
                  linewidth=1.4)
        axis.annotate(f"{row['distance']:.2g}", (row["distance"], place), xytext=(0, 7),
                      textcoords="offset points", ha="center", fontsize=9)
    axis.set_ylim(len(used) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    plain_log(axis, "x")


def unit_measures(units: pd.DataFrame) -> Figure:
    """Share of units at or below each class entropy, and each selectivity above chance."""
    figure, axes = plt.subplots(1, 2, figsize=(11.6, 4.2), sharey=True, layout="constrained")
    measures = {"class entropy of the top clouds (bits)": units["entropy"],
                "class selectivity above that of shuffled labels":
                    units["selectivity"] - units["selectivity_shuffled"]}
    for axis, (label, values) in zip(axes, measures.items(), strict=True):
        for method in [m for m in METHODS if (units["method"] == m).any()]:
            _steps(axis, values[units["method"] == method], color=METHODS[method], label=method)
        axis.set(xlabel=label, ylim=(0, 100))
    chance = units["entropy_shuffled"].mean()
    for axis, place in zip(axes, (chance, 0), strict=True):
        axis.axvline(place, color="#111827", linestyle=":", linewidth=1.6,
                     label="mean with shuffled labels")
    axes[0].set_ylabel("units at or below (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _steps(axis: plt.Axes, values: pd.Series, **style: str) -> None:
    rising = np.sort(values)
    axis.step(rising, 100 * np.arange(1, len(rising) + 1) / len(rising), where="post",
              linewidth=2.2, **style)


def unit_grid(units: Sequence[UnitPictures]) -> Figure:
    """One row per unit: the pictures, then the clouds, that activate it most.

    Pictures are dark where the unit is not active; points are yellow where it is.
    """
    if not units:
        figure, axis = plt.subplots(figsize=(6, 0.6))
        axis.set_axis_off()
        axis.text(0, 0.5, "No run of this method, or no unit that is ever active.")
        return figure
    left, right = (max(len(part) for part in parts) for parts in
                   ([u.pictures for u in units], [u.clouds for u in units]))
    figure, axes = plt.subplots(
        len(units), left + right + 1, squeeze=False, layout="constrained",
        figsize=(1.25 * (left + right) + 0.9, 1.36 * len(units) + 0.3),
        width_ratios=[1] * left + [0.75] + [1] * right,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, unit in zip(axes, units, strict=True):
        for axis, (picture, values) in zip(row[:left], unit.pictures, strict=False):
            axis.imshow(_lit(picture, values))
        row[left].text(0.5, 0.5, unit.caption, ha="center", va="center", fontsize=8)
        for axis, (cloud, values, name) in zip(row[left + 1 :], unit.clouds, strict=False):
            _cloud(axis, cloud, values)
            axis.set_title(name.replace("_", " "), fontsize=8, loc="center", fontweight="normal",
                           pad=1)
    return figure


def _lit(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Darken a picture [S, S, 3] where the map [h, w] is low."""
    from PIL import Image

    scaled = Image.fromarray(values.astype(np.float32) / max(float(values.max()), 1e-12))
    light = np.asarray(scaled.resize(picture.shape[:2], Image.Resampling.BICUBIC))
    return picture * (0.35 + 0.65 * np.clip(1.6 * light, 0, 1))[:, :, None]


def _cloud(axis: plt.Axes, cloud: np.ndarray, values: np.ndarray) -> None:
    x, y, depth = front_view(cloud)
    order = np.argsort(-depth)
    axis.scatter(x[order], y[order], c=values[order], s=1.6, cmap="viridis", linewidth=0, vmin=0,
                 vmax=max(float(values.max()), 1e-12), rasterized=True)
    axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
