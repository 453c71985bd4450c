"""Segmentation's tables, computed from runs on scenes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib import runs
from i2p_lib.analysis.methods import with_method
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.tables import RunResult
from i2p_lib.show import tables

STAND_INS = {
    "simulated_rooms": "s3dis_area5", "simulated_streets": "semantic_kitti_08",
    "unet:resnet18": "resnet18", "unet:efficientnet_lite0": "resnet18",
    "range:efficientnet_lite0": "hrnetv2_w48", "range:hrnet_w48": "hrnetv2_w48",
}  # fmt: skip
"""Our scenes and networks -> those of the paper in whose row they are shown."""

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


def settings(results: Sequence[RunResult]) -> Styler:
    """Return the settings of the runs: a column per scenes and network."""
    return tables.settings(runs_table(results), _SETTINGS, {"scenes": "scenes", "model": "network"})


def summary(results: Sequence[RunResult]) -> Styler:
    """Return mean and standard deviation over seeds of each scenes, network and method."""
    return tables.summary(runs_table(results), ["scenes", "model", "weights", "method"], _SCORES,
                          "seeds", _WHOLE, _MINUTES, sort=False)  # fmt: skip
