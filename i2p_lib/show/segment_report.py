"""Tables and sentences of the segmentation chapter, computed from runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import paper
from i2p_lib.analysis import segmentation as metrics
from i2p_lib.analysis.methods import method_label
from i2p_lib.data.scenes import scene_card
from i2p_lib.markup import breakable
from i2p_lib.runs.profiles import Lab
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.tables import RunResult
from i2p_lib.show.text import html_list

STAND_INS = {
    "simulated_rooms": "s3dis_area5", "simulated_streets": "semantic_kitti_08",
    "unet:resnet18": "resnet18", "unet:efficientnet_lite0": "resnet18",
    "range:efficientnet_lite0": "hrnetv2_w48", "range:hrnet_w48": "hrnetv2_w48",
    "fractal": "imagenet1k", "fractal_pixels": "imagenet1k",
}  # fmt: skip
"""Our scenes, networks and image weights -> those of the paper in whose row they are shown."""

_PAPER_NAMES = {
    "s3dis": "s3dis_area5", "semantic_kitti": "semantic_kitti_08",
    "unet:resnet18": "resnet18", "range:hrnet_w48": "hrnetv2_w48",
}  # fmt: skip
_PRETRAINING = {"random": "none", "imagenet1k_pixels": "imagenet1k"}
_ROOMS = {
    "protocol": "released", "augment": "paper", "optimizer": "sgd", "nesterov": True, "lr": 0.1,
    "weight_decay": 1e-4, "schedule": "poly", "epochs": 400, "batch_size": 8,
}  # fmt: skip
_STREETS = {
    "protocol": "released", "augment": "paper", "optimizer": "sgd", "nesterov": True, "lr": 0.24,
    "weight_decay": 1e-4, "schedule": "warmup_cosine", "epochs": 15, "batch_size": 2,
}  # fmt: skip
_UNET = {"voxel_size": 0.05, "point_branch": True, "axis": "z", "normalize": False}
PAPER_RECIPES = {
    ("s3dis", "unet:resnet18"): _ROOMS | _UNET,
    ("semantic_kitti", "unet:resnet18"): _STREETS | _UNET,
}
"""(scenes, network) -> the released recipe (paper notes 3.3).  How PointNet++ and HRNet were
trained is not known, so no setting of theirs counts as the paper's."""
_MEASURED = ("miou", "accuracy", "mean_class_accuracy", "parameters", "seconds_total", "n_train",
             "n_test")  # fmt: skip
_SETTINGS = {
    "weights": "image weights", "protocol": "protocol", "voxel_size": "voxel (m)",
    "decoder_width": "decoder width", "block_size": "block (m)", "block_points": "block points",
    "height": "rows", "width": "columns", "epochs": "epochs", "batch_size": "batch",
    "optimizer": "optimizer", "lr": "learning rate", "schedule": "schedule",
    "augment": "augmentation", "seed": "seeds", "n_train": "training scenes",
    "n_test": "test scenes",
}  # fmt: skip
NEAR = 25  # metres from the lidar, of the driving scene that is shown
WHOLE = {"train_limit": None, "test_limit": None}


def runs_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run: settings, metrics and the method's name; columns also of no runs."""
    rows = [r.spec.row() | r.metrics | {"key": r.key[:16]} for r in results]
    empty = pd.DataFrame(columns=[*SegmentSpec.model_fields, *_MEASURED, "key"])
    table = pd.DataFrame(rows) if rows else empty
    methods = [method_label(w, r) for w, r in zip(table["weights"], table["regime"], strict=True)]
    return table.assign(method=methods)


def rows_for_paper(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return the rows that `paper.compare` takes, one per run, mIoU in per cent.

    mIoU is the mean over the classes that occur.  A run that chose its epoch on the test split,
    as the released code does, gives that epoch's.  A run counts as in the paper where all its
    settings are those of `PAPER_RECIPES` and it used all scenes.
    """
    return pd.DataFrame([
        {
            "dataset": _PAPER_NAMES.get(r.spec.scenes, r.spec.scenes),
            "model": _PAPER_NAMES.get(r.spec.model, r.spec.model),
            "method": paper.method_name(r.spec.regime, r.spec.weights),
            "pretraining": _PRETRAINING.get(r.spec.weights, r.spec.weights),
            "metric": "miou",
            "value": 100 * r.metrics.get("miou_best_test", r.metrics["miou"]),
            "as_in_paper": as_in_paper(r.spec),
        }
        for r in results
    ])  # fmt: skip


def as_in_paper(spec: SegmentSpec) -> bool:
    """Tell whether a run is the released recipe, on all scenes of the paper's own set."""
    recipe = PAPER_RECIPES.get((spec.scenes, spec.model))
    return recipe is not None and all(
        getattr(spec, name) == value for name, value in (recipe | WHOLE).items()
    )


def chapter_results(lab: Lab, chapter: str = "07_segmentation") -> list[RunResult]:
    """Return the runs of the profile's segmentation experiments; none where it has none."""
    names = lab.profile.chapters.get(chapter, ())
    return [result for name in names for result in lab.results(name)]


def not_run(lab: Lab, chapter: str = "07_segmentation") -> str:
    """Return, as HTML, the chapter's runs that cannot be trained here, and what they need."""
    names = lab.profile.chapters.get(chapter, ())
    table = pd.concat([pd.DataFrame(columns=["run", "why"]), *map(lab.skipped, names)])
    if table.empty:
        return "<p>None: every run of this profile can be trained here.</p>"
    return table.style.hide(axis="index").format(escape="html").to_html()


def scene_table(results: Sequence[RunResult]) -> Styler:
    """What the runs' scenes are: title, whether simulated, classes, splits and their sizes."""
    rows = []
    for r in {r.spec.scenes: r for r in results}.values():
        card = scene_card(r.spec.scenes)
        rows.append({
            "scenes": card.name, "what": card.title, "simulated": "yes" if card.simulated else "no",
            "classes": len(card.class_names), "features": ", ".join(card.feature_names),
            "training scenes": r.metrics["n_train"], "test scenes": r.metrics["n_test"],
            "test": card.splits["test"],
        })  # fmt: skip
    return _on_its_side(rows)


def _on_its_side(rows: Sequence[dict]) -> Styler:
    """Show few long rows as columns, under numbers."""
    columns = [str(number) for number in range(1, len(rows) + 1)]
    table = pd.DataFrame(rows, index=columns).fillna("").T
    return table.style.hide(axis="columns").format(escape="html").format_index(escape="html")


def settings(results: Sequence[RunResult]) -> Styler:
    """The settings of the runs: a column per scenes and network, a row per setting that is set."""
    table = runs_table(results)
    columns = [name for name in _SETTINGS if name in table and table[name].notna().any()]
    groups = table.groupby(["scenes", "model"], sort=False)
    rows = [
        {"scenes": scenes, "network": model}
        | {_SETTINGS[name]: _values(part[name]) for name in columns}
        for (scenes, model), part in groups
    ]
    return _on_its_side(rows)


def _values(column: pd.Series) -> str:
    values = [value for value in column.drop_duplicates() if not pd.isna(value)]
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def summary(results: Sequence[RunResult]) -> Styler:
    """Mean and standard deviation over seeds of each scenes, network and method, in per cent."""
    table = runs_table(results)
    groups = table.groupby(["scenes", "model", "weights", "method"], sort=False)
    shown = pd.DataFrame({
        "mIoU (%)": 100 * groups["miou"].mean(),
        "std": 100 * groups["miou"].std(),
        "accuracy (%)": 100 * groups["accuracy"].mean(),
        "mAcc (%)": 100 * groups["mean_class_accuracy"].mean(),
        "seeds": groups.size(),
        "parameters": groups["parameters"].first(),
        "minutes": groups["seconds_total"].mean() / 60,
    })
    whole = {"parameters": "{:,.0f}", "seeds": "{:d}"}
    formats = {column: whole.get(column, "{:.1f}") for column in shown}
    styler = shown.reset_index().style.format(formats, na_rep="").hide(axis="index")
    return styler.format(breakable, subset=["scenes", "model", "weights", "method"])


def class_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run and class: scenes, model, weights, method, seed, class, iou, points.

    iou is NaN for a class that no point of the measured scenes has; points counts its points.
    """
    rows = []
    for r in results:
        counts = r.confusion()
        iou = metrics.class_iou(counts.to_numpy())
        about = {name: getattr(r.spec, name) for name in ("scenes", "model", "weights", "seed")}
        about["method"] = method_label(r.spec.weights, r.spec.regime)
        rows += [
            about | {"class": name, "iou": value, "points": int(points)}
            for name, value, points in zip(counts, iou, counts.sum(axis=1), strict=True)
        ]
    columns = ["scenes", "model", "weights", "seed", "method", "class", "iou", "points"]
    return pd.DataFrame(rows, columns=columns)


def absent_rules(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return the mIoU (%) of each setting by either rule, from the same confusion matrices.

    "absent skipped" is this book's rule, "absent counts 1" the released code's; the last column
    is that code's on S3DIS, which counts "stairs" as well, a class that it ignores.
    """
    rows = []
    for r in results:
        counts = r.confusion().to_numpy()
        rows.append({
            "scenes": r.spec.scenes,
            "model": r.spec.model,
            "method": method_label(r.spec.weights, r.spec.regime),
            "absent classes": int(np.isnan(metrics.class_iou(counts)).sum()),
            "absent skipped": 100 * metrics.mean_iou(counts),
            "absent counts 1": 100 * metrics.mean_iou(counts, "perfect"),
            "as released": 100 * metrics.mean_iou(
                counts, "perfect", scene_card(r.spec.scenes).perfect_classes
            ),
        })  # fmt: skip
    keys = ["scenes", "model", "method"]
    table = pd.DataFrame(rows, columns=[*keys, "absent classes", "absent skipped",
                                        "absent counts 1", "as released"])  # fmt: skip
    return table.groupby(keys, sort=False).mean().reset_index() if rows else table


def sentences(results: Sequence[RunResult]) -> str:
    """Say what these runs show of scratch against image weights, as an HTML list.

    One is called better where its worst seed is above the other's best, and the line says how
    often chance alone would order the seeds so; one run against one says nothing.
    """
    table, classes = runs_table(results), class_table(results)
    lines = []
    for (scenes, model), part in table.groupby(["scenes", "model"], sort=False):
        scratch = part.loc[part["method"] == "scratch", "miou"]
        for weights, ours in part[part["method"] == "FIP-ALL"].groupby("weights", sort=False):
            if not len(scratch):
                continue
            name = f"{scene_card(scenes).title.split(':')[0]}, {model}, {weights}"
            lines.append(f"{name}: {_relation(ours['miou'], scratch)}")
            mine = classes[(classes["scenes"] == scenes) & (classes["model"] == model)]
            lines.append(f"{name}: {_classes(mine, weights)}")
    return html_list(lines or ["No network ran both from scratch and with image weights."])


def _relation(ours: pd.Series, scratch: pd.Series) -> str:
    gap = round(100 * (ours.mean() - scratch.mean()), 1) + 0.0  # not -0.0
    once = math.comb(len(ours) + len(scratch), len(ours))
    chance = f" (chance alone orders the seeds so once in {once})"
    if len(ours) == len(scratch) == 1:
        relation = "one run each cannot tell which is better"
    elif ours.min() > scratch.max():
        relation = "FIP-ALL is better than scratch in every pair of seeds" + chance
    elif ours.max() < scratch.min():
        relation = "FIP-ALL is worse than scratch in every pair of seeds" + chance
    else:
        relation = "the seeds of FIP-ALL and scratch overlap"
    return f"{relation}: {gap:+.1f} points of mIoU ({len(ours)} and {len(scratch)} runs)."


def _classes(classes: pd.DataFrame, weights: str) -> str:
    """Name the classes that gain and lose most, and those without any point."""
    ours = classes[(classes["weights"] == weights) & (classes["method"] == "FIP-ALL")]
    scratch = classes[classes["method"] == "scratch"]
    means = [part.groupby("class", sort=False)["iou"].mean() for part in (ours, scratch)]
    gain = (100 * (means[0] - means[1])).dropna().sort_values()
    absent = [name for name in means[1].index if name not in gain.index]
    text = "no class occurs." if gain.empty else (
        f"the largest gain is {gain.index[-1]} ({gain.iloc[-1]:+.1f}), "
        f"the smallest {gain.index[0]} ({gain.iloc[0]:+.1f})."
    )
    return text + (f" Without a point in the test scenes: {', '.join(absent)}." if absent else "")


def shown_scene(
    results: Sequence[RunResult], layout: str, index: int = 0
) -> tuple[Mapping[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...], str]:
    """Return what `plots.clouds_html` takes: one test scene of a layout ("s3dis", ...).

    That is {"truth", "scratch", "FIP-ALL": (points, classes)}, the names of the classes and a
    title.  The network is the one with most methods, of each method the first seed counts.  Of a
    driving scene only what lies near the sensor is shown.
    Nothing is in the first where no network of that layout ran.
    """
    groups: dict[tuple[str, str], dict[str, RunResult]] = {}
    for r in results:
        if scene_card(r.spec.scenes).layout == layout:
            methods = groups.setdefault((r.spec.scenes, r.spec.model), {})
            methods.setdefault(method_label(r.spec.weights, r.spec.regime), r)
    if not groups:
        return {}, (), ""
    scenes, model = max(groups, key=lambda key: (len(groups[key]), key[1].startswith("unet")))
    clouds: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for method, r in groups[scenes, model].items():
        kept = r.scenes()
        name = sorted(kept)[index % len(kept)]
        points, labels, predictions = (
            kept[name][part] for part in ("points", "labels", "predictions")
        )
        shown = np.full(len(points), True)
        if scene_card(scenes).around_sensor:
            shown = np.hypot(points[:, 0], points[:, 1]) < NEAR
        clouds.setdefault("truth", (points[shown], labels[shown].astype(int)))
        clouds[method] = (points[shown], predictions[shown].astype(int))
    return clouds, scene_card(scenes).class_names, f"{scenes}, {name}, {model}"
