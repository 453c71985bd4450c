"""Forecasts: does collapse before training rank runs as their accuracy after it does?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from i2p_lib.analysis.bootstrap import rank_correlation


def forecast_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return how starting CDNV and final accuracy correlate, one row a group of four runs or more.

    runs     columns group (what was trained), model, weights, start (the network before training),
             cdnv (before training) and top1 (after it)
    Returns rho, low, high: over all runs, drawing starting networks; within, within_low and
    within_high: the same once the means of each network and source are taken off, over what
    seeds alone decide.
    """
    rng, rows = np.random.default_rng(0), []
    for group, part in runs.groupby("group", sort=False):
        if len(part) < 4:
            continue
        kinds = part.groupby(["model", "weights"])
        apart = {name: part[name] - kinds[name].transform("mean") for name in ("cdnv", "top1")}
        whole = rank_correlation(part["cdnv"], part["top1"], part["start"], rng)
        within = rank_correlation(apart["cdnv"], apart["top1"], part["start"], rng)
        rows.append({
            "group": group, "runs": len(part), "starts": part["start"].nunique(),
            "sources": kinds.ngroups, "rho": whole.value, "low": whole.low, "high": whole.high,
            "within": within.value, "within_low": within.low, "within_high": within.high,
        })  # fmt: skip
    return pd.DataFrame(rows)
