"""Probing a training: how far the classes of each stage collapse at chosen epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from i2p_lib.analysis.collapse import collapse_report
from i2p_lib.analysis.taps import PENULTIMATE, classifier_weight, stage_names, taps
from i2p_lib.train import team
from i2p_lib.train.clouds import Split, evaluate
from i2p_lib.train.settings import ClassifySettings

if TYPE_CHECKING:
    from i2p_lib.train.loop import State


def features(
    net: nn.Module, split: Split, settings: ClassifySettings, stages: list[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return ({layer: [N, C]}, logits [N, classes]) of a split in eval mode, in one pass."""
    with taps(net, stages) as seen:
        scores = evaluate(net, split, settings)
    return {name: team.gather(parts) for name, parts in seen.items()}, scores.logits


def probe(state: State) -> None:
    """At the settings' probe epochs, measure the collapse of every stage on train and test.

    Classes with a single cloud have no variance and are left out; a split without two larger
    classes (one shot) gives no rows.
    """
    for name in ("train", "test") if state.epoch in state.spec.probe_epochs else ():
        split = state.task.splits[name]
        counts = torch.bincount(split.labels)
        kept = counts[split.labels] > 1
        if int((counts > 1).sum()) < 2:
            continue
        layers, logits = features(state.net, split, state.spec, stage_names(state.net))
        for layer, values in layers.items():
            extra = {}
            if layer == PENULTIMATE:
                extra = {"weight": classifier_weight(state.net), "logits": logits[kept]}
            report = collapse_report(values[kept], split.labels[kept], **extra)
            where = {"epoch": state.epoch, "split": name, "layer": layer}
            state.probes += [where | {"metric": m, "value": v} for m, v in report.items()]


def final_features(state: State) -> dict[str, Tensor]:
    """Return what a finished run keeps of train and test: features, logits and labels."""
    kept = {}
    for name in ("train", "test"):
        if (split := state.task.splits.get(name)) is not None:
            layers, logits = features(state.net, split, state.spec, [])
            kept |= {f"{name}_features": layers[PENULTIMATE], f"{name}_logits": logits}
            kept[f"{name}_labels"] = split.labels.clone()
    return kept
