"""Our runs in the paper's words: methods, pretraining, and whether the setting is the paper's."""

from __future__ import annotations

import pandas as pd

from i2p_lib.paper.items import PERCENT
from i2p_lib.paper.recipes import as_in_paper, settings_read

# Our names of weights -> what the paper's tables call their source.
_PRETRAINING = {"random": "none", "imagenet1k_pixels": "imagenet1k"}
# Our names of scenes and of networks on them -> the paper's.
_SCENES = {"s3dis": "s3dis_area5", "semantic_kitti": "semantic_kitti_08"}
_SCENE_MODELS = {"unet:resnet18": "resnet18", "range:hrnet_w48": "hrnetv2_w48"}


def method_name(regime: str, weights: str | None) -> str:
    """Return the paper's name of a training method: "scratch", "fip-io", "fip-all", ...

    Random weights that stay frozen in part ("control-io+bn") are our control, not a method of
    the paper.

    >>> method_name("io+bn", "imagenet1k"), method_name("all", "random")
    ('fip-io+bn', 'scratch')
    """
    if weights not in (None, "random"):
        return f"fip-{regime}"
    return "scratch" if regime == "all" else f"control-{regime}"


def rows_of_runs(
    runs: pd.DataFrame, metric: str | None = None, column: str | None = None
) -> pd.DataFrame:
    """Return the rows that `compare` wants, one per run, from a table of runs (settings, metrics).

    metric, column: the paper's name of the score, and the column that holds it; of a table with a
    column miou (segmentation) that one, of any other top1.
    Shares become per cent.  Where a run chose its checkpoint on the test split, as the released
    code does, that epoch's score is taken.  A run counts as in the paper (as_in_paper) where
    every setting is the released recipe's, see `recipes.as_in_paper`.
    """
    score = "miou" if "miou" in runs else "top1"
    metric, column = metric or score, column or score
    data = "scenes" if "scenes" in runs else "data"
    wanted = [data, "model", "weights", "regime", column, *settings_read(runs)]
    missing = [name for name in wanted if name not in runs]
    if missing:
        raise ValueError(f"the table of runs lacks the columns {missing}; got {[*runs.columns]}")
    values = runs[column]
    if column == score and f"{score}_best_test" in runs:
        values = runs[f"{score}_best_test"].fillna(values)
    methods = [method_name(r, w) for r, w in zip(runs["regime"], runs["weights"], strict=True)]
    if "distill" in runs:  # students, by the kind of their teacher's answers
        kinds = runs["distill"].where(runs["distill"].notna(), None)
        methods = [f"{m}, {k} labels" if k else m for m, k in zip(methods, kinds, strict=True)]
    return pd.DataFrame(
        {
            "dataset": runs[data].replace(_SCENES),
            "model": runs["model"].replace(_SCENE_MODELS), "method": methods,
            "pretraining": runs["weights"].replace(_PRETRAINING),
            "shots": runs["shots"] if "shots" in runs else None, "metric": metric,
            "value": values * (100 if metric in PERCENT else 1), "as_in_paper": as_in_paper(runs),
        }
    )  # fmt: skip
