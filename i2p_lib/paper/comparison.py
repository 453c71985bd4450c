"""Our numbers beside the paper's: matching rows, and the one rule of the verdicts."""

import math
from collections.abc import Mapping

import pandas as pd

from i2p_lib.paper import items
from i2p_lib.paper.items import KEY, PERCENT, Verdict

_DATA_NAMES = {
    "modelnet40": "ModelNet40",
    "s3dis_area5": "S3DIS",
    "semantic_kitti_08": "SemanticKITTI",
}
_WEIGHT_NAMES = {
    "imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k", "cityscapes": "Cityscapes",
    "stylized_imagenet": "Stylized-ImageNet", "tiny_imagenet": "Tiny-ImageNet",
    "fractaldb1k": "FractalDB-1k", "fractaldb10k": "FractalDB-10k",
}  # fmt: skip
# Names of other libraries -> the paper's names of the same networks.
_PAPER_MODELS = {
    "wide_resnet101_2": "resnet101x2", "hrnet_w48": "hrnetv2_w48",
    "point_vit_b16": "vit_b_16", "point_vit_l16": "vit_l_16",
}  # fmt: skip
# The authors trained these image networks themselves and released no file.
_UNPUBLISHED = {("pointnet2_ssg", "imagenet1k"), ("simpleview", "imagenet1k")}


def tolerance(paper: float, paper_std: float, ours_std: float, metric: str) -> float:
    """Return the largest difference that still counts as reproduced.

    Two standard deviations of the difference, paper's and ours taken together (an unknown one
    counts as zero), but at least 1.0 point for accuracies and mIoU, and at least a tenth of the
    paper's value for other metrics (epochs, distances).
    """
    known = [s for s in (paper_std, ours_std) if s is not None and math.isfinite(s)]
    least = 1.0 if metric in PERCENT else abs(paper) / 10
    return max(2 * math.hypot(*known), least)


def verdict(paper: float | None, ours: float | None, same_setting: bool, metric: str = "top1",
            paper_std: float = math.nan, ours_std: float = math.nan, needs: str = "",
            shown: bool = False) -> str:
    """Return the verdict on one number.  This is the rule, the only place where it is written.

    "not run: needs ..."  we have no number
    "not in the paper"    the paper has no number that could be read
    "other setting"       data, model, pretraining or recipe are not the paper's, whatever the gap;
                          also where the paper has `shown` a bar that nobody could read
    "reproduced"          same setting, and |ours - paper| <= `tolerance`
    "differs"             same setting, and farther apart
    """
    if ours is None or math.isnan(ours):
        return f"{Verdict.NOT_RUN}: needs {needs}" if needs else Verdict.NOT_RUN
    if paper is None or math.isnan(paper):
        return Verdict.OTHER_SETTING if shown and not same_setting else Verdict.NOT_IN_PAPER
    if not same_setting:
        return Verdict.OTHER_SETTING
    # The small term keeps 91.3 - 90.3 within 1.0 in binary arithmetic.
    within = abs(ours - paper) <= tolerance(paper, paper_std, ours_std, metric) + 1e-9
    return Verdict.REPRODUCED if within else Verdict.DIFFERS


def compare(item: str, ours: pd.DataFrame | None = None,
            stand_in: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the paper's values of an item with ours beside them (columns COMPARISON_COLUMNS).

    ours      one row per seed: dataset, model, method, pretraining, metric, value, and where it
              applies shots.  Accuracies and mIoU in per cent.  A column as_in_paper (bool) says
              where data, voxels, epochs, optimizer and protocol are the paper's; without it they
              are taken not to be.  `rows_of_runs` makes such rows from a table of runs.
    stand_in  our model, data or pretraining -> the paper's, in whose line ours is printed when
              the setting is another one: {"efficientnet_lite0": "resnet50"}.  Data that are not
              named stand in for any.

    First come the paper's rows in its order, then our rows that it has no value for.  The
    difference is given for the same setting alone: between other data it would mean nothing.
    Raises ValueError for an unknown item, missing columns, or accuracies that look like fractions.
    """
    items.known_item(item)
    groups = _grouped(ours)
    stand_in = stand_in or {}
    rows: list[dict] = []
    used: set[int] = set()
    for row in items.paper_values().query("item == @item").fillna({"shots": -1}).to_dict("records"):
        exact = [i for i, g in enumerate(groups) if _matches(g, row, {}, KEY)]
        same = [i for i in exact if groups[i]["as_in_paper"]]
        loose = [i for i, g in enumerate(groups)
                 if _matches(g, row, stand_in, KEY if g["dataset"] in stand_in else KEY[1:])]
        found = same or exact or loose
        used |= set(found)
        rows += [_line(row, groups[i], i in same) for i in found] or [_line(row, None, False)]
    rows += [_line(None, g, False) for i, g in enumerate(groups) if i not in used]
    return items.comparison_table(rows)


def _grouped(ours: pd.DataFrame | None) -> list[dict]:
    """Return each setting of ours: its key (shots -1: all), as_in_paper, mean, std and count."""
    if ours is None or ours.empty:
        return []
    missing = {"dataset", "model", "method", "pretraining", "metric", "value"} - {*ours.columns}
    if missing:
        raise ValueError(f"our values lack the columns {sorted(missing)}; got {[*ours.columns]}")
    table = pd.DataFrame({"shots": -1, "as_in_paper": False}, ours.index).assign(**ours)
    table["shots"] = pd.to_numeric(table["shots"]).fillna(-1).astype(int)
    table["model"] = table["model"].replace(_PAPER_MODELS)
    if not table["value"].astype(float).map(math.isfinite).all():
        raise ValueError("our values hold one that is not finite; leave failed runs out")
    if table.loc[table["metric"].isin(PERCENT), "value"].max() <= 1:
        raise ValueError("accuracies and mIoU are wanted in per cent, got fractions of 1")
    values = table.groupby([*KEY, "as_in_paper"], sort=False)["value"]
    return values.agg(["mean", "std", "count"]).reset_index().to_dict("records")


def _matches(group: dict, row: dict, stand_in: Mapping[str, str], names: list[str]) -> bool:
    return all(stand_in.get(group[name], group[name]) == row[name] for name in names)


def _line(row: dict | None, group: dict | None, same: bool) -> dict:
    """Return one row of a comparison from the paper's row, ours, or both."""
    key = {name: (row or group)[name] for name in KEY}
    theirs = row or {"value": math.nan, "std": math.nan, "source": ""}
    mine = group or {"mean": math.nan, "std": math.nan, "count": 0}
    paper, ours = theirs["value"], mine["mean"]
    judged = verdict(paper, ours, same, key["metric"], theirs["std"], mine["std"],
                     _needs(row) if row else "", shown=row is not None)
    setting = ("as in the paper" if same else _setting(row, group)) if group else ""
    return key | {
        "shots": None if key["shots"] < 0 else key["shots"],
        "paper": paper, "paper_std": theirs["std"], "source": theirs["source"],
        "ours": ours, "ours_std": mine["std"], "seeds": mine["count"],
        "difference": ours - paper if same else math.nan, "setting": setting, "verdict": judged,
    }  # fmt: skip


def _setting(row: dict | None, group: dict) -> str:
    """Say what is other than the paper's in a row of ours."""
    if row and all(group[name] == row[name] for name in ("dataset", "model")):
        return "other recipe"
    own = row and group["pretraining"] != row["pretraining"]
    weights = f", {group['pretraining']} weights" if own else ""
    return f"{group['dataset']}, {group['model']}{weights}"


def _needs(row: dict) -> str:
    """Say what the paper's own number asks for: its data and its image weights."""
    data = _DATA_NAMES.get(row["dataset"], row["dataset"])
    if row["pretraining"] == "none":
        return data
    if (row["model"], row["pretraining"]) in _UNPUBLISHED:
        return f"{data}, image weights that were never released"
    weights = _WEIGHT_NAMES.get(row["pretraining"], row["pretraining"])
    return f"{data}, {weights} weights"
