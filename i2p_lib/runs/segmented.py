"""What finished segmentation runs hold: the IoU of each class, the answers on one scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from i2p_lib.analysis.methods import method_label
from i2p_lib.analysis.segmentation import class_iou
from i2p_lib.data.scenes import Scene, load_scenes, scene_card
from i2p_lib.runs.tables import RunResult

NEAR = 25  # metres from the lidar, of the driving scene that is shown


def class_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run and class: scenes, model, weights, seed, method, class, iou, points.

    iou is NaN for a class that no point of the measured scenes has; points counts its points.
    """
    about = ["scenes", "model", "weights", "seed"]
    rows = []
    for r in results:
        counts = r.confusion()
        run = {name: getattr(r.spec, name) for name in about}
        run["method"] = method_label(r.spec.weights, r.spec.regime)
        rows += [
            run | {"class": name, "iou": value, "points": int(points)}
            for name, value, points in zip(
                counts, class_iou(counts.to_numpy()), counts.sum(axis=1), strict=True
            )
        ]
    return pd.DataFrame(rows, columns=[*about, "method", "class", "iou", "points"])


def first_scene(results: Sequence[RunResult], layout: str) -> Scene | None:
    """Return the first test scene of a layout ("s3dis", ...) that a run was measured on."""
    for r in results:
        if scene_card(r.spec.scenes).layout == layout:
            return load_scenes(r.spec.scenes, "test")[0]
    return None


def shown_scene(
    results: Sequence[RunResult], layout: str, index: int = 0
) -> tuple[Mapping[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...], str]:
    """Return what `show.turning.clouds_html` takes: one test scene of a layout.

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
    return clouds, tuple(r.confusion().columns), f"{scenes}, {name}, {model}"
