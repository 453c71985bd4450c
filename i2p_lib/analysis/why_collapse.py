"""Collapse on clouds before and after training, by layer, and what it says of the accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from i2p_lib.analysis.bootstrap import rank_correlation
from i2p_lib.analysis.collapse import cdnv, collapse_report
from i2p_lib.analysis.few_shot import few_shot_bound, few_shot_error
from i2p_lib.analysis.methods import method_label
from i2p_lib.analysis.taps import PENULTIMATE, classifier_weight, stage_names, taps
from i2p_lib.analysis.why import each_run, network_of
from i2p_lib.runs import RunResult
from i2p_lib.runs.execute import resolve_device
from i2p_lib.show.text import html_list
from i2p_lib.train.clouds import evaluate, load_splits

START = ("model", "weights", "seed", "axis", "normalize", "recipe", "voxel_size", "data", "points")
"""The settings that decide what a network computes before it is trained."""

SHARED = ("model", "weights", "regime", "shots", "episode", "seed")


def layer_features(
    net: nn.Module, result: RunResult, split: str, device: str = "cpu"
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return ({layer: [N, C]}, logits [N, K], labels [N]) of a run's clouds through a network."""
    place = torch.device(resolve_device(device))
    chosen = getattr(load_splits(result.spec, place), split)
    with taps(net, stage_names(net)) as seen:
        scores = evaluate(net.to(place), chosen, result.spec)
    layers = {name: torch.cat(parts).numpy() for name, parts in seen.items()}
    return layers, scores.logits.numpy(), chosen.labels.numpy()


def layer_probes(found: Sequence[RunResult], device: str = "cpu") -> pd.DataFrame:
    """Return the collapse of finished runs by layer after training, measured on their networks.

    For runs that were not probed while they trained: the columns are those of `runs.probes` that
    the plots need.  Classes of a single cloud have no variance and are left out, and so is a
    split that has no others.
    """

    def measure(result: RunResult) -> pd.DataFrame:
        net = network_of(result)
        rows = []
        for split in ("train", "test"):
            layers, logits, labels = layer_features(net, result, split, device)
            kept = np.bincount(labels)[labels] > 1
            if len(np.unique(labels[kept])) < 2:
                continue
            for layer, values in layers.items():
                extra = {}
                if layer == PENULTIMATE:
                    extra = {"weight": classifier_weight(net), "logits": logits[kept]}
                report = collapse_report(values[kept], labels[kept], **extra)
                rows += [{"split": split, "layer": layer, "metric": m, "value": v}
                         for m, v in report.items()]
        settings = {name: getattr(result.spec, name) for name in SHARED}
        table = pd.DataFrame(rows).assign(epoch=result.spec.epochs, key=result.key[:16])
        return table.assign(**settings)

    return pd.concat(each_run(found, measure), ignore_index=True)


def starting_features(
    found: Sequence[RunResult], device: str = "cpu"
) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """Return {start: (features, labels)} of the test clouds before any training on points.

    Runs with the same `START` settings have the same network then, which is looked at once.
    """
    first: dict[tuple, RunResult] = {}
    for result in found:
        first.setdefault(start_of(result), result)

    def measure(result: RunResult) -> tuple[np.ndarray, np.ndarray]:
        layers, _, labels = layer_features(network_of(result, False), result, "test", device)
        return layers[PENULTIMATE], labels

    return dict(zip(first, each_run(list(first.values()), measure), strict=True))


def start_of(result: RunResult) -> tuple:
    """Return the values of the settings that decide a run's network before training."""
    return tuple(getattr(result.spec, name) for name in START)


def forecasts(
    found: Sequence[RunResult], starts: dict[tuple, tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    """Return one row per run: its settings, cdnv of its starting features, top1 after training.

    start numbers the starting networks; group names what was trained: the regime, or the shots.
    """
    numbers = {start: place for place, start in enumerate(starts)}
    before = {start: cdnv(*seen) for start, seen in starts.items()}
    rows = []
    for result in found:
        spec, start = result.spec, start_of(result)
        group = spec.regime.upper() if spec.shots is None else f"{spec.shots}-shot"
        rows.append({
            "key": result.key[:16], "model": spec.model, "weights": spec.weights,
            "regime": spec.regime, "method": method_label(spec.weights, spec.regime),
            "seed": spec.seed, "group": group, "start": numbers[start],
            "cdnv": before[start], "top1": result.metrics["top1"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def forecast_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return how starting CDNV and final accuracy correlate, for each of `forecasts`' groups.

    rho, low, high: over all runs, drawing starting networks; within: the same once the means of
    each network and source are taken off, over what seeds alone decide.
    """
    rng, rows = np.random.default_rng(0), []
    for group, part in table.groupby("group", sort=False):
        if len(part) < 4:
            continue
        kinds = [part["model"], part["weights"]]
        apart = {name: (part[name] - part.groupby(kinds)[name].transform("mean")).to_numpy()
                 for name in ("cdnv", "top1")}
        over = rank_correlation(part["cdnv"], part["top1"], part["start"], rng)
        within = rank_correlation(apart["cdnv"], apart["top1"], part["start"], rng)
        rows.append({
            "group": group, "runs": len(part), "starts": part["start"].nunique(),
            "sources": part.groupby(["model", "weights"]).ngroups, "rho": over.value,
            "low": over.low, "high": over.high, "within": within.value, "within_low": within.low,
            "within_high": within.high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def forecast_sentences(summary: pd.DataFrame) -> str:
    """Say whether collapse before training predicts accuracy after it: HTML list."""
    lines = []
    for row in summary.itertuples():
        if row.high < 0:
            said = "the more collapsed, the better"
        elif row.low > 0:
            said = "the more collapsed, the worse"
        else:
            said = "nothing can be told"
        lines.append(
            f"{row.group}: rank correlation {row.rho:+.2f} (95 % interval {row.low:+.2f} to "
            f"{row.high:+.2f}; {row.runs} runs of {row.starts} starting networks from "
            f"{row.sources} pairs of network and source): {said}. Within the pairs, over seeds "
            f"alone: {row.within:+.2f} ({row.within_low:+.2f} to {row.within_high:+.2f})."
        )
    return html_list(lines)


def forecast_rows(summary: pd.DataFrame, data: str) -> pd.DataFrame:
    """Return the rank correlations as rows for `paper.compare`, one a group and kind."""
    rows = []
    for row in summary.itertuples():
        about = {"dataset": data, "model": "all networks", "method": row.group,
                 "pretraining": "all sources"}  # fmt: skip
        rows += [about | {"metric": "rank_correlation", "value": row.rho},
                 about | {"metric": "rank_correlation_within_source", "value": row.within}]
    return pd.DataFrame(rows).dropna(subset="value") if rows else pd.DataFrame()


def bound_table(
    starts: dict[tuple, tuple[np.ndarray, np.ndarray]], shots: Sequence[int], found: pd.DataFrame
) -> pd.DataFrame:
    """Return measured few-shot errors beside the bound, before training, by network and source.

    error and bound are of nearest centres on the starting features, means over the starting
    networks; trained is the error of the few-shot runs of `forecasts` where there are any.
    Starts whose filters were inflated otherwise than most are left out.
    """
    rng, rows = np.random.default_rng(0), []
    settings = {start: dict(zip(START, start, strict=True)) for start in starts}
    ways = Counter((about["axis"], about["normalize"]) for about in settings.values())
    usual = ways.most_common(1)[0][0]
    for start, (features, labels) in starts.items():
        about = settings[start]
        if (about["axis"], about["normalize"]) != usual:
            continue
        for n in shots:
            mine = found[(found["model"] == about["model"]) & (found["group"] == f"{n}-shot")
                         & (found["weights"] == about["weights"])]
            rows.append({
                "model": about["model"], "weights": about["weights"], "shots": n,
                "error": few_shot_error(features, labels, n, 20, rng),
                "bound": few_shot_bound(features, labels, n),
                "trained": 1 - mine["top1"].mean() if len(mine) else np.nan,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    return table.groupby(["model", "weights", "shots"], sort=False).mean().reset_index()


def bound_sentences(table: pd.DataFrame) -> str:
    """Set errors beside bounds, one line a network, source and number of shots: HTML list."""
    lines = []
    for row in table.itertuples():
        trained = "" if np.isnan(row.trained) else f", trained {100 * row.trained:.0f} %"
        useful = "says something" if row.bound < 1 else "says nothing"
        lines.append(f"{row.model}, {row.weights} weights, {row.shots}-shot: error of nearest "
                     f"centres {100 * row.error:.0f} %{trained}; bound {100 * row.bound:,.0f} %, "
                     f"which {useful}.")
    return html_list(lines)


def bound_rows(table: pd.DataFrame, data: str) -> pd.DataFrame:
    """Return measured errors and bounds as rows for `paper.compare`."""
    parts = [
        table.assign(dataset=data, method="nearest centres, untrained", metric=metric, value=values,
                     pretraining=table["weights"].replace("random", "none"))
        for metric, values in (("error", table["error"]), ("bound_on_error", table["bound"]))
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)
