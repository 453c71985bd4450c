"""Comparisons on paper: as HTML for a page, and as records for the book's overview."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pandas as pd

from i2p_lib.files import atomic_write
from i2p_lib.paper.items import (
    COMPARISON_COLUMNS,
    DIFFERS,
    ITEMS,
    NOT_IN_PAPER,
    NOT_RUN,
    OTHER_SETTING,
    PERCENT,
    REPRODUCED,
    known_item,
    typed_comparison,
)

VERDICTS = (REPRODUCED, DIFFERS, OTHER_SETTING, NOT_IN_PAPER, NOT_RUN)
_RECORD_FIELDS = {"item", "profile", "note", "figures", "written", "rows"}

# The class `dataframe` makes the book's theme give the table its own light and dark colours;
# the chips bring both their colours along, so that they read on either.
FOLDED_FROM = 8  # more rows than these that the paper lacks are folded away
_STYLE = """<style>
.i2p-wrap{overflow-x:auto}
table.dataframe.i2p-comparison{font-size:.85em;border-collapse:collapse;margin:.5em 0}
table.dataframe.i2p-comparison td,table.dataframe.i2p-comparison th{padding:.25em .5em;
text-align:left;vertical-align:baseline}
table.dataframe.i2p-comparison .i2p-n{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}
table.dataframe.i2p-comparison caption{caption-side:top;text-align:left;font-weight:600}
table.dataframe.i2p-comparison .i2p-t{white-space:normal}
.i2p-comparison .i2p-chip{border-radius:1em;padding:.05em .7em;white-space:nowrap;color:#fff;
background:#5b6470;box-shadow:none;font-size:.92em}
.i2p-comparison .i2p-reproduced{background:#1a7f37}.i2p-comparison .i2p-differs{background:#b42318}
.i2p-comparison .i2p-other-setting{background:#2f5f9e}
.i2p-comparison .i2p-not-run,.i2p-comparison .i2p-not-in-the-paper{background:transparent;
color:inherit;box-shadow:inset 0 0 0 1px currentColor;padding:.05em .5em}
.i2p-comparison .i2p-not-in-the-paper{box-shadow:none;opacity:.75;padding:0}
.i2p-comparison small{opacity:.8}
</style>"""


def verdict_kind(text: str) -> str:
    """Return the verdict without its reason: "not run: needs S3DIS" -> "not run"."""
    kind = text.partition(":")[0]
    if kind not in VERDICTS:
        raise ValueError(f"unknown verdict {text!r}; expected one of {list(VERDICTS)}")
    return kind


def verdict_counts(comparison: pd.DataFrame) -> dict[str, int]:
    """Return how many rows of a comparison have each verdict, in the order of `VERDICTS`."""
    kinds = [verdict_kind(text) for text in comparison["verdict"]]
    return {kind: kinds.count(kind) for kind in VERDICTS if kind in kinds}


def comparison_html(comparison: pd.DataFrame) -> str:
    """Return a comparison (`compare`) as one HTML table; every text of it is escaped.

    The metric, and the paper's data, go above the table where there is but one; a column that
    is empty throughout is left out.  Many rows that the paper lacks are folded away below the
    others.  Show it with `IPython.display.HTML`.
    """
    _check_columns(comparison)
    if comparison.empty:
        return "<p>No run of this profile, and no number of the paper that could be seen.</p>"
    known = comparison[comparison["verdict"] != NOT_IN_PAPER]
    further = comparison[comparison["verdict"] == NOT_IN_PAPER]
    if len(further) <= FOLDED_FROM:
        return f"{_STYLE}\n{_table(comparison)}"
    title = f"{len(further)} {'further ' if len(known) else ''}values of ours, not in the paper"
    folded = f'<details class="i2p-rows"><summary>{title}</summary>\n{_table(further)}\n</details>'
    return "\n".join([_STYLE, *([_table(known)] if len(known) else []), folded])


def _table(comparison: pd.DataFrame) -> str:
    columns = _cells(comparison.to_dict("records"))
    known = comparison[comparison["verdict"] != NOT_IN_PAPER]
    common = {"data": known["dataset"].unique(), "metric": comparison["metric"].unique()}
    if known.empty:  # nothing that our setting could differ from; data and model say it all
        del columns["our setting"]
    common = {name: texts[0] for name, texts in common.items() if len(texts) == 1}
    columns = {name: column for name, column in columns.items() if name not in common}
    title = escape(", ".join(common.values()).replace("_", " "))
    kept = {name: column for name, column in columns.items() if any(text for text, _ in column)}
    head = "".join(f"<th{_class(column[0][1])}>{name}</th>" for name, column in kept.items())
    body = "".join(
        "<tr>" + "".join(f"<td{_class(kind)}>{text}</td>" for text, kind in line) + "</tr>\n"
        for line in zip(*kept.values(), strict=True)
    )
    return (
        '<div class="i2p-wrap"><table class="dataframe i2p-comparison">\n'
        + (f"<caption>{title}</caption>" if title else "")
        + f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _cells(rows: list[dict]) -> dict[str, list[tuple[str, str]]]:
    """Return the columns of the HTML table: for each cell its safe text and its CSS class."""
    return {
        "data": [(breakable(r["dataset"]), "i2p-t") for r in rows],
        "model": [(breakable(r["model"]), "i2p-t") for r in rows],
        "method": [(_method(r), "i2p-t") for r in rows],
        "shots": [("" if pd.isna(r["shots"]) else str(r["shots"]), "i2p-n") for r in rows],
        "metric": [(escape(r["metric"].replace("_", " ")), "") for r in rows],
        "paper": [(_number(r["paper"], r["paper_std"], r["metric"]), "i2p-n") for r in rows],
        "ours": [(_number(r["ours"], r["ours_std"], r["metric"]), "i2p-n") for r in rows],
        "seeds": [(str(r["seeds"] or ""), "i2p-n") for r in rows],
        "difference": [(_signed(r["difference"], r["metric"]), "i2p-n") for r in rows],
        "our setting": [(_setting(r), "") for r in rows],
        "verdict": [(_chip(r["verdict"]), "") for r in rows],
    }


@dataclass(frozen=True)
class Recorded:
    """What a chapter found for one item: the comparison, a note, the labels of its figures.

    written: UTC time, ISO 8601.
    """

    item: str
    profile: str
    note: str
    figures: tuple[str, ...]
    written: str
    table: pd.DataFrame


def record(
    item: str,
    comparison: pd.DataFrame,
    profile: str,
    note: str = "",
    figures: Sequence[str] = (),
    build: str | Path | None = None,
) -> Path:
    """Write what a chapter found for an item, whole or not at all; return the file.

    comparison  from `compare`; empty where an item has no number
    build       default: `$I2P_BUILD`, else `_build` in the project
    The file is `items/<profile>/<item>.json`; an older one is replaced.  Raises ValueError for an
    unknown item, a profile that is no plain name, or a table that `compare` did not make.
    """
    known_item(item)
    _check_columns(comparison)
    verdict_counts(comparison)
    rows = [{name: _plain(value) for name, value in row.items()}
            for row in comparison.astype(object).to_dict("records")]  # fmt: skip
    content = {
        "item": item, "profile": profile, "note": note, "figures": list(figures),
        "written": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows,
    }  # fmt: skip
    path = _folder(profile, build) / f"{item}.json"
    with atomic_write(path) as temp:
        temp.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    return path


def recorded_items(profile: str, build: str | Path | None = None) -> dict[str, Recorded]:
    """Return all records of a profile by item id, in the paper's order of items.

    Raises ValueError naming the file that is damaged, misplaced or of an unknown item.
    """
    folder = _folder(profile, build)
    paths = sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))
    found = [_read_record(path, profile) for path in paths]
    order = list(ITEMS)
    return {r.item: r for r in sorted(found, key=lambda r: order.index(r.item))}


def _read_record(path: Path, profile: str) -> Recorded:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) != _RECORD_FIELDS:
            raise ValueError(f"expected an object with the fields {sorted(_RECORD_FIELDS)}")
        rows = content.pop("rows")
        if (content["item"], content["profile"]) != (path.stem, profile):
            raise ValueError(f"it says item {content['item']!r}, profile {content['profile']!r}")
        known_item(content["item"])
        if any(set(row) != set(COMPARISON_COLUMNS) for row in rows):
            raise ValueError(f"expected rows with the columns {COMPARISON_COLUMNS}")
        table = typed_comparison(pd.DataFrame(rows, columns=COMPARISON_COLUMNS))
        verdict_counts(table)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no good record ({error}); run its chapter again, or remove it"
        ) from error
    return Recorded(**content | {"figures": tuple(content["figures"])}, table=table)


def _folder(profile: str, build: str | Path | None) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", profile):
        raise ValueError(f"expected a profile's name (letters, digits, - and _), got {profile!r}")
    default = os.environ.get("I2P_BUILD") or Path(__file__).resolve().parents[2] / "_build"
    return Path(build or default) / "items" / profile


def _check_columns(comparison: pd.DataFrame) -> None:
    if list(comparison.columns) != COMPARISON_COLUMNS:
        raise ValueError(
            f"expected a table from compare() with the columns {COMPARISON_COLUMNS}, "
            f"got {list(comparison.columns)}"
        )


def _plain(value: object) -> object:
    """Return a JSON value; what is missing becomes null."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _method(row: dict) -> str:
    """Return the method, and the images of its pretraining where there are any."""
    if row["pretraining"] == "none":
        return escape(row["method"])
    return f"{escape(row['method'])} <small>{escape(row['pretraining'])}</small>"


def _setting(row: dict) -> str:
    """Return what our number was measured on, or in small print what it would need."""
    reason = escape(row["verdict"].partition(": ")[2])
    return breakable(row["setting"]) or (f"<small>{reason}</small>" if reason else "")


def breakable(text: str) -> str:
    """Return an identifier as safe HTML that may be broken behind its "_" and ":"."""
    return escape(text).replace("_", "_<wbr>").replace(":", ":<wbr>")


def _digits(value: float, metric: str, decimals: int | None = None) -> str:
    """Return points with two decimals (one where the second is 0), else three digits."""
    if metric not in PERCENT:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if decimals is None:
        decimals = 1 if round(value, 1) == round(value, 2) else 2
    return f"{value:.{decimals}f}"


def _number(value: float, spread: float, metric: str) -> str:
    if math.isnan(value):
        return ""
    if math.isnan(spread):
        return _digits(value, metric)
    rounded = _digits(spread, metric, 1) if metric in PERCENT else f"{spread:.2g}"
    return f"{_digits(value, metric, 1)} ± {rounded}"


def _signed(value: float, metric: str) -> str:
    if math.isnan(value):
        return ""
    return ("−" if value < 0 else "+") + _digits(abs(value), metric)


def _chip(text: str) -> str:
    kind = verdict_kind(text)
    return f'<span class="i2p-chip i2p-{kind.replace(" ", "-")}">{kind}</span>'
