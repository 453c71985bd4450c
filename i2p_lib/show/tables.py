"""The tables of the chapters, as pandas Stylers: numbers, escaping, and their look.

Tables of pages, and those beside the paper's values, are written by `i2p_lib.markup`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from i2p_lib.markup import breakable


def table(frame: pd.DataFrame, formats: Mapping[str, str] | None = None,
          precision: int = 1) -> Styler:
    """Return a table without its index, for a page: escaped, nothing where a value is missing.

    formats: a format for each column, as pandas takes them; other numbers get `precision`.
    """
    styler = frame.style.hide(axis="index")
    return styler.format(formats, precision=precision, na_rep="", escape="html")


def on_its_side(rows: Sequence[Mapping[str, object]]) -> Styler:
    """Return few long rows as columns under no heading: a name at the left, values beside it."""
    columns = [str(number) for number in range(1, len(rows) + 1)]
    frame = pd.DataFrame(list(rows), index=columns).fillna("").T
    return frame.style.hide(axis="columns").format(escape="html").format_index(escape="html")


def settings(runs: pd.DataFrame, titles: Mapping[str, str],
             by: Mapping[str, str] | None = None) -> Styler:
    """Return the settings of runs: one row per setting that is set, all values that occur.

    titles: column -> the setting's name.  by: columns that part the runs, with their names; each
    part gets a column of its own.
    """
    by = by or {}
    parts = runs.groupby(list(by), sort=False) if by else [((), runs)]
    shown = [name for name in titles if name in runs and runs[name].notna().any()]
    return on_its_side([
        dict(zip(by.values(), key, strict=True))
        | {titles[name]: ", ".join(text(v) for v in part[name].dropna().unique()) for name in shown}
        for key, part in parts
    ])  # fmt: skip


def text(value: object) -> str:
    """Return a setting's value as a reader writes it: 0.003, not 0.0030000000000000001."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(runs: pd.DataFrame, keys: Sequence[str], percent: Mapping[str, str], count: str,
            whole: Mapping[str, str], minutes: Mapping[str, str], sort: bool = True) -> Styler:
    """Return means over seeds, a row for each value of the columns `keys`.

    percent: title -> column of shares; of the first one the standard deviation over seeds, too.
    count: title of the number of runs.  whole: title -> column of whole numbers that the seeds
    share.  minutes: title -> column of seconds.
    Rows are sorted by the keys, or stand in the runs' order.
    """
    groups = runs.groupby(list(keys), observed=True, sort=sort)
    first, *others = percent
    main = groups[percent[first]]
    columns = {first: 100 * main.mean(), "std": 100 * main.std()}
    columns |= {title: 100 * groups[percent[title]].mean() for title in others}
    columns |= {count: groups.size()}
    columns |= {title: groups[column].first() for title, column in whole.items()}
    columns |= {title: groups[column].mean() / 60 for title, column in minutes.items()}
    formats = dict.fromkeys(columns, "{:.1f}") | {count: "{:d}"} | dict.fromkeys(whole, "{:,.0f}")
    styler = table(pd.DataFrame(columns).reset_index(), formats)
    named = [key for key in keys if not pd.api.types.is_numeric_dtype(runs[key])]
    return styler.format(lambda name: breakable(str(name)), subset=named)
