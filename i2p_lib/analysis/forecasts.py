"""Forecasts: does collapse before training rank runs as their accuracy after it does?"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pandas as pd

from i2p_lib.analysis.bootstrap import rank_correlation

COLUMNS = ("group", "runs", "starts", "sources", "rho", "low", "high", "within", "within_low",
           "within_high")  # fmt: skip


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
        sizes = len(part), part["start"].nunique(), kinds.ngroups
        rows.append((group, *sizes, *astuple(whole), *astuple(within)))
    return pd.DataFrame(rows, columns=COLUMNS)
