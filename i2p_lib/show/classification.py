"""Tables and sentences on runs of classification: settings, accuracies, what differs from what.

Sentences are lists of plain text, for `text.html_list` and `text.box`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import runs
from i2p_lib.analysis.bootstrap import paired_difference
from i2p_lib.analysis.methods import method_label, with_method
from i2p_lib.analysis.tuning import best_learning_rates
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


def grid_table(grid: pd.DataFrame) -> Styler:
    """Return mean and deviation of the validation accuracy (%), the chosen learning rate bold.

    grid: what `analysis.tuning.read_grid` returns.
    """
    cells = grid.groupby(["method", "lr"], observed=True)["val_top1"].agg(["mean", "std"]) * 100
    texts = cells.apply(lambda c: f"{c['mean']:.1f} ± {c['std']:.1f}", axis=1).unstack("lr")
    texts.columns = [tables.text(rate) for rate in texts.columns]
    best = {method: tables.text(rate) for method, rate in best_learning_rates(grid).items()}
    ends = texts.columns[0], texts.columns[-1]

    def bold(row: pd.Series) -> list[str]:
        return ["font-weight: bold" if c == best[row.name] else "" for c in row.index]

    texts.index = texts.index.astype(str)
    table = texts.rename_axis(index="method", columns="learning rate").style.apply(bold, axis=1)
    edged = ", ".join(method for method, rate in best.items() if rate in ends) or "none"
    return table.set_caption(f"Methods whose best learning rate is an end of the grid: {edged}.")


def hits(result: RunResult) -> np.ndarray:
    """Return which test clouds a run names rightly: bool [N]."""
    kept = result.features()
    return kept["test_logits"].argmax(1) == kept["test_labels"]


def method_hits(results: Sequence[RunResult], method: str) -> list[np.ndarray]:
    """Return the `hits` of each run of a method."""
    return [hits(r) for r in results if method_label(r.spec.weights, r.spec.regime) == method]


def differences(
    results: Sequence[RunResult], pairs: Sequence[tuple[str, str]], by: str | None = None
) -> list[str]:
    """Say which method of each pair is better, with 95 % intervals (`paired_difference`).

    Pairs of which no run of a side is there are left out.  `by`: a setting that parts the runs.
    """
    groups: dict[str, list[RunResult]] = {}
    for r in sorted(results, key=lambda r: str(getattr(r.spec, by)) if by else ""):
        where = f"{by} {tables.text(getattr(r.spec, by))}: " if by else ""
        groups.setdefault(where, []).append(r)
    return [
        where + _difference(one, other, *sides)
        for where, part in groups.items()
        for one, other in pairs
        if all(sides := [method_hits(part, one), method_hits(part, other)])
    ]


def _difference(one: str, other: str, ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    gap = paired_difference(ours, theirs, np.random.default_rng(0))
    return text.difference(one, other, gap, (len(ours), len(theirs)))


def source_differences(
    results: Sequence[RunResult], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """Say the `differences` of each network and image source, from that network's own runs."""
    return [f"{model}, {source}: {line}" for (model, source), part in by_source(results).items()
            for line in differences(part, pairs)]  # fmt: skip


def by_source(results: Sequence[RunResult]) -> dict[tuple[str, str], list[RunResult]]:
    """Return {(model, image weights): its runs, and those of the model on random weights}."""
    sources = dict.fromkeys((r.spec.model, r.spec.weights) for r in results
                            if r.spec.weights != "random")  # fmt: skip
    return {
        (model, source): [r for r in results if r.spec.model == model
                          and r.spec.weights in (source, "random")]
        for model, source in sources
    }  # fmt: skip


def source_runs(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return `by_source` as one table of runs with a column images, for `bars.method_bars`."""
    parts = []
    for (model, source), part in by_source(results).items():
        epochs = " and ".join(str(n) for n in sorted({r.spec.epochs for r in part}))
        label = f"{model}, {epochs} epochs: {source} or random"
        parts.append(runs.results(part).assign(images=label))
    return pd.concat(parts, ignore_index=True)


def setting_differences(
    results: Sequence[RunResult], base: Mapping[str, object]
) -> list[str]:
    """Say how FIP-IO+BN runs that differ from `base` in one of its settings compare with it."""
    chosen = [r for r in results if r.spec.regime == "io+bn" and r.spec.weights != "random"]
    reference = [r for r in chosen if all(getattr(r.spec, k) == v for k, v in base.items())]
    name = "the default (" + _settings_text(base) + ")"
    lines = []
    for key, usual in base.items():
        for value in sorted({getattr(r.spec, key) for r in chosen} - {usual}, key=str):
            others = [r for r in chosen if getattr(r.spec, key) == value]
            sides = [[hits(r) for r in side] for side in (others, reference)]
            if all(sides):
                lines.append(_difference(_settings_text({key: value}), name, *sides))
    return lines


def _settings_text(values: Mapping[str, object]) -> str:
    flags = {True: "", False: "not "}
    return ", ".join(f"{flags[value]}{SETTINGS[key]}" if isinstance(value, bool)
                     else f"{SETTINGS[key]} {value}" for key, value in values.items())
