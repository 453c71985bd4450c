"""The page "How fast": goals, figures and times of the sparse engine, from the measured tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import goals as speed
from benchmarks import plots as speed_plots
from i2p_lib.markup import cell, chip, duration, fold, html_table, raw, table
from i2p_lib.show.picture import as_svg
from i2p_lib.show.style import use_style

RESULTS = Path(__file__).with_name("results")
BEFORE_AFTER = "demo_before_after"
Draw = Callable[[pd.DataFrame], Figure]


def how_fast(figures: Path, results: Path = RESULTS) -> str:
    """Return the page of a folder's tables, and write its figures into `figures`.

    Raises ValueError where a file's name cannot be a heading.
    """
    machines = speed.read_results(results)
    parts = [_machine(name, tables, figures, results) for name, tables in machines.items()]
    return (
        "# How fast\n\n"
        "The book trains its networks with a sparse convolution of its own.\n"
        "This page compares it with the sparse engines that can be had by pip, each in the same "
        "process and on the same maps, and with what the machine can do at all.\n\n"
        "- Times are processor times on one thread, because each training worker uses one; "
        "they are medians of rounds in which all engines take turns.\n"
        "- Before an engine is timed on a layer, its output and its gradient must equal ours; "
        "on a whole network, its loss.\n"
        "- *spconv* and *ocnn* run their own kernels on our maps; building the maps is measured "
        "apart.\n"
        "- *GEMM peak* is the rate of a 1024 x 1024 float32 matrix product, measured between the "
        "layers; only pairs of voxels that exist count as work.\n\n"
        f"{''.join(parts) or 'Nothing was measured yet.'}"
    )


def _machine(
    name: str, tables: dict[str, pd.DataFrame], figures: Path, results: Path
) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{results}: expected letters, digits, - and _ in a name, got {name!r}")
    texts = [f"## On {name}\n\n{_provenance(tables)}\n### Goals\n\n{_goals(tables)}\n"]
    layers = speed.measured_layers(tables)
    if layers is not None:
        texts.append("### Layers\n\n" + _figure(
            speed_plots.gemm_shares, layers, figures, name,
            "Submanifold convolutions of kernel 3: the share of the GEMM peak that they reach.",
        ) + _figure(
            speed_plots.peer_ratios, layers, figures, name,
            "Time of the other engines over ours, forward and backward, every layer and voxel set.",
        ) + _all_layers(layers))
    if "steps" in tables:
        texts.append("### Training steps\n\n" + _figure(
            speed_plots.step_bars, tables["steps"], figures, name,
            "A training step at the demo's setting: the same inflated network, its convolutions "
            "run by each engine. The maps are there already.",
        ) + _steps(tables["steps"]))
    if "pipeline" in tables:
        texts.append("### What comes before a step\n\n" + _figure(
            speed_plots.input_bars, tables["pipeline"], figures, name,
            "Augmentation, voxelisation and kernel maps as shares of a training step.",
        ) + _epochs(tables["pipeline"]))
    if "growth" in tables:
        texts.append("### Cost over voxels\n\n" + _figure(
            speed_plots.growth_curves, tables["growth"], figures, name,
            "One closed surface in finer and finer voxels; layers of 32 channels, forward and "
            "backward.",
        ))
    return "\n".join([*texts, _before_after(results / f"{BEFORE_AFTER}-{name}.csv")])


def _figure(draw: Draw, rows: pd.DataFrame, folder: Path, machine: str, caption: str) -> str:
    """Draw a figure to an SVG file, the same bytes for the same table; return its directive."""
    name = f"how_fast-{draw.__name__}-{machine}".lower()
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context():
        use_style()
        figure = draw(rows)
        svg, about = as_svg(figure)
        plt.close(figure)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return (f"```{{figure}} {folder.name}/{name}.svg\n:name: {name.replace('_', '-')}\n"
            f":alt: {caption} {about['alt']}\n\n{caption}\n```\n\n")


def _provenance(tables: dict[str, pd.DataFrame]) -> str:
    """Return machine, versions, state of the source, dates and command, as the tables say."""
    rows = pd.concat([table for table in tables.values()])

    def all_of(column: str) -> str:
        return cell(", ".join(sorted(map(str, rows[column].dropna().unique()))))

    text = (
        f"{all_of('cpu')}, {all_of('cores')} cores, vectors {all_of('vector')}, "
        f"GPU {all_of('gpu')}; {all_of('threads')} thread; Python {all_of('python')}, "
        f"torch {all_of('torch')}, numba {all_of('numba')}; peers: {all_of('peers')}; "
        f"measured on {all_of('date')} with <code>{all_of('command')}</code> at source "
        f"<code>{all_of('source')}</code>."
    )
    return raw(f'<p class="i2p-run">{text}</p>')


def _goals(tables: dict[str, pd.DataFrame]) -> str:
    rows = []
    for verdict in speed.evaluate(tables):
        goal, reading = verdict.goal, verdict.reading
        word = {True: "met", False: "missed", None: "not measured"}[verdict.met]
        decided = f"<br>Decided by: {cell(reading.where)}" if reading else ""
        text = (f"<strong>{cell(goal.name)}</strong><br>"
                f"<small>{cell(goal.how)}{decided}</small>")
        sign = "≥" if goal.least else "≤"
        rows.append([
            text, f"{sign} {goal.bound:g}",
            f"{reading.value:.3g}" if reading else "",
            f"{verdict.ratio:.2f}" if reading else "", chip(word),
        ])  # fmt: skip
    note = "A ratio of 1 or more means that a goal is met; the hardest case decides.\n\n"
    return note + table(["goal", "bound", "value", "ratio", "verdict"], rows, [1, 2, 3])


def _all_layers(layers: pd.DataFrame) -> str:
    """Return every layer with its times, as a table to unfold."""
    rows = [[
        cell(row["layer"]), cell(row["channels"]), f"{row['voxels']:,}", cell(row["engine"]),
        f"{1e3 * row['forward_s']:.2f}", f"{1e3 * row['both_s']:.2f}", f"{row['times_ours']:.2f}",
    ] for row in layers.to_dict("records")]  # fmt: skip
    columns = ["layer", "channels", "voxels", "engine", "forward (ms)", "both (ms)", "over ours"]
    times = html_table(columns, rows, [1, 2, 4, 5, 6])
    return raw(fold(f"All {len(rows)} times", times)) + "\n"


def _steps(steps: pd.DataFrame) -> str:
    rows = []
    for row in steps.to_dict("records"):
        ran = pd.notna(row["step_s"])
        note = "" if pd.isna(row["note"]) else f"<br><small>{cell(row['note'])}</small>"
        rows.append([
            cell(row["network"]), cell(row["engine"]) + note,
            f"{1e3 * row['step_s']:.0f}" if ran else "",
            f"{row['times_ours']:.2f}" if ran else "",
            *("" if pd.isna(row[kind]) else f"{row[kind] / 2**20:.0f}"
              for kind in ("saved_bytes", "peak_bytes")),
        ])  # fmt: skip
    columns = ["network", "engine", "step (ms)", "over ours", "saved (MiB)", "peak (MiB)"]
    return table(columns, rows, [2, 3, 4, 5])


def _epochs(pipeline: pd.DataFrame) -> str:
    rows = [[cell(row["network"]), "bf16" if row["amp"] == "bf16" else "float32",
             str(int(row["clouds"])), f"{row['seconds']:.1f}"]
            for row in pipeline[pipeline["stage"] == "epoch"].to_dict("records")]
    note = "An epoch of the demo from end to end, its validation included:\n\n"
    return note + table(["network", "format", "clouds", "processor seconds"], rows, [2, 3])


def _before_after(file: Path) -> str:
    """Return the demo's training times at two states of the source, where they were recorded."""
    if not file.is_file():
        return ""
    rows = pd.read_csv(file, keep_default_na=False)
    seconds = rows.groupby("state")["training_seconds"].sum()
    cells = [[cell(value) for value in row] for row in rows.to_numpy()]
    return (
        "### The whole demo, before and after\n\n"
        f"All training runs of the demo took {cell(duration(seconds['before']))} before and "
        f"{cell(duration(seconds['after']))} after, a ratio of "
        f"{seconds['before'] / seconds['after']:.2f}.\n\n{table(list(rows.columns), cells)}\n"
    )
