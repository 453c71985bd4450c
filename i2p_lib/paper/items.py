"""The paper's items and printed values: what there is to regenerate, as data."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml

VALUES_FILE = Path(__file__).with_name("paper_values.csv")
ITEMS_FILE = Path(__file__).with_name("items.yml")
KEY = ["dataset", "model", "method", "pretraining", "shots", "metric"]
_VALUE_COLUMNS = ["item", *KEY, "value", "std", "source", "note"]
COMPARISON_COLUMNS = [
    *KEY, "paper", "paper_std", "source", "ours", "ours_std", "seeds", "difference", "setting",
    "verdict",
]  # fmt: skip

PERCENT = ("top1", "miou", "top1_after_epoch_1")


class Verdict(StrEnum):
    """What is said of a number of ours beside the paper's; `comparison.verdict` has the rule."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    OTHER_SETTING = "other setting"
    NOT_IN_PAPER = "not in the paper"
    NOT_RUN = "not run"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the verdict of a text without its reason: "not run: needs S3DIS" is NOT_RUN."""
        return cls(str(text).partition(":")[0])


@dataclass(frozen=True)
class Item:
    """One figure, table or experiment of the paper, and what its own scale asks for.

    seen: False where only later versions have it, whose text and numbers we never saw.
    """

    id: str
    title: str
    section: str
    chapter: str
    needs: str
    seen: bool = True


@cache
def paper_items() -> Mapping[str, Item]:
    """Return the paper's items by their ids, in its order."""
    facts = yaml.safe_load(ITEMS_FILE.read_text(encoding="utf-8"))
    return {name: Item(name, **about) for name, about in facts.items()}


def paper_values(path: Path = VALUES_FILE) -> pd.DataFrame:
    """Return the paper's printed values, one row each; the file is checked on every read.

    Columns: item, dataset, model, method, pretraining, shots (nullable Int64), metric, value,
    std, source, note.  Accuracies and mIoU are in per cent.  Text fields are never missing.
    A value is missing where the paper shows a bar whose height could not be read; the note says so.
    Raises ValueError naming the line for an unknown item, a missing field, a value that is no
    finite number, or a key that occurs twice within an item.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True))
    for line, row in enumerate(rows, start=1):
        if len(row) != len(_VALUE_COLUMNS) or (line == 1 and row != _VALUE_COLUMNS):
            raise ValueError(f"{path.name}, line {line}: expected columns {_VALUE_COLUMNS}, "
                             f"got {len(row)}: {row}")
    table = pd.DataFrame(rows[1:], columns=_VALUE_COLUMNS)
    given = table[["value", "std", "shots"]]
    numbers = given.apply(pd.to_numeric, errors="coerce")
    wrong = {f"{name} is not a number": given[name].ne("") & ~numbers[name].abs().lt(float("inf"))
             for name in given}  # fmt: skip
    wrong |= {f"{name} is empty": table[name].str.strip().eq("")
              for name in table.drop(columns=[*given, "note"])}  # fmt: skip
    wrong["neither a value nor a note"] = given["value"].eq("") & table["note"].eq("")
    wrong["unknown item"] = ~table["item"].isin(paper_items())
    wrong["the same key a second time"] = table.duplicated(["item", *KEY])
    for what, lines in wrong.items():
        if lines.any():
            line = int(lines.idxmax())
            raise ValueError(f"{path.name}, line {line + 2}: {what}: {[*table.loc[line]]}")
    return table.assign(**numbers).astype({"shots": "Int64", "value": float, "std": float})


def known_item(item: str) -> Item:
    """Return the item of that id; ValueError with all ids where there is none."""
    if item not in (known := paper_items()):
        raise ValueError(f"unknown item {item!r}; expected one of {list(known)}")
    return known[item]


def comparison_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a comparison, with its column types also where a column has no value."""
    kinds = dict.fromkeys(COMPARISON_COLUMNS, str) | dict.fromkeys(("shots", "seeds"), "Int64")
    kinds |= dict.fromkeys(("paper", "paper_std", "ours", "ours_std", "difference"), float)
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS).astype(kinds)
