"""Our runs in the paper's words, and which of them followed a released recipe."""

from collections.abc import Mapping

import pandas as pd

from i2p_lib.inflation import ORIGINAL_AXES
from i2p_lib.paper.items import PERCENT

# Our names of weights -> what the paper's tables call their source.
_PRETRAINING = {"random": "none", "imagenet1k_pixels": "imagenet1k"}
# Our names of scenes and of networks on them -> the paper's.
_SCENES = {"s3dis": "s3dis_area5", "semantic_kitti": "semantic_kitti_08"}
_SCENE_MODELS = {"unet:resnet18": "resnet18", "range:hrnet_w48": "hrnetv2_w48"}
# ModelNet40 (configs/modelnet).  The learning rate's schedule is given twice: the released code
# steps a cosine per iteration, and nobody knows whether the paper's runs did.
PAPER_RECIPE: Mapping[str, object] = {
    "recipe": "paper", "protocol": "released", "normalize": False, "voxel_size": 0.05,
    "points": 2048, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4,
    "schedule": ("cosine", "cosine_per_iteration"), "label_smoothing": 0.0,
    "augment": "paper", "axis": ORIGINAL_AXES["z-axis"], "init": (None, "torchsparse"),
    "changes": "",
}  # fmt: skip
_SCENE_RECIPE = {"protocol": "released", "augment": "paper", "optimizer": "sgd", "nesterov": True,
                 "weight_decay": 1e-4, "voxel_size": 0.05,
                 **{name: PAPER_RECIPE[name] for name in ("axis", "init", "changes", "normalize")}}
_ROOMS = _SCENE_RECIPE | {"lr": 0.1, "schedule": "poly", "epochs": 400, "batch_size": 8}
_STREETS = _SCENE_RECIPE | {"lr": 0.24, "schedule": "warmup_cosine", "epochs": 15, "batch_size": 2}
SCENE_RECIPES: Mapping[tuple[str, str], Mapping[str, object]] = {
    ("s3dis", "unet:resnet18"): _ROOMS,
    ("semantic_kitti", "unet:resnet18"): _STREETS,
}
"""(scenes, network) -> the released recipe (configs/s3dis, configs/semantic_kitti).  How PointNet++
and HRNet were trained is not known, so no setting of theirs counts as the paper's."""


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


def rows_of_runs(runs: pd.DataFrame, metric: str | None = None,
                 column: str | None = None) -> pd.DataFrame:
    """Return the rows that `compare` wants, one per run, from a table of runs (settings, metrics).

    metric, column: the paper's name of the score, and the column that holds it; of a table with a
    column miou (segmentation) that one, of any other top1.
    Shares become per cent.  Where a run chose its checkpoint on the test split, as the released
    code does, that epoch's score is taken.  A run counts as in the paper (as_in_paper) where
    every setting is the released recipe's, see `as_in_paper`.
    """
    score = "miou" if "miou" in runs else "top1"
    metric, column = metric or score, column or score
    data = "scenes" if "scenes" in runs else "data"
    recipes = SCENE_RECIPES.values() if "scenes" in runs else [PAPER_RECIPE]
    read = dict.fromkeys(["epochs", *(name for recipe in recipes for name in recipe)])
    wanted = [data, "model", "weights", "regime", column, *read]
    missing = [name for name in wanted if name not in runs]
    if missing:
        raise ValueError(f"the table of runs lacks the columns {missing}; got {[*runs.columns]}")
    values = runs[column]
    if column == score and f"{score}_best_test" in runs:
        values = runs[f"{score}_best_test"].fillna(values)
    methods = [method_name(r, w) for r, w in zip(runs["regime"], runs["weights"], strict=True)]
    if "distill" in runs:  # students, by the kind of their teacher's answers
        kinds = runs["distill"].astype(object).where(runs["distill"].notna(), None)
        methods = [f"{m}, {k} labels" if k else m for m, k in zip(methods, kinds, strict=True)]
    return pd.DataFrame(
        {"dataset": runs[data].replace(_SCENES),
         "model": runs["model"].replace(_SCENE_MODELS), "method": methods,
         "pretraining": runs["weights"].replace(_PRETRAINING),
         "shots": runs["shots"] if "shots" in runs else None, "metric": metric,
         "value": values * (100 if metric in PERCENT else 1), "as_in_paper": as_in_paper(runs)}
    )  # fmt: skip


def as_in_paper(runs: pd.DataFrame) -> pd.Series:
    """Tell of each row of a table of runs whether its settings are the paper's.

    Classification: every setting of `PAPER_RECIPE`, and 100 epochs or more.  Scenes: every setting
    of the recipe in `SCENE_RECIPES`.  Either on all of the data.
    """
    whole = runs.reindex(columns=["train_limit", "test_limit"]).isna().all(axis=1)
    if "scenes" not in runs:
        return whole & (runs["epochs"] >= 100) & _follows(runs, PAPER_RECIPE)
    same = pd.Series(False, index=runs.index)
    for (scenes, model), recipe in SCENE_RECIPES.items():
        named = (runs["scenes"] == scenes) & (runs["model"] == model)
        same |= named & _follows(runs, recipe)
    return whole & same


def _follows(runs: pd.DataFrame, recipe: Mapping[str, object]) -> pd.Series:
    same = pd.Series(True, index=runs.index)
    for name, value in recipe.items():
        allowed = value if isinstance(value, tuple) else (value,)
        given = runs[name].astype(object).where(runs[name].notna(), None)
        same &= given.map(lambda found, allowed=allowed: found in allowed)
    return same
