"""Ours beside the paper's: an item of the paper as a chapter shows it."""

from collections.abc import Mapping, Sequence

import pandas as pd

from i2p_lib import paper
from i2p_lib.runs import RunResult, results

STAND_INS = {"efficientnet_lite0": "resnet50"}
"""Our network of the offline profiles -> the paper's network in whose row it is shown."""


def versus_paper(item: str, runs: pd.DataFrame | None, profile: str, figures: Sequence[str] = (),
                 stand_in: Mapping[str, str] = STAND_INS) -> str:
    """Return an item's values beside the paper's as HTML; also attached to the output of the cell.

    runs: a table of runs, or rows that `paper.compare` takes; None or no rows where nothing ran.
    figures: labels of the figures that show the item.  stand_in: our network -> the paper's, in
    whose row it is shown.  Raises ValueError for an item that is not the paper's.
    """
    rows = None if runs is None or runs.empty else runs
    if rows is not None and "regime" in rows:
        rows = paper.rows_of_runs(rows)
    table = paper.compare(item, rows, stand_in=stand_in)
    paper.attach(item, table, profile, figures)
    return paper.comparison_html(table)


def rows_by_run(found: Sequence[RunResult], values: pd.DataFrame) -> pd.DataFrame:
    """Return values as rows for `paper.compare`: a row per run (index: its key) and metric."""
    table = results(found).set_index("key").loc[values.index].reset_index()
    parts = [paper.rows_of_runs(table.assign(value=values[metric].to_numpy()), metric, "value")
             for metric in values]  # fmt: skip
    return pd.concat(parts, ignore_index=True)
