"""What a chapter found for an item of the paper: attached to a cell's output, and read from it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from i2p_lib.paper.items import COMPARISON_COLUMNS, Verdict, comparison_table, known_item

MIME = "application/vnd.image2point.comparison+json"


@dataclass(frozen=True)
class Recorded:
    """What a chapter found for one item: the comparison, and the labels of its figures.

    Raises ValueError for an unknown item or a table that `compare` did not make.
    """

    item: str
    profile: str
    figures: tuple[str, ...]
    table: pd.DataFrame

    def __post_init__(self) -> None:
        known_item(self.item)
        check_columns(self.table)
        verdict_counts(self.table)


def verdict_counts(comparison: pd.DataFrame) -> dict[Verdict, int]:
    """Return how many rows of a comparison have each verdict, in the order of `Verdict`."""
    kinds = Counter(map(Verdict.of, comparison["verdict"]))
    return {kind: kinds[kind] for kind in Verdict if kinds[kind]}


def attach(item: str, comparison: pd.DataFrame, profile: str, figures: Sequence[str] = ()) -> None:
    """Attach a comparison (`compare`) to the output of the running cell; it shows nothing.

    The book's overview is made from what is attached in executed chapters, so a comparison cannot
    be there without its chapter.  Outside a notebook nothing happens.  Raises ValueError as
    `Recorded` does.
    """
    from IPython import get_ipython

    name = Path(profile).stem  # of a profile that is given by its path
    found = Recorded(item, name, tuple(figures), comparison)
    rows = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
    content = {"item": item, "profile": name, "figures": list(figures), "rows": rows}
    if shell := get_ipython():  # the empty HTML is what a program shows that lacks our kind
        shell.display_pub.publish({MIME: content, "text/html": ""})


def attached(outputs: Sequence[Mapping[str, Any]], profile: str) -> dict[str, Recorded]:
    """Return what is attached in the outputs of a profile's notebook, by item; the last counts.

    Raises ValueError for a damaged one, another profile's, or an unknown item.
    """
    contents = [output["data"][MIME] for output in outputs if is_attached(output)]
    return {found.item: found for found in (_read(content, profile) for content in contents)}


def is_attached(output: Mapping[str, Any]) -> bool:
    """Return whether an output of a cell is a comparison that was attached."""
    return MIME in output.get("data", {})


def _read(content: Any, profile: str) -> Recorded:
    try:
        if content["profile"] != profile:
            raise ValueError(f"it says profile {content['profile']!r}, expected {profile!r}")
        table = comparison_table(content["rows"])
        return Recorded(content["item"], profile, tuple(content["figures"]), table)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"the notebook holds a damaged comparison ({error}); run its chapter "
                         "again") from error


def check_columns(comparison: pd.DataFrame) -> None:
    """Raise ValueError unless a table has the columns of `compare`, in their order."""
    if list(comparison.columns) != COMPARISON_COLUMNS:
        raise ValueError(f"expected a table from compare() with the columns {COMPARISON_COLUMNS}, "
                         f"got {list(comparison.columns)}")
