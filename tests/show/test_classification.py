"""The sentences on classification say what the numbers say, and nothing stronger."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import classification
from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "01_transfer.ipynb")


@dataclass
class Finished:
    """What `differences` reads of a run: its spec, and its answers on the test split."""

    spec: RunSpec
    answers: SimpleNamespace


def finished(weights, share, seed=0, clouds=200, **settings):
    hits = np.random.default_rng(seed).permutation(np.arange(clouds) < share * clouds)
    spec = RunSpec(weights=weights, regime="all", seed=seed, **settings)
    return Finished(spec, SimpleNamespace(hits=hits))


def test_a_clear_difference_is_named_with_its_size():
    runs = [finished("imagenet1k", 0.8, s) for s in range(3)]
    runs += [finished("random", 0.5, s) for s in range(3)]
    better, worse = classification.differences(
        runs, [("FIP-ALL", "scratch"), ("scratch", "FIP-ALL")])
    assert better.startswith("FIP-ALL is better than scratch: +30.0 points")
    assert worse.startswith("scratch is worse than FIP-ALL: -30.0 points")
    assert "3 pairs of runs" in better


def test_sides_are_paired_by_their_seed_and_several_runs_of_a_seed_are_one():
    """Promise: a seed that one side lacks is left out; neither order nor number of runs counts."""
    ours = [finished("imagenet1k", share, s) for s, share in ((2, 0.5), (0, 0.9), (1, 0.7))]
    theirs = [finished("random", 0.4, s) for s in (0, 0, 2)]
    one, other = classification.paired_hits(ours, theirs)
    assert one.mean(1) == pytest.approx([0.5, 0.9]) and other.shape == one.shape
    (line,) = classification.difference("a", "b", ours, theirs)
    assert "+30.0 points" in line and "2 pairs of runs" in line
    assert classification.difference("a", "b", ours[:1], theirs[:2]) == []


def test_few_shot_runs_are_paired_by_their_episode():
    runs = [finished("imagenet1k", 0.8, 0, shots=1, episode=e) for e in (0, 1)]
    one, _ = classification.paired_hits(runs, runs[:1])
    assert len(one) == 1


def test_a_difference_within_chance_is_not_called_one():
    runs = [finished("imagenet1k", 0.52, seed) for seed in (0, 1)]
    runs += [Finished(finished("random", 0.5, seed).spec, finished("random", 0.5, seed + 5).answers)
             for seed in (0, 1)]
    (line,) = classification.differences(runs, [("FIP-ALL", "scratch")])
    assert "cannot be told apart: +2.0 points" in line


def test_a_pair_that_was_not_run_makes_no_sentence():
    runs = [finished("imagenet1k", 0.8)]
    assert classification.differences(runs, [("FIP-ALL", "scratch")]) == []


def test_differences_are_taken_within_each_group():
    runs = [finished(w, share, e, shots=n, episode=e) for e in (0, 1) for w, share, n in (
        ("imagenet1k", 0.8, 1), ("random", 0.2, 1), ("imagenet1k", 0.4, 5), ("random", 0.9, 5))]
    one, five = classification.differences(runs, [("FIP-ALL", "scratch")], by="shots")
    assert one.startswith("shots 1: FIP-ALL is better")
    assert five.startswith("shots 5: FIP-ALL is worse")


def test_a_source_is_compared_with_random_weights_of_its_own_network():
    """Promise: another network's runs, and another source's, never enter a sentence or a panel."""
    runs = [finished(w, share, s, model=model) for s in (0, 1) for model, w, share in (
        ("resnet18", "fractal", 0.6), ("resnet18", "random", 0.9),
        ("efficientnet_lite0", "imagenet1k", 0.8), ("efficientnet_lite0", "random", 0.2))]
    lines = chapter.source_differences(runs, [("FIP-ALL", "scratch")])
    assert [line.partition(" points")[0] for line in lines] == [
        "resnet18, fractal: FIP-ALL is worse than scratch: -30.0",
        "efficientnet_lite0, imagenet1k: FIP-ALL is better than scratch: +60.0"]
    panels = chapter.by_source(runs)
    assert {key: [r.spec.weights for r in part] for key, part in panels.items()} == {
        ("resnet18", "fractal"): ["fractal", "random"] * 2,
        ("efficientnet_lite0", "imagenet1k"): ["imagenet1k", "random"] * 2}


def test_a_changed_setting_is_compared_with_the_default():
    """Promise: only FIP-IO+BN counts, one setting at a time, and its name says which."""
    def bn(share, **changes):
        for seed in (0, 1):
            one = finished("imagenet1k", share, seed, **changes)
            yield Finished(one.spec.but(regime="io+bn"), one.answers)

    runs = [*bn(0.8), *bn(0.3, axis="x"), *bn(0.8, normalize=False), finished("imagenet1k", 0.1)]
    lines = chapter.setting_differences(runs)
    assert lines[0].startswith("axis x is worse than the default (axis z, divided by k): -50.0")
    assert lines[1].startswith("not divided by k and the default")
    assert "cannot be told apart: +0.0" in lines[1] and len(lines) == 2


def test_the_summary_gives_means_over_seeds_by_method_in_order():
    runs = pd.DataFrame({
        "weights": ["imagenet1k", "random", "random"], "regime": "all", "top1": [0.8, 0.4, 0.6],
        "mean_class_accuracy": 0.5, "train_top1": 1.0, "parameters_trained": 1000,
        "seconds_training": 90.0})  # fmt: skip
    table = classification.summary(runs).data.set_index("method")
    assert list(table.index) == ["scratch", "FIP-ALL"]
    assert table.loc["scratch", "test top-1 (%)"] == pytest.approx(50)
    assert table.loc["scratch", "std"] == pytest.approx(np.std([40, 60], ddof=1))
    assert table.loc["scratch", "minutes per run"] == 1.5 and table.loc["scratch", "runs"] == 2
    assert ">1,000<" in classification.summary(runs).to_html()


def test_settings_show_all_values_that_occur_and_nothing_that_is_not_set():
    runs = pd.DataFrame({"model": ["a", "b"], "lr": 0.003, "shots": None})
    table = classification.settings(runs).data
    assert dict(table.iloc[:, 0]) == {"network": "a, b", "learning rate": "0.003"}
