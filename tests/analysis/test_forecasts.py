"""Forecasts: a planted one is found, and none where there is none, as often as is stated."""

import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")


def planted(slope, rng, seeds=3, noise=0.0):
    """Runs of two networks by three regimes; accuracy follows the starting CDNV with this slope.

    The three runs of one starting network share its CDNV, and half of their luck.
    """
    rows = []
    for network in ("a", "b"):
        for seed in range(seeds):
            start = 10 * (network == "b") + rng.normal()
            luck = noise * rng.normal()
            rows += [{
                "group": regime, "setting": network + regime, "start": f"{network}{seed}",
                "cdnv": start, "top1": (network == "b") + slope * start + luck
                + noise * rng.normal()} for regime in ("IO", "IO+BN", "ALL")]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("slope, said", [(-0.1, "the better"), (0.1, "the worse")])
def test_a_planted_forecast_is_found(slope, said):
    summary = chapter.forecast_table(planted(slope, np.random.default_rng(0), seeds=5))
    assert summary["rho"].tolist() == pytest.approx([np.sign(slope)] * 4)
    assert summary["p"].isna().tolist() == [True, True, True, False]
    row = summary.iloc[-1]
    assert (row["runs"], row["starts"], row["settings"]) == (30, 10, 6)
    assert f"the more collapsed, {said}" in " ".join(chapter.forecast_lines(summary))


def test_networks_that_differ_forecast_nothing():
    """Promise: two networks, one less collapsed and better, and nothing else, are no forecast."""
    table = planted(0.0, np.random.default_rng(1), noise=0.1)
    summary = chapter.forecast_table(table)
    assert abs(summary["rho"].iloc[-1]) < 0.9
    assert "nothing can be told" in " ".join(chapter.forecast_lines(summary))


def test_a_single_seed_forecasts_nothing():
    summary = chapter.forecast_table(planted(1.0, np.random.default_rng(0), seeds=1))
    assert summary.empty and "No setting has runs" in chapter.forecast_lines(summary)[0]


def test_null_data_are_called_a_forecast_no_more_often_than_stated(monkeypatch):
    """Promise: runs that share starting networks and luck do not make a forecast of chance."""
    few = chapter.seed_correlation
    monkeypatch.setitem(chapter.forecast_table.__globals__, "seed_correlation",
                        lambda *sides: few(*sides, draws=199))
    random, wrong, trials = np.random.default_rng(2), 0, 150
    for _ in range(trials):
        row = chapter.forecast_table(planted(0.0, random, noise=1.0)).iloc[-1]
        wrong += chapter.verdict(row) != "nothing can be told"
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)
