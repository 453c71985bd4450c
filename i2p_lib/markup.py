"""HTML of tables and pages: the one table writer; what comes from data is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def cell(value: Any) -> str:
    """Return a value as the text of an HTML element, with nothing left that HTML would read.

    >>> cell("<b>&")
    '&lt;b&gt;&amp;'
    """
    return escape(str(value), quote=True).replace("\n", " ")


def breakable(text: str) -> str:
    """Return an identifier as safe HTML that may be broken behind its "_" and ":"."""
    return cell(text).replace("_", "_<wbr>").replace(":", ":<wbr>")


def chip(verdict: str) -> str:
    """Return a verdict as a coloured chip; the style sheets know its class `i2p-<verdict>`."""
    return f'<span class="i2p-chip i2p-{cell(verdict.replace(" ", "-"))}">{cell(verdict)}</span>'


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (),
               name: str = "i2p-table", caption: str = "") -> str:
    """Return an HTML table that scrolls where it is wider than its page.

    columns are plain texts, the cells of the rows HTML already (`cell`); numbers are the columns
    set flush right, name is the table's CSS class, caption a plain text.
    Raises ValueError where a row has another number of cells than there are columns.
    """
    marks = [' class="i2p-number"' if i in numbers else "" for i in range(len(columns))]

    def line(tag: str, values: Sequence[str]) -> str:
        inner = (f"<{tag}{mark}>{value}</{tag}>"
                 for mark, value in zip(marks, values, strict=True))  # fmt: skip
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    head = line("th", [cell(column) for column in columns])
    title = f"<caption>{cell(caption)}</caption>" if caption else ""
    return (f'<div class="i2p-scroll"><table class="{name}">\n{title}'
            f"<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>")


def fold(title: str, inner: str) -> str:
    """Return HTML that unfolds below its title, a plain text."""
    summary = f"<summary>{cell(title)}</summary>"
    return f'<details class="i2p-rows">{summary}\n{inner}\n</details>'


def raw(text: str) -> str:
    """Return HTML as a block of a MyST page; it cannot end the block early."""
    return f"```{{raw}} html\n{text.replace('`', '&#96;')}\n```\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]],
          numbers: Sequence[int] = ()) -> str:
    """Return `html_table` as a block of a page."""
    return raw(html_table(columns, rows, numbers))


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(75), duration(3.2), duration(1e6)
    ('1 min 15 s', '3 s', '12 days')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole / 86_400:.0f} days"
