"""The chapters' sentences say what the numbers say, and nothing stronger."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import report
from i2p_lib.show.plots import METHODS, method_label, with_method


@dataclass
class Finished:
    """What `differences` reads of a run: its spec, and its answers on the test split."""

    spec: RunSpec
    hits: np.ndarray

    def features(self):
        labels = np.zeros(len(self.hits), int)
        return {"test_logits": np.stack([self.hits, ~self.hits], 1), "test_labels": labels}


def finished(weights, share, seed=0, clouds=200, **settings):
    hits = np.random.default_rng(seed).permutation(np.arange(clouds) < share * clouds)
    spec = RunSpec(weights=weights, regime="all", seed=seed, **settings)
    return Finished(spec, hits)


def history(weights, curve, seed=0, model="efficientnet_lite0", regime="all"):
    epochs = np.arange(1, len(curve) + 1)
    return pd.DataFrame({"epoch": epochs, "val_top1": curve, "seconds": 2.0, "weights": weights,
                         "regime": regime, "seed": seed, "model": model, "data": "home_objects",
                         "key": f"{weights}{seed}{model}{regime}"})


def test_a_clear_difference_is_named_with_its_size():
    runs = [finished("imagenet1k", 0.8, s) for s in range(3)]
    runs += [finished("random", 0.5, s) for s in range(3)]
    text = report.differences(runs, [("FIP-ALL", "scratch"), ("scratch", "FIP-ALL")])
    assert "FIP-ALL is better than scratch: +30.0 points" in text
    assert "scratch is worse than FIP-ALL: -30.0 points" in text
    assert "3 and 3 runs" in text


def test_a_difference_within_chance_is_not_called_one():
    runs = [finished("imagenet1k", 0.52, 0), finished("random", 0.5, 1)]
    assert "cannot be told apart: +2.0 points" in report.differences(runs, [("FIP-ALL", "scratch")])


def test_an_experiment_without_runs_shows_what_the_paper_has():
    """Promise: columns without rows, which a profile without those runs gives, are fine."""
    nothing = pd.DataFrame(columns=list(RunSpec.model_fields))
    assert "57.5" in report.versus_paper("table4", nothing, "demo")
    assert "No run of this profile" in report.versus_paper("pointcontrast", nothing, "demo")


def test_a_pair_that_was_not_run_makes_no_sentence():
    runs = [finished("imagenet1k", 0.8)]
    assert report.differences(runs, [("FIP-ALL", "scratch")]) == "<ul></ul>"


def test_differences_are_taken_within_each_group():
    runs = [finished(w, share, shots=n, episode=0) for w, share, n in (
        ("imagenet1k", 0.8, 1), ("random", 0.2, 1), ("imagenet1k", 0.4, 5), ("random", 0.9, 5))]
    text = report.differences(runs, [("FIP-ALL", "scratch")], by="shots")
    assert "shots 1: FIP-ALL is better" in text and "shots 5: FIP-ALL is worse" in text


def test_a_source_is_compared_with_random_weights_of_its_own_network():
    """Promise: another network's runs, and another source's, never enter a sentence or a panel."""
    runs = [finished(w, share, model=model) for model, w, share in (
        ("resnet18", "fractal", 0.6), ("resnet18", "random", 0.9),
        ("efficientnet_lite0", "imagenet1k", 0.8), ("efficientnet_lite0", "random", 0.2))]
    text = report.source_differences(runs, [("FIP-ALL", "scratch")])
    assert "resnet18, fractal: FIP-ALL is worse than scratch: -30.0" in text
    assert "efficientnet_lite0, imagenet1k: FIP-ALL is better than scratch: +60.0" in text
    panels = report.by_source(runs)
    assert {key: [r.spec.weights for r in part] for key, part in panels.items()} == {
        ("resnet18", "fractal"): ["fractal", "random"],
        ("efficientnet_lite0", "imagenet1k"): ["imagenet1k", "random"]}


def test_the_target_looks_at_scratch_alone():
    runs = pd.concat([history("random", [0.2, 0.43], 0), history("random", [0.3, 0.52], 1),
                      history("imagenet1k", [0.7, 0.8]), history("imagenet1k", [0.1], model="b")])
    assert report.targets(runs) == {"efficientnet_lite0": 0.40}


def test_time_to_target_counts_epochs_and_seconds_of_every_seed():
    runs = pd.concat([history("random", [0.2, 0.3, 0.4], 0), history("random", [0.4, 0.5, 0.5], 1),
                      history("imagenet1k", [0.1, 0.2, 0.2])])
    table = report.time_to_target(runs, {"efficientnet_lite0": 0.4}).data.set_index("method")
    assert table.loc["scratch", "epochs to target"] == "3, 1"
    assert table.loc["scratch", "seconds to target"] == "6, 2"
    assert table.loc["FIP-ALL", "epochs to target"] == "not reached"
    assert table.loc["scratch", "after epoch 1 (%)"] == "30.0"


def test_speedup_sentences_give_the_ratio_of_mean_epochs():
    runs = pd.concat([history("random", [0.1, 0.2, 0.3, 0.4]), history("imagenet1k", [0.4] * 4)])
    assert "epochs to 40 %: 4.00x" in report.speedup_sentences(runs, {"efficientnet_lite0": 0.4})


def test_figure_3_rows_hold_epoch_one_and_ninety_per_cent():
    runs = pd.concat([history("random", [0.5, 0.6]), history("imagenet1k", [0.7, 0.95]),
                      history("imagenet1k", [0.99, 0.99], regime="io")])
    rows = report.speedup_rows(runs)
    first = rows[rows["metric"] == "top1_after_epoch_1"].set_index("method")["value"]
    assert first.to_dict() == pytest.approx({"scratch": 50, "fip-all": 70})
    assert rows.query("metric == 'epochs_to_90'")[["method", "value"]].values.tolist() == [
        ["fip-all", 2]]


def test_collapse_sentences_give_the_rank_correlation():
    cdnv = [4.0, 3.0, 2.0, 1.0]
    runs = pd.DataFrame({"key": list("abcd"), "top1": [0.1, 0.2, 0.3, 0.4],
                         "weights": ["random", "random", "imagenet1k", "imagenet1k"],
                         "regime": ["io", "all", "io", "all"]})
    probes = pd.concat([pd.DataFrame({"key": list("abcd"), "value": cdnv, "epoch": epoch,
                                      "layer": "penultimate", "split": "test", "metric": "cdnv"})
                        for epoch in (0, 5)])
    text = report.collapse_sentences(probes, runs)
    assert "most collapsed first: FIP-ALL 1.00, FIP-IO 2.00, scratch 3.00, control IO 4.00" in text
    assert text.count("rank correlation -1.00") == 2


def test_tables_escape_what_they_show():
    runs = pd.concat([history("random", [0.5], model="<script>alert(1)</script>")])
    html = report.time_to_target(runs, {"<script>alert(1)</script>": 0.1}).to_html()
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("weights, regime, label", [
    ("imagenet1k", "io", "FIP-IO"), ("random", "io", "control IO"), ("random", "all", "scratch"),
    ("fractal", "io+bn", "FIP-IO+BN"), ("random", "io+ms", "control IO, moving statistics"),
])  # fmt: skip
def test_every_regime_has_its_name_and_colour(weights, regime, label):
    assert method_label(weights, regime) == label and label in METHODS
    table = with_method(pd.DataFrame({"weights": [weights], "regime": [regime]}))
    assert table["method"].tolist() == [label]
