"""The one sentence writer: what numbers allow to be said, and no more, as text and HTML.

Every text that is put into HTML is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from i2p_lib.analysis.bootstrap import Estimate


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


def difference(
    one: str, other: str, gap: Estimate, pairs: int, unit: str = "points", items: str = "clouds"
) -> str:
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
