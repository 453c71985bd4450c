"""Tables and sentences on how fast a target accuracy is reached (chapter 4, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import paper
from i2p_lib.analysis import metrics
from i2p_lib.analysis.methods import with_method
from i2p_lib.show import tables


def targets(histories: pd.DataFrame) -> dict[str, float]:
    """Return the accuracy at which speed is compared, for each network with runs from scratch.

    The rule is `metrics.common_target`'s: the paper's 90 % if every from-scratch run reaches it,
    else the highest whole step of 5 % that all of them reach; but at least 5 %.
    """
    curves = {model: curves_of(part, "scratch")
              for model, part in histories.groupby("model", sort=False)}
    return {model: metrics.common_target(found) or 0.05 for model, found in curves.items() if found}


def curves_of(histories: pd.DataFrame, method: str) -> list[list[float]]:
    """Return the validation accuracies by epoch of each seed of a method."""
    part = with_method(histories)
    part = part[part["method"] == method].sort_values("epoch")
    return [run["val_top1"].tolist() for _, run in part.groupby("seed")]


def time_to_target(histories: pd.DataFrame, goals: Mapping[str, float]) -> Styler:
    """Return, per network and method: accuracy after epoch 1, epochs and seconds by seed."""
    rows = []
    keys = ["model", "method"]
    for (model, method), part in with_method(histories).groupby(keys, observed=True, sort=False):
        if model not in goals:
            continue
        runs = [run.sort_values("epoch") for _, run in part.groupby("seed")]
        epochs = [metrics.epochs_to_target(run["val_top1"].tolist(), goals[model]) for run in runs]
        seconds = [None if n is None else run["seconds"].iloc[:n].sum()
                   for n, run in zip(epochs, runs, strict=True)]
        rows.append({
            "network": model,
            "method": method,
            "target (%)": f"{100 * goals[model]:.0f}",
            "after epoch 1 (%)": f"{100 * np.mean([r['val_top1'].iloc[0] for r in runs]):.1f}",
            "epochs to target": ", ".join("not reached" if n is None else str(n) for n in epochs),
            "seconds to target": ", ".join("-" if s is None else f"{s:.0f}" for s in seconds),
            "best (%)": f"{100 * np.mean([r['val_top1'].max() for r in runs]):.1f}",
        })
    return tables.table(pd.DataFrame(rows))


def speedups(
    histories: pd.DataFrame, goals: Mapping[str, float],
    methods: tuple[str, ...] = ("FIP-ALL", "FIP-IO+BN", "control IO+BN"),
) -> list[str]:  # fmt: skip
    """Say how many times fewer epochs than scratch each method needs (`metrics.speedup`)."""
    lines = []
    for model, goal in goals.items():
        part = histories[histories["model"] == model]
        slow = curves_of(part, "scratch")
        for method in methods:
            if fast := curves_of(part, method):
                gain = metrics.speedup(slow, fast, goal)
                lines.append(f"{model}, {method} against scratch, epochs to {100 * goal:.0f} %: "
                             f"{gain}.")
    return lines


def speedup_rows(histories: pd.DataFrame) -> pd.DataFrame:
    """Return Figure 3 as rows for `paper.compare`: accuracy after epoch 1, and epochs to 90 %.

    A run that never reaches the paper's 90 % has no second row.
    """
    rows = []
    part = with_method(histories)
    part = part[part["method"].isin(["scratch", "FIP-ALL"])]
    for _, run in part.groupby("key", sort=False):
        run = run.sort_values("epoch")
        curve, first = run["val_top1"].tolist(), run.iloc[0]
        key = {"dataset": first["data"], "model": first["model"],
               "method": paper.method_name(first["regime"], first["weights"]),
               "pretraining": "none" if first["weights"] == "random" else first["weights"]}
        rows.append(key | {"metric": "top1_after_epoch_1", "value": 100 * curve[0]})
        epochs = metrics.epochs_to_target(curve, 0.9)
        if epochs is not None:
            rows.append(key | {"metric": "epochs_to_90", "value": epochs})
    return pd.DataFrame(rows)
