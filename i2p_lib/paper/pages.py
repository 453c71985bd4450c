"""Comparisons with the paper as HTML tables."""

from __future__ import annotations

import math

import pandas as pd

from i2p_lib.markup import breakable, cell, chip, fold, html_table
from i2p_lib.paper.items import NOT_IN_PAPER, PERCENT
from i2p_lib.paper.record import check_columns, verdict_kind

_NUMBERS = ("shots", "paper", "ours", "seeds", "difference")
FOLDED_FROM = 8  # more rows than these that the paper lacks are folded away
# The class `dataframe` makes the book's theme give the table its own light and dark colours;
# the chips bring both their colours along, so that they read on either.
_STYLE = """<style>
.i2p-scroll{overflow-x:auto}
table.dataframe.i2p-comparison{font-size:.85em;border-collapse:collapse;margin:.5em 0}
table.dataframe.i2p-comparison td,table.dataframe.i2p-comparison th{padding:.25em .5em;
text-align:left;vertical-align:baseline}
table.dataframe.i2p-comparison .i2p-number{text-align:right;white-space:nowrap;
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


def comparison_html(comparison: pd.DataFrame) -> str:
    """Return a comparison (`compare`) as one HTML table; every text of it is escaped.

    The metric, and the paper's data, go above the table where there is but one; a column that
    is empty throughout is left out.  Many rows that the paper lacks are folded away below the
    others.  Show it with `IPython.display.HTML`.
    """
    check_columns(comparison)
    if comparison.empty:
        return "<p>No run of this profile, and no number of the paper that could be seen.</p>"
    known = comparison[comparison["verdict"] != NOT_IN_PAPER]
    further = comparison[comparison["verdict"] == NOT_IN_PAPER]
    if len(further) <= FOLDED_FROM:
        return f"{_STYLE}\n{_table(comparison)}"
    title = f"{len(further)} {'further ' if len(known) else ''}values of ours, not in the paper"
    shown = [_table(known)] if len(known) else []
    return "\n".join([_STYLE, *shown, fold(title, _table(further))])


def _table(comparison: pd.DataFrame) -> str:
    columns = _cells(comparison.to_dict("records"))
    known = comparison[comparison["verdict"] != NOT_IN_PAPER]
    common = {"data": known["dataset"].unique(), "metric": comparison["metric"].unique()}
    if known.empty:  # nothing that our setting could differ from; data and model say it all
        del columns["our setting"]
    common = {name: texts[0] for name, texts in common.items() if len(texts) == 1}
    title = ", ".join(common.values()).replace("_", " ")
    kept = {name: texts for name, texts in columns.items() if name not in common and any(texts)}
    rows = zip(*kept.values(), strict=True)
    numbers = [place for place, name in enumerate(kept) if name in _NUMBERS]
    return html_table([*kept], rows, numbers, "dataframe i2p-comparison", title)


def _cells(rows: list[dict]) -> dict[str, list[str]]:
    """Return the columns of the HTML table, each cell safe HTML."""
    return {
        "data": [_wrapped(breakable(r["dataset"])) for r in rows],
        "model": [_wrapped(breakable(r["model"])) for r in rows],
        "method": [_wrapped(_method(r)) for r in rows],
        "shots": ["" if pd.isna(r["shots"]) else str(r["shots"]) for r in rows],
        "metric": [cell(r["metric"].replace("_", " ")) for r in rows],
        "paper": [_number(r["paper"], r["paper_std"], r["metric"]) for r in rows],
        "ours": [_number(r["ours"], r["ours_std"], r["metric"]) for r in rows],
        "seeds": [str(r["seeds"] or "") for r in rows],
        "difference": [_signed(r["difference"], r["metric"]) for r in rows],
        "our setting": [_setting(r) for r in rows],
        "verdict": [chip(verdict_kind(r["verdict"])) for r in rows],
    }


def _wrapped(text: str) -> str:
    """Let a cell's text go on in a second line, which the theme of a notebook forbids."""
    return f'<span class="i2p-t">{text}</span>'


def _method(row: dict) -> str:
    """Return the method, and the images of its pretraining where there are any."""
    if row["pretraining"] == "none":
        return cell(row["method"])
    return f"{cell(row['method'])} <small>{cell(row['pretraining'])}</small>"


def _setting(row: dict) -> str:
    """Return what our number was measured on, or in small print what it would need."""
    reason = cell(row["verdict"].partition(": ")[2])
    return breakable(row["setting"]) or (f"<small>{reason}</small>" if reason else "")


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
