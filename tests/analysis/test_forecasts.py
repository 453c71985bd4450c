"""Forecasts: a planted one is found, and none where there is none."""

import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")


def planted(slope, seeds=6):
    """Runs of two networks whose accuracy follows their starting CDNV with this slope."""
    rng = np.random.default_rng(0)
    start = np.arange(2 * seeds)
    value = np.where(start < seeds, 1.0, 3.0) + rng.random(2 * seeds)
    return pd.DataFrame({
        "group": "IO", "model": np.where(start < seeds, "a", "b"), "source": "random",
        "axis": "z", "normalize": True, "regime": "io", "seed": start % seeds,
        "start": start, "cdnv": value, "top1": 0.5 + slope * value,
    })


@pytest.mark.parametrize("slope, said", [(-0.1, "the better"), (0.1, "the worse")])
def test_a_planted_forecast_is_found_between_networks_and_within(slope, said):
    summary = chapter.forecast_table(planted(slope))
    row = summary.iloc[0]
    assert np.sign([row["rho"], row["within"]]).tolist() == [np.sign(slope)] * 2
    assert abs(row["within"]) > 0.99 and row["kinds"] == 2
    assert f"the more collapsed, {said}" in ' '.join(chapter.forecast_lines(summary))


def test_accuracy_that_has_nothing_to_do_with_collapse_forecasts_nothing():
    table = planted(0.0).assign(top1=np.random.default_rng(2).random(12))
    assert "nothing can be told" in ' '.join(chapter.forecast_lines(
        chapter.forecast_table(table)))
