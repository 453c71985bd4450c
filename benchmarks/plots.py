"""Plots of the speed tables, in the look of the other plots; one function per figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.goals import HALF, INPUT_STAGES, LEAST_VOXELS, OURS, growth_exponents
from i2p_lib.show.style import plain_log

ENGINES: dict[str, str] = {
    OURS: "#2563c9", HALF: "#4f93d8", "spconv": "#cf6f1b", "ocnn": "#0f9d76", "dense": "#868d99",
    "torch": "#374151",
}  # fmt: skip
"""Name of each engine -> its colour."""
STAGES = dict(zip((*INPUT_STAGES, "step"), ("#a98213", "#cf6f1b", "#a94488", "#2563c9"),
                  strict=True))  # fmt: skip


def gemm_shares(layers: pd.DataFrame) -> Figure:
    """Share of the GEMM peak of submanifold convolutions over voxels: ours, and spconv's."""
    rows = layers[(layers["layer"] == "submanifold 3") & layers["engine"].isin([OURS, "spconv"])]
    shown = [engine for engine in (OURS, "spconv") if (rows["engine"] == engine).any()]
    figure, axes = plt.subplots(1, len(shown), figsize=(1.6 + 4.3 * len(shown), 4.2), sharey=True,
                                squeeze=False, layout="constrained")
    widths = sorted(rows["channels"].unique())
    colours = dict(zip(widths, sns.color_palette("crest", len(widths)), strict=True))
    for axis, engine in zip(axes[0], shown, strict=True):
        for channels, line in rows[rows["engine"] == engine].groupby("channels"):
            line = line.sort_values("voxels")
            axis.plot(line["voxels"], line["gemm_share"], color=colours[channels], linewidth=2.2,
                      marker="o", markersize=5, label=f"{channels} channels")
        axis.set_title(engine)
        axis.set_xlabel("voxels")
        _voxels(axis)
    axes[0, 0].set_ylabel("share of the GEMM peak,\nforward + backward, existing pairs")
    axes[0, 0].set_ylim(0, max(1.0, 1.05 * rows["gemm_share"].max()))
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, 0))
    for channels, goal in ((64, 0.65), (256, 0.80)):
        if channels in colours:
            axes[0, 0].axhline(goal, color=colours[channels], linestyle=":", linewidth=1.4)
            axes[0, 0].annotate(f"goal at {channels} channels", (1, goal), ha="right", va="top",
                                xycoords=("axes fraction", "data"), xytext=(0, -3),
                                textcoords="offset points")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    return figure


def peer_ratios(layers: pd.DataFrame) -> Figure:
    """Each peer's time over ours, forward + backward: a dot per case, a row per kind of layer."""
    rows = layers[~layers["engine"].isin([OURS, HALF])]
    kinds = list(dict.fromkeys(rows["layer"]))[::-1]
    engines = [name for name in ENGINES if (rows["engine"] == name).any()]
    figure, axis = plt.subplots(figsize=(9.2, 1.3 + 0.62 * len(kinds)), layout="constrained")
    sizes = np.log10(rows["voxels"].clip(lower=100))
    for number, engine in enumerate(engines):
        part = rows[rows["engine"] == engine]
        place = part["layer"].map(kinds.index) + 0.56 * ((number + 0.5) / len(engines) - 0.5) * -1
        small = part["voxels"] <= LEAST_VOXELS
        axis.scatter(part["times_ours"], place, s=11 * (sizes[part.index] - 1.8) ** 2 + 6,
                     c=[ENGINES[engine]], alpha=np.where(small, 0.35, 0.85), edgecolor="white",
                     linewidth=0.5, zorder=3)
        axis.scatter([], [], s=45, color=ENGINES[engine], label=engine)
    axis.axvline(1, color="#1f2937", linewidth=1.2, zorder=2)
    axis.annotate("ours faster →", (1, 1), xycoords=("data", "axes fraction"), xytext=(5, 4),
                  textcoords="offset points", color="#1f2937")
    plain_log(axis, "x")
    axis.set_yticks(range(len(kinds)), kinds)
    axis.set_ylim(-0.6, len(kinds) - 0.4)
    axis.set_xlabel("time of the peer over ours (larger dots: more voxels; "
                    f"faint: at most {LEAST_VOXELS:,})")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def step_bars(steps: pd.DataFrame) -> Figure:
    """Seconds of a training step per network and engine, the time over ours at each bar."""
    rows = steps.dropna(subset=["step_s"])
    networks = list(dict.fromkeys(rows["network"]))
    figure, axes = plt.subplots(1, len(networks), figsize=(1.2 + 3.1 * len(networks), 3.4),
                                squeeze=False, layout="constrained")
    for axis, network in zip(axes[0], networks, strict=True):
        part = rows[rows["network"] == network].set_index("engine")
        used = [engine for engine in ENGINES if engine in part.index]
        for place, engine in enumerate(used):
            seconds, times = part.loc[engine, ["step_s", "times_ours"]]
            axis.bar(place, seconds, color=ENGINES[engine], width=0.72, zorder=2)
            axis.annotate(f"{seconds:.2f} s" + ("" if engine == OURS else f"\n{times:.2f} x"),
                          (place, seconds), xytext=(0, 4), textcoords="offset points",
                          ha="center", color="#1f2937")
        axis.set_xticks(range(len(used)), [engine.replace(", ", ",\n") for engine in used])
        axis.set_ylim(0, 1.22 * part["step_s"].max())
        axis.set_title(network)
        axis.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("seconds per training step")
    return figure


def growth_curves(growth: pd.DataFrame) -> Figure:
    """Seconds over voxels on logarithmic axes with fitted exponents, and the cost of one voxel."""
    exponents = growth_exponents(growth)
    names = list(dict.fromkeys(growth["what"]))
    figure, (whole, each) = plt.subplots(1, 2, figsize=(10.6, 4.2), layout="constrained")
    for name, colour in zip(names, sns.color_palette("deep", len(names)), strict=True):
        line = growth[growth["what"] == name].sort_values("voxels")
        power = f"\nexponent {exponents[name]:.2f}" if name in exponents else ""
        style = {"color": colour, "marker": "o", "markersize": 5, "linewidth": 2.2}
        whole.plot(line["voxels"], line["seconds"], label=name + power, **style)
        each.plot(line["voxels"], 1e6 * line["seconds"] / line["voxels"], **style)
    ends = np.array([growth["voxels"].min(), growth["voxels"].max()], dtype=float)
    lowest = (growth["seconds"] / growth["voxels"]).min() / 2
    whole.plot(ends, lowest * ends, color="#6b7280", linestyle=":", label="proportional")
    whole.set(xlabel="voxels", ylabel="processor seconds", yscale="log")
    each.set(xlabel="voxels", ylabel="processor microseconds per voxel", ylim=(0, None))
    for axis in (whole, each):
        _voxels(axis)
    figure.legend(loc="outside right center")
    return figure


def input_bars(pipeline: pd.DataFrame) -> Figure:
    """The stages of a training step as shares of it, per network."""
    rows = pipeline[pipeline["stage"].isin(STAGES)]
    networks = list(dict.fromkeys(rows["network"]))[::-1]
    figure, axis = plt.subplots(figsize=(8.2, 1.2 + 0.6 * len(networks)), layout="constrained")
    left = np.zeros(len(networks))
    for stage, colour in STAGES.items():
        part = rows[rows["stage"] == stage].set_index("network").loc[networks]
        axis.barh(networks, part["share"], left=left, color=colour, label=stage, height=0.62,
                  zorder=2)
        left += part["share"].to_numpy()
    for place, network in enumerate(networks):
        share = rows[(rows["network"] == network) & (rows["stage"] != "step")]["share"].sum()
        axis.annotate(f"input {100 * share:.1f} %", (max(share, 0.1), place),
                      xytext=(6, 0), textcoords="offset points", va="center",
                      color="white", fontweight="bold", zorder=4)
    axis.axvline(0.1, color="#111827", linestyle="--", linewidth=1, zorder=3)
    axis.annotate("goal: 10 %", (0.1, 1), xycoords=("data", "axes fraction"), xytext=(4, 3),
                  textcoords="offset points")
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axis.set_xlabel("share of a training step, its input included")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _voxels(axis: Axes) -> None:
    """A logarithmic axis of voxel numbers."""
    axis.set_xscale("log")
    axis.set_xticks([1e3, 1e4, 1e5], ["1,000", "10,000", "100,000"])
    axis.minorticks_off()

