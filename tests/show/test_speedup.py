"""Targets, epochs and seconds to them, and Figure 3's rows follow from the histories alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_notebooks import chapter_functions

from i2p_lib.analysis.methods import with_method
from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "04_training_speedup.ipynb")


def history(weights, curve, seed=0, model="efficientnet_lite0", regime="all"):
    epochs = np.arange(1, len(curve) + 1)
    return with_method(pd.DataFrame({
        "epoch": epochs, "val_top1": curve, "seconds": 2.0, "weights": weights, "regime": regime,
        "seed": seed, "model": model, "data": "home_objects",
        "key": f"{weights}{seed}{model}{regime}"}))  # fmt: skip


def test_the_target_looks_at_scratch_alone():
    runs = pd.concat([history("random", [0.2, 0.43], 0), history("random", [0.3, 0.52], 1),
                      history("imagenet1k", [0.7, 0.8]), history("imagenet1k", [0.1], model="b")])
    curves = chapter.curves_of(runs, "efficientnet_lite0", "scratch")
    assert curves == {0: [0.2, 0.43], 1: [0.3, 0.52]}
    assert chapter.common_target(curves.values()) == 0.40
    assert not chapter.curves_of(runs, "b", "scratch")


def test_the_common_target_follows_its_rule():
    """Promise: 90 % where every scratch run gets there, else the highest 5 % step all reach."""
    assert chapter.common_target([[0.2, 0.95], [0.91]]) == 0.90
    assert chapter.common_target([[0.2, 0.95], [0.89]]) == 0.85
    assert chapter.common_target([[0.1, 0.34], [0.52]]) == 0.30
    assert chapter.common_target([[0.049]]) == 0.05


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=4))
def test_every_scratch_run_reaches_the_common_target(curves):
    """Promise: whatever the curves, the target is reached by all of them, if any step is."""
    target = chapter.common_target(curves)
    if target > 0.05 or min(map(max, curves)) >= 0.05:
        assert all(chapter.epochs_from_scratch(curve, target) for curve in curves)


def test_time_to_target_counts_epochs_and_seconds_of_every_seed():
    runs = pd.concat([history("random", [0.2, 0.3, 0.4], 0), history("random", [0.4, 0.5, 0.5], 1),
                      history("imagenet1k", [0.1, 0.2, 0.2])])
    table = chapter.time_to_target(runs, {"efficientnet_lite0": 0.4}).data.set_index("method")
    assert table.loc["scratch", "epochs to target"] == "3, 1"
    assert table.loc["scratch", "seconds to target"] == "6, 2"
    assert table.loc["FIP-ALL", "epochs to target"] == "not reached"
    assert table.loc["scratch", "after epoch 1 (%)"] == "30.0"


def test_epochs_count_from_one_and_never_is_none():
    """Promise: the first epoch at the target counts, also where the curve falls again."""
    assert chapter.epochs_from_scratch([0.9, 0.5], 0.9) == 1
    assert chapter.epochs_from_scratch([0.1, 0.95, 0.2, 0.97], 0.9) == 2
    assert chapter.epochs_from_scratch([0.1, 0.2], 0.9) is None


def test_speedup_of_the_papers_epochs():
    """Promise: 122 epochs against 11 is the paper's 11.1x."""
    said = chapter.speedup({0: [0] * 121 + [0.9]}, {0: [0] * 10 + [0.9]}, 0.9)
    assert said == "11.09x (11.09 to 11.09 in one pair of runs)"


def test_speedup_names_what_is_not_known():
    """Promise: seeds that never arrive are not dropped; slow ones leave a lower bound."""
    fast = {0: [0.5, 0.9], 1: [0.9, 0.9]}
    slow = {0: [0.1] * 12, 1: [0.1, 0.1, 0.9]}
    assert chapter.speedup(slow, fast, 0.9).startswith("more than 5.00x")
    assert chapter.speedup({0: [0.9]}, {0: [0.1], 1: [0.9]}, 0.9) == "target not reached"
    assert chapter.speedup({0: [0.9]}, {1: [0.9]}, 0.9) == "no seed of both"


def test_a_speedup_is_of_the_seeds_that_both_have():
    """Promise: ratios of pairs of one seed, whatever the order; a seed of one side is left out."""
    slow = {1: [0, 0, 0, 0.9], 0: [0, 0.9], 2: [0] * 9}
    said = chapter.speedup(slow, {0: [0, 0.9], 1: [0.9]}, 0.9)
    assert said == "2.00x (1.00 to 4.00 in 2 pairs of runs)"


def test_speedup_sentences_give_the_ratio_of_mean_epochs():
    runs = pd.concat([history("random", [0.1, 0.2, 0.3, 0.4]), history("imagenet1k", [0.4] * 4)])
    (line,) = chapter.speedups(runs, {"efficientnet_lite0": 0.4})
    assert "epochs to 40 %: 4.00x" in line


def test_figure_3_rows_hold_epoch_one_and_ninety_per_cent():
    runs = pd.concat([history("random", [0.5, 0.6]), history("imagenet1k", [0.7, 0.95]),
                      history("imagenet1k", [0.99, 0.99], regime="io")])
    rows = chapter.figure_3(runs)
    first = rows[rows["metric"] == "top1_after_epoch_1"].set_index("method")["value"]
    assert first.to_dict() == pytest.approx({"scratch": 50, "fip-all": 70})
    assert rows.query("metric == 'epochs_to_90'")[["method", "value"]].values.tolist() == [
        ["fip-all", 2]]


def test_tables_escape_what_they_show():
    runs = pd.concat([history("random", [0.5], model="<script>alert(1)</script>")])
    html = chapter.time_to_target(runs, {"<script>alert(1)</script>": 0.1}).to_html()
    assert "<script>" not in html and "&lt;script&gt;" in html
