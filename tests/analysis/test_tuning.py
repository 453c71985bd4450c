"""Rates are chosen by one rule, from one grid for all methods, without the test split."""

import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib.analysis.methods import method_label
from i2p_lib.runs.profiles import load_profile
from i2p_lib.sources import PACKAGE

RECORDED = PACKAGE / "recorded" / "tuning-home_objects-cpu.csv"
chapter = chapter_functions(PACKAGE.parent / "notebooks" / "01_transfer.ipynb")
best_learning_rates, read_grid = chapter.best_learning_rates, chapter.read_grid


def rows(accuracies, **changes):
    """One row per (weights, regime, lr, seed); accuracies: {(weights, regime): [per rate]}."""
    return pd.DataFrame([
        {"weights": weights, "regime": regime, "lr": lr, "seed": seed, "val_top1": value} | changes
        for (weights, regime), values in accuracies.items()
        for lr, value in zip((1e-3, 1e-2), values, strict=True)
        for seed in (10, 11)
    ])  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    def save(table):
        table.to_csv(tmp_path / "grid.csv", index=False)
        return tmp_path / "grid.csv"

    return save


def test_the_best_mean_wins_and_of_equals_the_smaller_rate(saved):
    grid = rows({("random", "all"): [0.5, 0.4], ("imagenet1k", "io"): [0.3, 0.3]})
    grid.loc[(grid["regime"] == "all") & (grid["lr"] == 1e-2) & (grid["seed"] == 10),
             "val_top1"] = 0.55  # a single lucky seed; the mean stays below
    chosen = best_learning_rates(read_grid(saved(grid)))
    assert chosen == {"scratch": 1e-3, "FIP-IO": 1e-3}


def test_the_chosen_rate_is_the_bold_one(saved):
    html = chapter.grid_table(read_grid(saved(rows({("random", "all"): [0.25, 0.5]})))).to_html()
    assert "50.0 ± 0.0" in html and "25.0 ± 0.0" in html
    assert html.count("font-weight: bold") == 1 and "_row0_col1 {\n  font-weight: bold" in html


def test_a_best_rate_at_an_end_of_the_grid_is_said(saved):
    three = rows({("random", "all"): [0.2, 0.5]})
    inside = pd.concat([three, three[three["lr"] == 1e-3].assign(lr=1e-1)])
    assert "an end of the grid: scratch." in chapter.grid_table(read_grid(saved(three))).to_html()
    assert "an end of the grid: none." in chapter.grid_table(read_grid(saved(inside))).to_html()


def test_unequal_trials_and_test_accuracies_are_refused(saved):
    grid = rows({("random", "all"): [0.5, 0.4], ("imagenet1k", "io"): [0.3, 0.3]})
    with pytest.raises(AssertionError, match="not tried on the same learning rates"):
        read_grid(saved(grid.iloc[:-1]))
    with pytest.raises(AssertionError, match="not tried on the same learning rates"):
        read_grid(saved(pd.concat([grid, grid])))
    with pytest.raises(AssertionError, match="without test accuracies"):
        read_grid(saved(grid.assign(top1=0.5)))
    with pytest.raises(KeyError, match="val_top1"):
        best_learning_rates(read_grid(saved(grid.drop(columns="val_top1"))))


def test_the_demo_uses_the_rates_that_the_committed_grid_chooses():
    """And the seeds that chose the rates are not those that are reported."""
    grid = read_grid(RECORDED)
    planned = load_profile("tuning").all_specs()
    columns = ["weights", "regime", "lr", "seed"]
    ran = set(grid[columns].itertuples(index=False, name=None))
    assert ran == {(s.weights, s.regime, s.lr, s.seed) for s in planned}
    chosen = best_learning_rates(grid)
    for spec in load_profile("demo").experiment("regimes"):
        for name in ("data", "model", "recipe", "augment", "voxel_size", "epochs", "batch_size"):
            assert getattr(spec, name) == getattr(planned[0], name)
        assert spec.lr == chosen[method_label(spec.weights, spec.regime.replace("+ms", ""))]
        assert spec.seed not in set(grid["seed"])
