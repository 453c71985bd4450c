"""Tables and sentences on runs of classification: settings, accuracies, what differs from what.

Sentences are lists of plain text, for `text.html_list` and `text.box`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib.analysis.bootstrap import paired_difference
from i2p_lib.analysis.methods import method_label, with_method
from i2p_lib.runs import RunResult
from i2p_lib.show import tables, text

SETTINGS = {
    "data": "data", "model": "network", "weights": "image weights", "recipe": "recipe",
    "protocol": "protocol", "voxel_size": "voxel size", "points": "points per cloud",
    "shots": "shots", "epochs": "epochs", "batch_size": "batch", "optimizer": "optimizer",
    "lr": "learning rate", "schedule": "schedule", "label_smoothing": "label smoothing",
    "augment": "augmentation", "axis": "axis", "normalize": "divided by k",
    "seed": "seeds", "n_train": "training clouds", "n_test": "test clouds",
}  # fmt: skip
"""Column of a table of runs -> what its setting is called."""


def settings(runs: pd.DataFrame) -> Styler:
    """Return the settings of a group of runs: one row per setting, all values that occur."""
    return tables.settings(runs, SETTINGS)


def summary(runs: pd.DataFrame, by: str | None = None) -> Styler:
    """Return accuracy per method (and ``by``): mean and deviation over seeds, in per cent."""
    return tables.summary(
        with_method(runs), ["method"] if by is None else [by, "method"],
        percent={"test top-1 (%)": "top1", "mean class accuracy (%)": "mean_class_accuracy",
                 "train top-1 (%)": "train_top1"},
        count="runs", whole={"trained parameters": "parameters_trained"},
        minutes={"minutes per run": "seconds_training"},
    )  # fmt: skip


def method_runs(results: Sequence[RunResult], method: str) -> list[RunResult]:
    """Return the runs of a method."""
    return [r for r in results if method_label(r.spec.weights, r.spec.regime) == method]


def differences(results: Sequence[RunResult], pairs: Sequence[tuple[str, str]],
                by: str | None = None) -> list[str]:
    """Say the `difference` of each pair of methods; `by`: a setting that parts the runs."""
    groups: dict[str, list[RunResult]] = {}
    for r in sorted(results, key=lambda r: str(getattr(r.spec, by)) if by else ""):
        where = f"{by} {tables.text(getattr(r.spec, by))}: " if by else ""
        groups.setdefault(where, []).append(r)
    return [where + line for where, part in groups.items() for one, other in pairs
            for line in difference(one, other, method_runs(part, one), method_runs(part, other))]


def paired_hits(ours: Sequence[RunResult],
                theirs: Sequence[RunResult]) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides' hits on the test clouds [P, N], a row for each seed that both have.

    A few-shot run is known by its episode and seed; several runs of one seed count as their mean.
    """
    sides: list[dict[tuple, list[np.ndarray]]] = [{}, {}]
    for side, results in zip(sides, (ours, theirs), strict=True):
        for r in results:
            side.setdefault((r.spec.seed, r.spec.episode), []).append(r.answers.hits)
    shared = [name for name in sides[0] if name in sides[1]]
    one, other = (np.array([np.mean(side[name], 0) for name in shared]) for side in sides)
    return one, other


def difference(one: str, other: str, ours: Sequence[RunResult],
               theirs: Sequence[RunResult]) -> list[str]:
    """Say which of two is better, with a 95 % interval (`paired_difference`): one sentence.

    None where no seed has run both.
    """
    sides = paired_hits(ours, theirs)
    if not sides[0].size:
        return []
    gap = paired_difference(*sides, np.random.default_rng(0))
    return [text.difference(one, other, gap, len(sides[0]))]
