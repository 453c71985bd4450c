"""The learning rates: one grid for every method, judged on the validation split alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from i2p_lib.analysis.methods import with_method

GRID_FILE = Path(__file__).parents[1] / "recorded" / "tuning-home_objects-cpu.csv"
COLUMNS = ("weights", "regime", "lr", "seed", "val_top1")


def read_grid(path: str | Path = GRID_FILE) -> pd.DataFrame:
    """Read the table that `i2p results --profile tuning` wrote, with a column ``method``.

    Raises ValueError where a column is missing, a row was judged on the test split, or the
    methods were not tried on the same learning rates and seeds.
    """
    table = pd.read_csv(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}; {missing} missing")
    if "top1" in table:
        raise ValueError(f"{path} holds test accuracies (top1): learning rates are chosen "
                         "without them")
    table = with_method(table)
    tried = {
        method: frozenset(zip(rows["lr"], rows["seed"], strict=True))
        for method, rows in table.groupby("method", observed=True)
    }
    if len(set(tried.values())) > 1 or table.duplicated(["method", "lr", "seed"]).any():
        raise ValueError(f"{path}: the methods were not tried on the same learning rates "
                         "and seeds")
    return table


def best_learning_rates(grid: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate: the highest mean validation accuracy over seeds.

    Of learning rates with equal means the smaller one is taken.
    """
    means = grid.groupby(["method", "lr"], observed=True)["val_top1"].mean()
    best = means.groupby("method", observed=True).idxmax()  # the first, so the smaller rate
    return {method: float(lr) for method, (_, lr) in best.items()}
