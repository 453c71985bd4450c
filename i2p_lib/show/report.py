"""Tables and sentences of the chapters, computed from runs: nothing here is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import paper, runs
from i2p_lib.analysis import metrics
from i2p_lib.analysis.bootstrap import paired_difference
from i2p_lib.runs.tables import RunResult
from i2p_lib.show.plots import method_label, with_method
from i2p_lib.show.text import difference, html_list
from i2p_lib.weights import WeightCard

STAND_INS = {"efficientnet_lite0": "resnet50"}
"""Our network of the offline profiles -> the paper's network in whose row it is shown."""

COLLAPSE_TITLES = {
    "cdnv": "CDNV (0 = collapsed)",
    "nc1": "NC1: within / between (0)",
    "nc2_equinorm": "NC2: spread of centre norms (0)",
    "nc2_equiangle": "NC2: spread of centre angles (0)",
    "nc3": "NC3: classifier against centres (0)",
    "nc4": "NC4: nearest centre disagrees (0)",
}
_SETTINGS = {
    "data": "data", "model": "network", "weights": "image weights", "recipe": "recipe",
    "protocol": "protocol", "voxel_size": "voxel size", "points": "points per cloud",
    "shots": "shots", "epochs": "epochs", "batch_size": "batch", "optimizer": "optimizer",
    "lr": "learning rate", "schedule": "schedule", "label_smoothing": "label smoothing",
    "augment": "augmentation", "axis": "axis", "normalize": "divided by k",
    "seed": "seeds", "n_train": "training clouds", "n_test": "test clouds",
}  # fmt: skip


def settings(runs: pd.DataFrame) -> Styler:
    """The settings of a group of runs: one row per setting, all values that occur."""
    rows = []
    for column, title in _SETTINGS.items():
        values = [v for v in runs[column].drop_duplicates() if not pd.isna(v)]
        if values:
            rows.append({"setting": title, "value": ", ".join(_text(v) for v in values)})
    return pd.DataFrame(rows).style.hide(axis="index").hide(axis="columns").format(escape="html")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def summary(runs: pd.DataFrame, by: str | None = None) -> Styler:
    """Accuracy per method (and ``by``): mean and standard deviation over seeds, in per cent."""
    runs = with_method(runs)
    keys = ["method"] if by is None else [by, "method"]
    groups = runs.groupby(keys, observed=True)
    table = pd.DataFrame({
        "test top-1 (%)": 100 * groups["top1"].mean(),
        "std": 100 * groups["top1"].std(),
        "mean class accuracy (%)": 100 * groups["mean_class_accuracy"].mean(),
        "train top-1 (%)": 100 * groups["train_top1"].mean(),
        "runs": groups.size(),
        "trained parameters": groups["parameters_trained"].first(),
        "minutes per run": groups["seconds_training"].mean() / 60,
    })
    whole = {"trained parameters": "{:,.0f}", "runs": "{:d}"}
    formats = {column: whole.get(column, "{:.1f}") for column in table}
    return table.reset_index().style.format(formats, na_rep="").hide(axis="index")


def versus_paper(
    item: str, runs: pd.DataFrame | None, profile: str, figures: Sequence[str] = (),
    stand_in: Mapping[str, str] = STAND_INS,
) -> str:  # fmt: skip
    """An item's values beside the paper's as HTML; also recorded for the overview page.

    ``runs`` is a table of runs, or rows that ``paper.compare`` takes; None or no rows where
    nothing ran.
    ``figures`` names the figures that show the item, ``stand_in`` the paper's network in whose
    row ours is shown.
    """
    rows = None if runs is None or runs.empty else runs
    if rows is not None and "regime" in rows:
        rows = paper.rows_of_runs(rows)
    table = paper.compare(item, rows, stand_in=stand_in)
    paper.record(item, table, profile, figures=figures)
    return paper.comparison_html(table)


def differences(
    results: Sequence[RunResult], pairs: Sequence[tuple[str, str]], by: str | None = None
) -> str:
    """Sentences on which method of each pair is better, with 95 % intervals, as an HTML list.

    Intervals resample test clouds and seeds together (2,000 draws, fixed generator). Pairs of
    which this profile ran no side are left out.
    """
    groups = {"": list(results)}
    if by is not None:
        values = sorted({getattr(r.spec, by) for r in results}, key=str)
        groups = {f"{by} {_text(v)}: ": [r for r in results if getattr(r.spec, by) == v]
                  for v in values}  # fmt: skip
    return html_list([line for where, part in groups.items()
                      for line in _differences(where, part, pairs)])  # fmt: skip


def source_differences(
    results: Sequence[RunResult], pairs: Sequence[tuple[str, str]]
) -> str:
    """`differences` of each network and image source, with that network's runs on random weights.

    Intervals are those of `differences`.
    """
    lines = []
    for (model, source), part in by_source(results).items():
        lines += _differences(f"{model}, {source}: ", part, pairs)
    return html_list(lines)


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
    """Return `by_source` as one table of runs with a column images, for `plots.method_bars`."""
    parts = []
    for (model, source), part in by_source(results).items():
        epochs = " and ".join(str(n) for n in sorted({r.spec.epochs for r in part}))
        label = f"{model}, {epochs} epochs: {source} or random"
        parts.append(runs.results(part).assign(images=label))
    return pd.concat(parts, ignore_index=True)


def card_facts(card: WeightCard) -> str:
    """Return what a weight card says of its training, as an HTML list."""
    file = f"{card.file_name}: {card.size_text}, SHA-256 {card.hash_text[:16]}..., {card.licence}"
    return html_list([card.pretraining, *card.note.split("; "), file])


def _differences(
    where: str, results: Sequence[RunResult], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    names = [method_label(r.spec.weights, r.spec.regime) for r in results]
    lines = []
    for better, worse in pairs:
        sides = [[_hits(r) for r, name in zip(results, names, strict=True) if name == m]
                 for m in (better, worse)]  # fmt: skip
        if all(sides):
            lines.append(where + _difference(better, worse, *sides))
    return lines


def _hits(result: RunResult) -> np.ndarray:
    kept = result.features()
    return kept["test_logits"].argmax(1) == kept["test_labels"]


def _difference(one: str, other: str, hits: list[np.ndarray], others: list[np.ndarray]) -> str:
    gap = paired_difference(hits, others, np.random.default_rng(0))
    return difference(one, other, gap, (len(hits), len(others)))


def setting_differences(results: Sequence[RunResult], base: dict[str, object]) -> str:
    """Sentences on FIP-IO+BN runs that differ from ``base`` in one of its settings, as HTML."""
    chosen = [r for r in results if r.spec.regime == "io+bn" and r.spec.weights != "random"]
    reference = [r for r in chosen if all(getattr(r.spec, k) == v for k, v in base.items())]
    name = "the default (" + _settings_text(base) + ")"
    lines = []
    for key, usual in base.items():
        for value in sorted({getattr(r.spec, key) for r in chosen} - {usual}, key=str):
            others = [r for r in chosen if getattr(r.spec, key) == value]
            sides = [[_hits(r) for r in side] for side in (others, reference)]
            if all(sides):
                lines.append(_difference(_settings_text({key: value}), name, *sides))
    return html_list(lines)


def _settings_text(values: dict[str, object]) -> str:
    def text(key: str, value: object) -> str:
        if isinstance(value, bool):
            return _SETTINGS[key] if value else f"not {_SETTINGS[key]}"
        return f"{_SETTINGS[key]} {value}"

    return ", ".join(text(key, value) for key, value in values.items())


def targets(histories: pd.DataFrame) -> dict[str, float]:
    """The accuracy at which speed is compared, for each network with runs from scratch.

    The rule is ``metrics.common_target``'s: the paper's 90 % if every from-scratch run reaches it,
    else the highest whole step of 5 % that all of them reach; but at least 5 %.
    """
    found = {}
    for model, part in histories.groupby("model", sort=False):
        curves = _curves(part, "scratch")
        if curves:
            found[model] = metrics.common_target(curves) or 0.05
    return found


def time_to_target(histories: pd.DataFrame, goals: dict[str, float]) -> Styler:
    """Per network and method: accuracy after epoch 1, epochs and seconds to the target by seed."""
    rows = []
    keys = ["model", "method"]
    for (model, method), part in with_method(histories).groupby(keys, observed=True, sort=False):
        if model not in goals:
            continue
        runs = [run.sort_values("epoch") for _, run in part.groupby("seed")]
        epochs = [metrics.epochs_to_target(run["val_top1"].tolist(), goals[model]) for run in runs]
        seconds = [None if n is None else run["seconds"].iloc[:n].sum()
                   for n, run in zip(epochs, runs, strict=True)]
        rows.append({
            "network": model,
            "method": method,
            "target (%)": f"{100 * goals[model]:.0f}",
            "after epoch 1 (%)": f"{100 * np.mean([r['val_top1'].iloc[0] for r in runs]):.1f}",
            "epochs to target": ", ".join("not reached" if n is None else str(n) for n in epochs),
            "seconds to target": ", ".join("-" if s is None else f"{s:.0f}" for s in seconds),
            "best (%)": f"{100 * np.mean([r['val_top1'].max() for r in runs]):.1f}",
        })
    return pd.DataFrame(rows).style.hide(axis="index").format(escape="html")


def _curves(histories: pd.DataFrame, method: str) -> list[list[float]]:
    part = with_method(histories)
    part = part[part["method"] == method].sort_values("epoch")
    return [run["val_top1"].tolist() for _, run in part.groupby("seed")]


def speedup_sentences(histories: pd.DataFrame, goals: dict[str, float]) -> str:
    """How many times fewer epochs than scratch each method needs, as an HTML list."""
    lines = []
    for model, goal in goals.items():
        part = histories[histories["model"] == model]
        slow = _curves(part, "scratch")
        for method in ("FIP-ALL", "FIP-IO+BN", "control IO+BN"):
            fast = _curves(part, method)
            if fast:
                gain = metrics.speedup(slow, fast, goal)
                lines.append(f"{model}, {method} against scratch, epochs to {100 * goal:.0f} %: "
                             f"{gain}.")
    return html_list(lines)


def speedup_rows(histories: pd.DataFrame) -> pd.DataFrame:
    """Figure 3 as rows for ``paper.compare``: accuracy after epoch 1, and epochs to 90 %.

    A run that never reaches the paper's 90 % has no second row.
    """
    rows = []
    part = with_method(histories)
    part = part[part["method"].isin(["scratch", "FIP-ALL"])]
    for _, run in part.groupby("key", sort=False):
        run = run.sort_values("epoch")
        curve, first = run["val_top1"].tolist(), run.iloc[0]
        key = {"dataset": first["data"], "model": first["model"],
               "method": paper.method_name(first["regime"], first["weights"]),
               "pretraining": "none" if first["weights"] == "random" else first["weights"]}
        rows.append(key | {"metric": "top1_after_epoch_1", "value": 100 * curve[0]})
        epochs = metrics.epochs_to_target(curve, 0.9)
        if epochs is not None:
            rows.append(key | {"metric": "epochs_to_90", "value": epochs})
    return pd.DataFrame(rows)


def collapse_titles(probes: pd.DataFrame) -> dict[str, str]:
    """The collapse measures that these probes hold, with their titles."""
    present = set(probes["metric"])
    return {metric: title for metric, title in COLLAPSE_TITLES.items() if metric in present}


def collapse_summary(probes: pd.DataFrame, layer: str = "penultimate") -> Styler:
    """Mean over seeds of each measure after training, per method and split."""
    probes = with_method(probes[probes["layer"] == layer])
    last = probes[probes["epoch"] == probes["epoch"].max()]
    last = last[last["metric"].isin(COLLAPSE_TITLES)]
    table = last.pivot_table(index=["method", "split"], columns="metric", values="value",
                             observed=True)
    table = table[[m for m in COLLAPSE_TITLES if m in table]]
    table.columns.name = None
    styled = table.reset_index().style.hide(axis="index").format(precision=3)
    return styled.background_gradient(cmap="Blues_r", axis=0, subset=list(table.columns))


def collapse_by_shots(probes: pd.DataFrame) -> Styler:
    """Mean over trials of each measure of the last features, per shots, method and split."""
    probes = with_method(probes[probes["layer"] == "penultimate"])
    chosen = probes[probes["metric"].isin(COLLAPSE_TITLES)]
    table = chosen.pivot_table(index=["shots", "method", "split"], columns="metric",
                               values="value", observed=True)
    table = table[[m for m in COLLAPSE_TITLES if m in table]]
    table.columns.name = None
    return table.reset_index().style.hide(axis="index").format(precision=3, na_rep="")


def final_cdnv(probes: pd.DataFrame, runs: pd.DataFrame, epoch: int | None = None) -> pd.DataFrame:
    """One row per run: test CDNV of the penultimate features at an epoch (default: the last)."""
    epoch = probes["epoch"].max() if epoch is None else epoch
    chosen = probes[(probes["layer"] == "penultimate") & (probes["split"] == "test")
                    & (probes["metric"] == "cdnv") & (probes["epoch"] == epoch)]
    cdnv = chosen[["key", "value"]].rename(columns={"value": "cdnv"})
    return with_method(runs.merge(cdnv, on="key"))


def collapse_rows(probes: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Test CDNV after training as rows for ``paper.compare``, one per run."""
    table = final_cdnv(probes, runs)
    return paper.rows_of_runs(table, "cdnv_test", "cdnv")


def test_features(
    results: Sequence[RunResult], methods: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Penultimate test features and labels of the first run of each method."""
    table = with_method(pd.DataFrame([r.spec.row() for r in results]))
    found = {}
    for method in methods:
        index = table.index[table["method"] == method]
        if len(index):
            kept = results[index[0]].features()
            found[method] = (kept["test_features"], kept["test_labels"])
    return found


def collapse_sentences(probes: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What the probes say about collapse before and after training, and accuracy: HTML list."""
    from scipy.stats import spearmanr

    lines = []
    for epoch, moment in ((0, "before training"), (int(probes["epoch"].max()), "after training")):
        table = final_cdnv(probes, runs, epoch)
        means = table.groupby("method", observed=True)["cdnv"].mean().sort_values()
        ranked = ", ".join(f"{method} {value:.2f}" for method, value in means.items())
        lines.append(f"CDNV of the test features {moment}, most collapsed first: {ranked}.")
        if len(table) > 3:
            rho, p = spearmanr(table["cdnv"], table["top1"])
            lines.append(f"Over the {len(table)} runs, CDNV {moment} and final test accuracy have "
                         f"the rank correlation {rho:+.2f} (p = {p:.2g}).")
    return html_list(lines)
