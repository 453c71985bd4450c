"""What networks compute inside: feature distances (Table 5) and single units (Figure 4), shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2p_lib.analysis.dissection import TOP
from i2p_lib.analysis.distances import Distances
from i2p_lib.analysis.methods import CONTROLS, present
from i2p_lib.data.pictures import Pictures
from i2p_lib.runs import RunResult
from i2p_lib.show.comparison import rows_by_run
from i2p_lib.show.drawings import draw_cloud
from i2p_lib.show.style import COLOURS, plain_log
from i2p_lib.show.text import ranked, spanned

IMAGENET_CLASSES = 1000
_SCALES = {"relative": "in standard deviations of the image features",
           "own unit": "in the features' own unit"}


def distance_rows(
    distances: Distances, found: Sequence[RunResult], pictures: Pictures
) -> pd.DataFrame:
    """Return the distances as rows for `paper.compare`: Table 5, one row per run and metric.

    The paper's are layers 1, 4, 8 and 16 of 16; in another network those at the same share of the
    depth.  A row counts as in the paper where its run does and the pictures have ImageNet's number
    of classes.
    """
    wide = distances.runs.pivot(index="key", columns="place", values="distance")
    columns = {"wasserstein1_mean_of_16_layers": wide.mean(axis=1)}
    places = {k: max(1, round(k * wide.shape[1] / 16)) for k in (1, 4, 8, 16)}
    columns |= {f"wasserstein1_layer{k}": wide[place] for k, place in places.items()}
    rows = rows_by_run(found, pd.DataFrame(columns))
    enough = len(pictures.label_names) == IMAGENET_CLASSES
    return rows.assign(as_in_paper=rows["as_in_paper"] & enough)


def distance_lines(distances: Distances) -> list[str]:
    """Say which method's features lie how far from the images', by layer and on the mean."""
    table, count, lines = distances.methods, len(distances.layers), []
    for scale, unit in _SCALES.items():
        means = table[(table["place"] == 0) & (table["scale"] == scale)].sort_values("distance")
        texts = [f"{row.method} {row.distance:.3g} ({spanned(row.low, row.high, '.3g')})"
                 for row in means.itertuples()]  # fmt: skip
        printed = ", as the paper prints it" if scale == "own unit" else ""
        lines.append(f"Mean over the {count} convolutions {unit}{printed}, nearest first, with "
                     f"95 % intervals: {', '.join(texts)}.")
    layers = table[(table["place"] > 0) & (table["scale"] == "relative")]
    layers = {method: part.set_index("place") for method, part in layers.groupby("method")}
    for method, control in CONTROLS.items():
        if method not in layers:
            continue
        mine = layers[method]
        above = int((mine["distance"] > 2 * mine["floor"]).sum())
        line = (f"{method}: clouds are more than twice as far from the pictures as one half of "
                f"the pictures from the other in {above} of {count} layers")
        if control in layers:
            nearer = int((mine["distance"] < layers[control]["distance"]).sum())
            line += (f"; nearer to its image network than {control} to its own in {nearer} of "
                     f"{count}, on the relative scale")
        lines.append(line + ".")
    return lines


def layer_distances(distances: Distances) -> Figure:
    """Draw the distance of image and cloud features: by layer, and the mean over the layers.

    By layer a thick line is the running mean of three layers, its band the 95 % interval, and
    dashes are one half of the pictures against the other; faint lines are the single layers.
    """
    table = distances.methods
    used = present(table["method"])
    figure, axes = plt.subplots(1, 3, figsize=(13.6, 4.8), layout="constrained",
                                width_ratios=[2.3, 1, 1])
    for method in used:
        part = table[(table["method"] == method) & (table["scale"] == "relative")]
        part = part[part["place"] > 0].sort_values("place")
        place, colour = part["place"], COLOURS[method]
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


def _forest(axis: Axes, table: pd.DataFrame, used: Sequence[str]) -> None:
    for place, (method, row) in enumerate(table.set_index("method").loc[list(used)].iterrows()):
        colour = COLOURS[method]
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


def dissection_lines(units: pd.DataFrame) -> list[str]:
    """Say how single-classed the units of each method are, against its control."""
    units = units.assign(excess=units["selectivity"] - units["selectivity_shuffled"])
    means = units.groupby(["method", "seed"], sort=False).mean(numeric_only=True)
    overall = means.groupby("method", sort=False).mean()
    selective = overall.sort_values("excess", ascending=False)
    lines = [
        f"Class entropy of the {TOP} clouds that activate a unit most, in bits, mean over units "
        f"and seeds, lowest first: {ranked(overall['entropy'].sort_values())}; "
        f"with shuffled labels {overall['entropy_shuffled'].mean():.2f}.",
        "Class selectivity above that of shuffled labels, highest first: "
        + ", ".join(f"{m} {row.excess:+.2f} ({row.selectivity:.2f})"
                    for m, row in selective.iterrows())
        + " (in brackets the selectivity itself).",
    ]  # fmt: skip
    for method, control in CONTROLS.items():
        if {method, control} <= set(overall.index):
            gaps = (means.loc[method] - means.loc[control]).dropna()
            lower, higher = int((gaps["entropy"] < 0).sum()), int((gaps["excess"] > 0).sum())
            lines.append(
                f"{method} against {control}: entropy {gaps['entropy'].mean():+.2f} bits, lower "
                f"in {lower} of {len(gaps)} seeds; selectivity above chance "
                f"{gaps['excess'].mean():+.2f}, higher in {higher} of {len(gaps)}."
            )
    return lines


def unit_grid(units: Sequence[tuple[Any, list, list]]) -> Figure:
    """Draw one row per unit: the pictures, then the clouds, that activate it most.

    units: its row of `dissection.unit_table`, (picture [S, S, 3] in 0..1, map [h, w]) and
    (points [P, 3], activations [P], class name).
    Pictures are dark where the unit is not active; points are yellow where it is.
    """
    if not units:
        figure, axis = plt.subplots(figsize=(6, 0.6))
        axis.set_axis_off()
        axis.text(0, 0.5, "No run of this method, or no unit that is ever active.")
        return figure
    left, right = (max(len(unit[side]) for unit in units) for side in (1, 2))
    figure, axes = plt.subplots(
        len(units), left + right + 1, squeeze=False, layout="constrained",
        figsize=(1.25 * (left + right) + 0.9, 1.36 * len(units) + 0.3),
        width_ratios=[1] * left + [0.75] + [1] * right,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (unit, pictures, clouds) in zip(axes, units, strict=True):
        for axis, (picture, values) in zip(row[:left], pictures, strict=False):
            axis.imshow(_lit(picture, values))
        caption = (f"unit {unit.unit}\nentropy {unit.entropy:.1f}\n"
                   f"selectivity {unit.selectivity:.2f}")
        row[left].text(0.5, 0.5, caption, ha="center", va="center", fontsize=8)
        for axis, (cloud, values, name) in zip(row[left + 1 :], clouds, strict=False):
            draw_cloud(axis, cloud, values, size=1.6)
            axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
            axis.set_title(name, fontsize=8, loc="center", fontweight="normal", pad=1)
    return figure


def _lit(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Darken a picture [S, S, 3] where the map [h, w] is low."""
    from PIL import Image

    scaled = Image.fromarray(values.astype(np.float32) / max(float(values.max()), 1e-12))
    light = np.asarray(scaled.resize(picture.shape[:2], Image.Resampling.BICUBIC))
    return picture * (0.35 + 0.65 * np.clip(1.6 * light, 0, 1))[:, :, None]
