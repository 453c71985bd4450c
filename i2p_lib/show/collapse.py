"""Tables and sentences on the probes of collapse (chapter 5)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

from i2p_lib.analysis.methods import CONTROLS, with_method
from i2p_lib.show import tables, text
from i2p_lib.show.style import COLLAPSE_TITLES


def collapse_summary(
    probes: pd.DataFrame, layer: str = "penultimate", by: Sequence[str] = ("method", "split")
) -> Styler:
    """Return means over runs of each measure after training, for each value of `by`."""
    probes = with_method(probes[probes["layer"] == layer])
    last = probes[probes["epoch"] == probes.groupby("key")["epoch"].transform("max")]
    table = last.pivot_table(index=list(by), columns="metric", values="value", observed=True)
    measures = [m for m in COLLAPSE_TITLES if m in table]
    styled = tables.table(table[measures].rename_axis(columns=None).reset_index(), precision=3)
    if "shots" in by:  # other shots are other tasks, which no colour should compare
        return styled
    return styled.background_gradient(cmap="Blues_r", axis=0, subset=measures)


def final_cdnv(probes: pd.DataFrame, runs: pd.DataFrame, epoch: int | None = None) -> pd.DataFrame:
    """Return one row per run: test CDNV of the last features at an epoch (default: the last)."""
    epoch = probes["epoch"].max() if epoch is None else epoch
    chosen = probes[(probes["layer"] == "penultimate") & (probes["split"] == "test")
                    & (probes["metric"] == "cdnv") & (probes["epoch"] == epoch)]
    cdnv = chosen[["key", "value"]].rename(columns={"value": "cdnv"})
    return with_method(runs.merge(cdnv, on="key"))


def collapse_lines(probes: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Say what the probes hold about collapse before and after training, and accuracy."""
    lines = []
    for epoch, moment in ((0, "before training"), (int(probes["epoch"].max()), "after training")):
        table = final_cdnv(probes, runs, epoch)
        means = table.groupby("method", observed=True)["cdnv"].mean().sort_values()
        lines.append(f"CDNV of the test features {moment}, most collapsed first: "
                     f"{text.ranked(means)}.")
        if len(table) > 3:
            rho, p = spearmanr(table["cdnv"], table["top1"])
            lines.append(f"Over the {len(table)} runs, CDNV {moment} and final test accuracy have "
                         f"the rank correlation {rho:+.2f} (p = {p:.2g}).")
    return lines


def collapse_answer(probes: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Say whether image weights collapse clouds before training, and each method after it."""
    start, end = (final_cdnv(probes, runs, epoch) for epoch in (0, None))
    before, after = (t.groupby("method", observed=True)["cdnv"].mean() for t in (start, end))
    random = start["weights"] == "random"
    lines = []
    if random.any() and not random.all():
        images, none = start["cdnv"][~random].mean(), start["cdnv"][random].mean()
        lines.append(f"Before training, test clouds have a CDNV of {images:.2f} in networks of "
                     f"image weights, and of {none:.2f} in networks of random weights.")
    for method, control in CONTROLS.items():
        if {method, control} <= set(after.index):
            lines.append(f"Training takes {method} from {before[method]:.2f} to "
                         f"{after[method]:.2f}, and {control} from {before[control]:.2f} to "
                         f"{after[control]:.2f}.")
    return lines + [line for line in collapse_lines(probes, runs) if "CDNV after training" in line]
