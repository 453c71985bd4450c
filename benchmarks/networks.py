"""The page of image networks: which can be inflated, how exactly, and which are refused why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from i2p_lib.markup import cell, chip, fold, html_table, raw, table

RESULTS = Path(__file__).with_name("results")
_REFUSED = "refused"
_FIGURES = ["deviation", "gradient"]


def networks(results: Path = RESULTS) -> str:
    """Return the page of image classifiers that can be inflated and of those that are refused."""
    torchvision = _read(results / "model_coverage-torchvision.csv")
    timm = _read(results / "model_coverage-timm.csv")
    return (
        "# Which image networks can be used\n\n"
        "Image classifiers are inflated as their libraries build them; "
        "no line of the code knows any of them by name.\n"
        "Every row below was computed with random weights by `benchmarks/model_coverage.py`.\n\n"
        f"{_about_torchvision(torchvision)}{_about_timm(timm)}\n"
        "## What was shown\n\n"
        "The proof is an image that is extruded without end along the inflated axis.\n"
        "On that volume the inflated network must give the logits of the image network, and each "
        "of its parameters the gradient of the image network's.\n"
        "*Logits* is their largest difference, as a share of what another image changes; "
        "*gradients* is that of the gradients, as a share of the largest in the same parameter.\n"
        "Then it is trained for a step on two clouds: no parameter may be left without a "
        "finite gradient.\n\n"
        "- *exact*: logits and gradients are those of the image network.\n"
        "- *exact but for the border*: some layers of the image network shrink the image at its "
        "border, count padding in a mean, or pool to a raster of several cells.\n"
        "  Sparse sites have no border and a cloud has no such raster.\n"
        "  Those windows are centred, means are over occupied sites, and each cell of the raster "
        "gets the mean of the whole cloud.\n"
        "  The numbers are those of the image network with its layers changed in that way.\n"
        "- *exact forward*: the network is too large for double precision here, "
        "so that its logits were compared in single precision.\n"
        "  Its gradients were not: rounding puts some values on the other side of a ReLU's corner, "
        "where the gradient is another.\n"
        "- *refused*: `inflate` raises an error with the reason.\n\n"
        f"{_precision(pd.concat([torchvision, timm]))}\n"
        "Sizes are in millions of parameters of the image network.\n\n"
        f"## torchvision by family\n\n{_families(torchvision)}\n"
        f"{raw(fold('Every classifier of torchvision', _members(torchvision)))}\n"
        f"## timm by module\n\n{raw(_members(timm[timm['verdict'] != _REFUSED]))}\n"
        f"### Refused\n\n{_reasons(timm[timm['verdict'] == _REFUSED])}"
    )


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype={"version": str, "dtype": str, "reason": str}).fillna(
        {"dtype": "", "reason": ""})


def _about_torchvision(members: pd.DataFrame) -> str:
    covered = members[members["verdict"] != _REFUSED]
    families = sorted(set(members["family"]) - set(covered["family"]))
    alike = _attention(members).sum() == len(members) - len(covered)
    why = ", for their attention" if alike else ""
    rest = f"; {', '.join(families)} are refused{why}" if families else ""
    return (f"**torchvision {_version(members)}** lists {len(members)} classifiers: "
            f"{len(covered)} in {covered['family'].nunique()} families were inflated, run forward "
            f"and backward and compared{rest}.\n")


def _about_timm(members: pd.DataFrame) -> str:
    covered = members[members["verdict"] != _REFUSED]
    attention = _attention(members).sum()
    return (f"Of **timm {_version(members)}** the smallest member of each of its {len(members)} "
            f"modules was tried: {len(covered)} were inflated, run forward and backward and "
            f"compared; {attention} use attention, "
            f"and {len(members) - len(covered) - attention} are refused for another reason.\n")


def _attention(members: pd.DataFrame) -> pd.Series:
    return members["reason"].str.contains(": attention (", regex=False)


def _version(members: pd.DataFrame) -> str:
    return cell(" and ".join(sorted(members["version"].unique())))


def _precision(members: pd.DataFrame) -> str:
    """Return the sentence on the number formats, with the largest deviation in each."""
    parts = []
    for dtype, group in sorted(members[members["dtype"] != ""].groupby("dtype"), reverse=True):
        who = f"{len(group)} networks" if len(group) > 1 else f"`{group['model'].iloc[0]}`"
        parts.append(f"{_scientific(group[_FIGURES].max().max())} in {cell(dtype)} ({who})")
    return f"The largest deviation is {' and '.join(parts)}.\n"


def _families(members: pd.DataFrame) -> str:
    rows = []
    for name, group in members.groupby("family", sort=False):
        counts = group["verdict"].value_counts()
        size = group["parameters"] / 1e6
        span = f"{size.min():.1f}" if len(group) == 1 else f"{size.min():.1f} - {size.max():.1f}"
        rows.append([
            cell(name), str(len(group)), span,
            "<br>".join(chip(verdict) for verdict in counts.index),
            *(_scientific(group[figure].max()) for figure in _FIGURES),
        ])  # fmt: skip
    columns = ["family", "members", "size (M)", "result", "logits", "gradients"]
    return table(columns, rows, [1, 2, 4, 5])


def _members(members: pd.DataFrame) -> str:
    rows = [
        [_name(m), f"{m['parameters'] / 1e6:.1f}", chip(m["verdict"]),
         *(_scientific(m[figure]) for figure in _FIGURES)]
        for m in members.to_dict("records")
    ]  # fmt: skip
    columns = ["network", "size (M)", "result", "logits", "gradients"]
    return html_table(columns, rows, [1, 3, 4])


def _reasons(members: pd.DataFrame) -> str:
    """Return the refused networks with the reason that the code gives, the common ones folded."""
    attention = _attention(members)
    rest = fold(f"{attention.sum()} modules with attention", _reason_table(members[attention]))
    return raw(_reason_table(members[~attention])) + "\n" + raw(rest)


def _reason_table(members: pd.DataFrame) -> str:
    rows = [[_name(m), cell(m["reason"]).replace(".", ".<wbr>").replace("_", "_<wbr>")]
            for m in members.to_dict("records")]
    return html_table(["network", "reason"], rows)


def _name(member: dict) -> str:
    return f"{cell(member['family'])}<br><code>{cell(member['model'])}</code>"


def _scientific(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.0e}".replace("e-0", "e-")
