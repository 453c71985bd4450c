"""Comparisons with the paper as HTML tables."""

import math
from pathlib import Path

import pandas as pd

from i2p_lib.markup import breakable, cell, chip, fold, html_table
from i2p_lib.paper.items import PERCENT, Verdict
from i2p_lib.paper.record import check_columns

_NUMBERS = ("shots", "paper", "ours", "seeds", "difference")
FOLDED_FROM = 8  # more rows than these that the paper lacks are folded away
# The class `dataframe` makes the book's theme give the table its own light and dark colours;
# the chips bring both their colours along, so that they read on either.
_STYLE = Path(__file__).with_name("comparison.css")
_PRINTED = ("", "ICLR text")  # sources that need no mark


def comparison_html(comparison: pd.DataFrame) -> str:
    """Return a comparison (`compare`) as one HTML table; every text of it is escaped.

    The metric, and the paper's data, go above the table where there is but one; a column that
    is empty throughout is left out.  Many rows that the paper lacks are folded away below the
    others.  A value of the paper that it does not print is marked, and
    the mark explained below.  Show it with `IPython.display.HTML`.
    """
    check_columns(comparison)
    if comparison.empty:
        return "<p>No run of this profile, and no number of the paper that could be seen.</p>"
    known = comparison[comparison["verdict"] != Verdict.NOT_IN_PAPER]
    further = comparison[comparison["verdict"] == Verdict.NOT_IN_PAPER]
    shown = [f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>"]
    if len(further) <= FOLDED_FROM:
        return "\n".join([*shown, _table(comparison)])
    title = f"{len(further)} {'further ' if len(known) else ''}values of ours, not in the paper"
    shown += [_table(known)] if len(known) else []
    return "\n".join([*shown, fold(title, _table(further))])


def _table(comparison: pd.DataFrame) -> str:
    marks = {text: f"<sup>{letter}</sup>" for letter, text in zip(
        "abcdefgh", sorted(set(comparison["source"]) - {*_PRINTED}), strict=False)}
    columns = _cells(comparison.to_dict("records"), marks)
    known = comparison[comparison["verdict"] != Verdict.NOT_IN_PAPER]
    common = {"data": known["dataset"].unique(), "metric": comparison["metric"].unique()}
    if known.empty:  # nothing that our setting could differ from; data and model say it all
        del columns["our setting"]
    common = {name: texts[0] for name, texts in common.items() if len(texts) == 1}
    title = ", ".join(common.values()).replace("_", " ")
    kept = {name: texts for name, texts in columns.items() if name not in common and any(texts)}
    rows = zip(*kept.values(), strict=True)
    numbers = [place for place, name in enumerate(kept) if name in _NUMBERS]
    said = "; ".join(f"{mark} {cell(text)}" for text, mark in marks.items())
    below = f"\n<p><small>{said}</small></p>" if said else ""
    return html_table([*kept], rows, numbers, "dataframe i2p-comparison", title) + below


def _cells(rows: list[dict], marks: dict[str, str]) -> dict[str, list[str]]:
    """Return the columns of the HTML table, each cell safe HTML; marks: those of sources."""
    return {"data": [_wrapped(breakable(r["dataset"])) for r in rows],
            "model": [_wrapped(breakable(r["model"])) for r in rows],
            "method": [_wrapped(_method(r)) for r in rows],
            "shots": ["" if pd.isna(r["shots"]) else str(r["shots"]) for r in rows],
            "metric": [cell(r["metric"].replace("_", " ")) for r in rows],
            "paper": [_number(r["paper"], r["paper_std"], r["metric"]) + marks.get(r["source"], "")
                      for r in rows],
            "ours": [_number(r["ours"], r["ours_std"], r["metric"]) for r in rows],
            "seeds": [str(r["seeds"] or "") for r in rows],
            "difference": [_signed(r["difference"], r["metric"]) for r in rows],
            "our setting": [_setting(r) for r in rows],
            "verdict": [chip(Verdict.of(r["verdict"])) for r in rows]}


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
