"""The one sentence writer: what numbers allow to be said, and no more, as text and HTML.

Every text that is put into HTML is escaped here.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd

from i2p_lib.analysis.bootstrap import Estimate
from i2p_lib.paper.claims import Claim, Study, findings, load_claims

UNITS = {
    "top1": "{:+.1f} points", "first_epoch": "{:+.1f} points", "gain_of_shots": "{:+.1f} points",
    "epochs": "{:.2f} times the epochs", "cdnv": "{:.2f} times the CDNV",
}  # fmt: skip
"""Measure of a claim -> how its value is written; the last two are kept as logarithms."""


def html_list(lines: Iterable[str]) -> str:
    """Return plain sentences as an HTML list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def box(lines: Sequence[str], title: str = "The answer, from the runs of this profile") -> str:
    """Return plain sentences as a box with a title: the answer at a chapter's opening.

    Where there is no sentence, the box says that nothing can be said.
    """
    lines = lines or ["Nothing can be said at this profile: it ran no pair that answers this."]
    body = f"<p>{escape(lines[0])}</p>" if len(lines) == 1 else html_list(lines)
    return (
        '<div class="admonition tip" style="border-left:.2rem solid #2563c9;padding:.1em 1em">'
        f'<p class="admonition-title">{escape(title)}</p>{body}</div>'
    )


def spanned(low: float, high: float, style: str = "+.1f") -> str:
    """Return the ends of an interval: "-1.0 to +2.5"."""
    return f"{low:{style}} to {high:{style}}"


def difference(one: str, other: str, gap: Estimate, pairs: int, unit: str = "points",
               items: str = "clouds") -> str:
    """Say which of two is better and by how much; the gap is a difference of shares (0..1).

    One is called better only where the gap's interval leaves out zero, and never from one pair of
    runs, whose interval covers other test `items` but no other seed.  pairs: how many there are.
    """
    span = spanned(100 * gap.low, 100 * gap.high)
    covers = f"; {pairs} pairs of runs" if pairs > 1 else f" over test {items} alone"
    if pairs == 1:
        said = f"one pair of runs cannot tell {one} from {other}"
    elif gap.low > 0 or gap.high < 0:
        said = f"{one} is {'better' if gap.low > 0 else 'worse'} than {other}"
    else:
        said = f"{one} and {other} cannot be told apart"
    return f"{said}: {100 * gap.value:+.1f} {unit} (95 % interval {span}{covers})."


def ranked(values: Mapping[str, float], style: str = ".2f") -> str:
    """Return "name number, name number, ..." in the order given."""
    return ", ".join(f"{name} {value:{style}}" for name, value in values.items())


def natural(claim: Claim, numbers: Sequence[float]) -> np.ndarray:
    """Return numbers of a claim in the unit that is shown: points, or a ratio."""
    numbers = np.asarray(numbers, float)
    return np.exp(numbers) if claim.measure in ("epochs", "cdnv") else numbers


def claim_value(claim: Claim, row: pd.Series) -> str:
    """Return a finding as a reader writes it: "+7.5 points (+0.1 to +15.0)"."""
    number, unit = UNITS[claim.measure].split(" ", 1)
    value, low, high = (number.format(x) for x in natural(claim, row[["value", "low", "high"]]))
    return f"{value} {unit} ({low} to {high})"


def recorded_lines(chapter: str) -> list[str]:
    """Say what the recorded study found on a chapter's claims: a sentence for each setting."""
    claims, study, said = load_claims(), Study.load(), []
    for number, setting in enumerate(claims.settings):
        table = findings(claims, study, setting).set_index("id")
        for claim in claims.claims:
            row, one = table.loc[claim.id], claim.primary and number == 0
            if claim.chapter == chapter and pd.notna(row["value"]):
                said.append(f"{claim.claim} {claims.title(setting)}, "
                            f"{' against '.join(claim.contrast)}: {claim_value(claim, row)}, "
                            f"{row['pairs']:.0f} pairs; {row['verdict']}"
                            f"{'' if one else ', exploratory'}.")  # fmt: skip
    return said
