"""Segmentation's tables and sentences, computed from runs on scenes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import runs
from i2p_lib.analysis.methods import with_method
from i2p_lib.data.scenes import scene_card
from i2p_lib.runs.lab import Lab
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.tables import RunResult, class_table
from i2p_lib.show import tables
from i2p_lib.show.text import html_list

STAND_INS = {
    "simulated_rooms": "s3dis_area5", "simulated_streets": "semantic_kitti_08",
    "unet:resnet18": "resnet18", "unet:efficientnet_lite0": "resnet18",
    "range:efficientnet_lite0": "hrnetv2_w48", "range:hrnet_w48": "hrnetv2_w48",
    "fractal": "imagenet1k", "fractal_pixels": "imagenet1k",
}  # fmt: skip
"""Our scenes, networks and image weights -> those of the paper in whose row they are shown."""

_SETTINGS = {
    "weights": "image weights", "protocol": "protocol", "voxel_size": "voxel (m)",
    "decoder_width": "decoder width", "block_size": "block (m)", "block_points": "block points",
    "height": "rows", "width": "columns", "epochs": "epochs", "batch_size": "batch",
    "optimizer": "optimizer", "lr": "learning rate", "schedule": "schedule",
    "augment": "augmentation", "seed": "seeds", "n_train": "training scenes",
    "n_test": "test scenes",
}  # fmt: skip
_SCORES = {"mIoU (%)": "miou", "accuracy (%)": "accuracy", "mAcc (%)": "mean_class_accuracy"}
_WHOLE, _MINUTES = {"parameters": "parameters"}, {"minutes": "seconds_total"}


def runs_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return `runs.results` with a column ``method``; of no runs, the columns of scenes."""
    if results:
        return with_method(runs.results(results))
    measured = [*_SCORES.values(), *_WHOLE.values(), *_MINUTES.values()]
    return with_method(pd.DataFrame(columns=[*SegmentSpec.model_fields, *measured]))


def not_run(lab: Lab, chapter: str = "07_segmentation") -> str:
    """Return, as HTML, the chapter's runs that cannot be trained here, and what they need."""
    names = lab.profile.chapters.get(chapter, ())
    waiting = pd.concat([pd.DataFrame(columns=["run", "why"]), *map(lab.skipped, names)])
    if waiting.empty:
        return "<p>None: every run of this profile can be trained here.</p>"
    return tables.table(waiting).to_html()


def scene_table(results: Sequence[RunResult]) -> Styler:
    """Return what the runs' scenes are: title, whether simulated, classes, splits and sizes."""
    rows = []
    for r in {r.spec.scenes: r for r in results}.values():
        card = scene_card(r.spec.scenes)
        rows.append({
            "scenes": card.name, "what": card.title, "simulated": "yes" if card.simulated else "no",
            "classes": len(card.class_names), "features": ", ".join(card.feature_names),
            "training scenes": r.metrics["n_train"], "test scenes": r.metrics["n_test"],
            "test": card.splits["test"],
        })  # fmt: skip
    return tables.on_its_side(rows)


def settings(results: Sequence[RunResult]) -> Styler:
    """Return the settings of the runs: a column per scenes and network."""
    return tables.settings(runs_table(results), _SETTINGS, {"scenes": "scenes", "model": "network"})


def summary(results: Sequence[RunResult]) -> Styler:
    """Return mean and standard deviation over seeds of each scenes, network and method."""
    return tables.summary(runs_table(results), ["scenes", "model", "weights", "method"], _SCORES,
                          "seeds", _WHOLE, _MINUTES, sort=False)  # fmt: skip


def sentences(results: Sequence[RunResult]) -> str:
    """Return what these runs show of scratch against image weights, as an HTML list.

    That is `gain_lines`, and for each network and image source the classes that gain and lose
    most, and those without any point in the test scenes.
    """
    lines = [*gain_lines(results), *(f"{name}: {_classes(*map(class_table, sides))}"
                                     for name, *sides in _pairs(results))]
    return html_list(lines or ["No network ran both from scratch and with image weights."])


def gain_lines(results: Sequence[RunResult]) -> list[str]:
    """Say of each network and image source whether its weights beat scratch.

    One is called better where its worst seed is above the other's best, and the line says how
    often chance alone would order the seeds so; one run against one says nothing.
    """
    return [f"{name}: {_relation(*([r.metrics['miou'] for r in side] for side in sides))}"
            for name, *sides in _pairs(results)]  # fmt: skip


def _pairs(
    results: Sequence[RunResult],
) -> Iterator[tuple[str, list[RunResult], list[RunResult]]]:
    """Yield name, runs fine-tuned from image weights, runs from scratch, where both ran."""
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for r in results:
        if r.spec.regime == "all":
            groups.setdefault((r.spec.scenes, r.spec.model, r.spec.weights), []).append(r)
    for (scenes, model, weights), ours in groups.items():
        scratch = groups.get((scenes, model, "random"))
        if weights != "random" and scratch:
            yield f"{scene_card(scenes).title.split(':')[0]}, {model}, {weights}", ours, scratch


def _relation(ours: Sequence[float], scratch: Sequence[float]) -> str:
    gap = round(100 * (np.mean(ours) - np.mean(scratch)), 1) + 0.0  # not -0.0
    once = math.comb(len(ours) + len(scratch), len(ours))
    chance = f" (chance alone orders the seeds so once in {once})"
    if len(ours) == len(scratch) == 1:
        relation = "one run each cannot tell which is better"
    elif min(ours) > max(scratch):
        relation = "FIP-ALL is better than scratch in every pair of seeds" + chance
    elif max(ours) < min(scratch):
        relation = "FIP-ALL is worse than scratch in every pair of seeds" + chance
    else:
        relation = "the seeds of FIP-ALL and scratch overlap"
    return f"{relation}: {gap:+.1f} points of mIoU ({len(ours)} and {len(scratch)} runs)."


def _classes(ours: pd.DataFrame, scratch: pd.DataFrame) -> str:
    means = [part.groupby("class", sort=False)["iou"].mean() for part in (ours, scratch)]
    gain = (100 * (means[0] - means[1])).dropna().sort_values()
    absent = [name for name in means[1].index if name not in gain.index]
    text = "no class occurs." if gain.empty else (
        f"the largest gain is {gain.index[-1]} ({gain.iloc[-1]:+.1f}), "
        f"the smallest {gain.index[0]} ({gain.iloc[0]:+.1f})."
    )
    return text + (f" Without a point in the test scenes: {', '.join(absent)}." if absent else "")
