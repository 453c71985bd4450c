"""The released training recipes, as settings of runs, and which runs followed one."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

# ModelNet40.  The learning rate's schedule is given twice: the released code steps a cosine per
# iteration, and nobody knows whether the paper's runs did.
PAPER_RECIPE: Mapping[str, object] = {
    "recipe": "paper", "protocol": "released", "normalize": False, "voxel_size": 0.05,
    "points": 2048, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4,
    "schedule": ("cosine", "cosine_per_iteration"), "label_smoothing": 0.0,
    "augment": "paper", "axis": "z",
}  # fmt: skip
_SCENES = {
    "protocol": "released", "augment": "paper", "optimizer": "sgd", "nesterov": True,
    "weight_decay": 1e-4, "voxel_size": 0.05, "point_branch": True, "axis": "z",
    "normalize": False,
}  # fmt: skip
_ROOMS = _SCENES | {"lr": 0.1, "schedule": "poly", "epochs": 400, "batch_size": 8}
_STREETS = _SCENES | {"lr": 0.24, "schedule": "warmup_cosine", "epochs": 15, "batch_size": 2}
SCENE_RECIPES: Mapping[tuple[str, str], Mapping[str, object]] = {
    ("s3dis", "unet:resnet18"): _ROOMS,
    ("semantic_kitti", "unet:resnet18"): _STREETS,
}
"""(scenes, network) -> the released recipe (paper notes 3.3).  How PointNet++ and HRNet were
trained is not known, so no setting of theirs counts as the paper's."""


def settings_read(runs: pd.DataFrame) -> list[str]:
    """Return the settings that `as_in_paper` reads of such runs."""
    recipes = SCENE_RECIPES.values() if "scenes" in runs else [PAPER_RECIPE]
    return list(dict.fromkeys(["epochs", *(name for recipe in recipes for name in recipe)]))


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
        same &= runs[name].isin(value if isinstance(value, tuple) else (value,))
    return same
