"""Our runs in the paper's words: methods, pretraining, and whether the setting is the paper's."""

from __future__ import annotations

import pandas as pd

from i2p_lib.paper.items import PERCENT

# Our names of weights -> what the paper's tables call their source.
_PRETRAINING = {"random": "none", "imagenet1k_pixels": "imagenet1k"}
# The released training recipe (ModelNet40).  The learning rate's schedule is given twice: the
# released code steps a cosine per iteration, and nobody knows whether the paper's runs did.
PAPER_RECIPE = {
    "recipe": "paper", "protocol": "released", "normalize": False, "voxel_size": 0.05,
    "points": 2048, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4,
    "schedule": ("cosine", "cosine_per_iteration"), "label_smoothing": 0.0,
    "augment": "paper", "axis": "z",
}  # fmt: skip


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


def rows_of_runs(runs: pd.DataFrame, metric: str = "top1", column: str = "top1") -> pd.DataFrame:
    """Return the rows that `compare` wants, one per run, from a table of runs (settings, metrics).

    Accuracies become per cent.  Where a run chose its checkpoint on the test split, as the
    released code does, that epoch's top1 is taken.  A run counts as in the paper (as_in_paper)
    where every setting is the released recipe's: `PAPER_RECIPE`, 100 epochs or more, and all of
    the data.
    """
    wanted = ["data", "model", "weights", "regime", column, *PAPER_RECIPE, "epochs"]
    missing = [name for name in wanted if name not in runs]
    if missing:
        raise ValueError(f"the table of runs lacks the columns {missing}; got {[*runs.columns]}")
    same = runs["epochs"] >= 100
    for name, value in PAPER_RECIPE.items():
        same &= runs[name].isin(value if isinstance(value, tuple) else (value,))
    for name in ("train_limit", "test_limit"):
        if name in runs:
            same &= runs[name].isna()
    values = runs[column]
    if column == "top1" and "top1_best_test" in runs:
        values = runs["top1_best_test"].fillna(values)
    methods = [method_name(r, w) for r, w in zip(runs["regime"], runs["weights"], strict=True)]
    if "distill" in runs:  # students, by the kind of their teacher's answers
        kinds = runs["distill"].where(runs["distill"].notna(), None)
        methods = [f"{m}, {k} labels" if k else m for m, k in zip(methods, kinds, strict=True)]
    return pd.DataFrame(
        {
            "dataset": runs["data"], "model": runs["model"], "method": methods,
            "pretraining": runs["weights"].replace(_PRETRAINING),
            "shots": runs["shots"] if "shots" in runs else None, "metric": metric,
            "value": values * (100 if metric in PERCENT else 1), "as_in_paper": same,
        }
    )  # fmt: skip
