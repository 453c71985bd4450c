"""The paper's items and printed values: what there is to regenerate, as data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

VALUES_FILE = Path(__file__).with_name("paper_values.csv")
KEY = ["dataset", "model", "method", "pretraining", "shots", "metric"]
_VALUE_COLUMNS = ["item", *KEY, "value", "std", "source", "note"]
COMPARISON_COLUMNS = [
    *KEY, "paper", "paper_std", "source", "ours", "ours_std", "seeds", "difference", "setting",
    "verdict",
]  # fmt: skip

REPRODUCED, DIFFERS, OTHER_SETTING = "reproduced", "differs", "other setting"
NOT_IN_PAPER, NOT_RUN = "not in the paper", "not run"
PERCENT = ("top1", "miou", "top1_after_epoch_1")


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


_MODELNET = "ModelNet40, a GPU, torchvision's ImageNet-1k ResNets"
_ICLR, _ECCV = "ICLR 2022 submission", "ECCV 2022 (text not seen)"
_CODE = "ECCV 2022, inferred from the released code (text not seen)"
_OURS = "ours, not known of the paper"
ITEMS: Mapping[str, Item] = {
    item.id: item
    for item in (
        Item("fig1", "From an image network to a point-cloud network", f"{_ICLR}, Fig. 1",
             "00_method", "nothing: a drawing"),
        Item("fig2a", "FIP-IO and FIP-IO+BN by pretraining data", f"{_ICLR}, Fig. 2 left",
             "01_transfer", "ModelNet40, a GPU, ResNet50 from five image sets"),
        Item("fig2b", "FIP-IO and FIP-IO+BN by network", f"{_ICLR}, Fig. 2 right",
             "01_transfer", _MODELNET),
        Item("table1", "ModelNet40 with all weights finetuned", f"{_ICLR}, Table 1",
             "02_benchmarks", f"{_MODELNET}; ImageNet-21k weights; two networks whose image "
             "weights were never released"),
        Item("table2", "Segmentation of rooms and streets", f"{_ICLR}, Table 2",
             "07_segmentation", "S3DIS, SemanticKITTI, days on several GPUs"),
        Item("table3", "Few-shot ModelNet40", f"{_ICLR}, Table 3", "03_few_shot", _MODELNET),
        Item("fig3", "Epochs to 90 % accuracy", f"{_ICLR}, Fig. 3", "04_training_speedup",
             f"{_MODELNET}, at least 122 epochs"),
        Item("table4", "Texture or shape", f"{_ICLR}, Table 4", "08_discussion",
             "ModelNet40, a GPU, Stylized-ImageNet ResNet50, BagNet17 and BagNet33"),
        Item("fig4", "Network dissection", f"{_ICLR}, Fig. 4", "05_neural_collapse",
             "ModelNet40, Broden, ResNet50"),
        Item("table5", "Distance between image and point features", f"{_ICLR}, Table 5",
             "05_neural_collapse", "ModelNet40, ImageNet-1k images, torchvision's ResNet18"),
        Item("collapse", "Neural collapse", _ECCV, "05_neural_collapse", _MODELNET, False),
        Item("source_collapse", "Collapse of the image network on its images", _OURS,
             "08_discussion", "resnet18's fractal weights", False),
        Item("forecast", "Collapse before training as a forecast of accuracy", _OURS,
             "08_discussion", _MODELNET, False),
        Item("few_shot_bound", "Few-shot error and what collapse bounds it by", _OURS,
             "08_discussion", _MODELNET, False),
        Item("pointcontrast", "Comparison with PointContrast", _CODE, "03_few_shot",
             "ModelNet40, PointContrast's weights, the authors' 2D twin (never released)", False),
        Item("semi_supervised", "Semi-supervised learning", _CODE, "03_few_shot",
             "ModelNet40, the authors' 2D twin (never released)", False),
    )
}  # fmt: skip


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
            raise ValueError(
                f"{path.name}, line {line}: expected columns {_VALUE_COLUMNS}, "
                f"got {len(row)}: {row}"
            )
    table = pd.DataFrame(rows[1:], columns=_VALUE_COLUMNS)
    given = table[["value", "std", "shots"]]
    numbers = given.apply(pd.to_numeric, errors="coerce")
    wrong = {f"{name} is not a number": given[name].ne("") & ~numbers[name].abs().lt(float("inf"))
             for name in given}  # fmt: skip
    wrong |= {f"{name} is empty": table[name].str.strip().eq("")
              for name in table.drop(columns=[*given, "note"])}  # fmt: skip
    wrong["neither a value nor a note"] = given["value"].eq("") & table["note"].eq("")
    wrong["unknown item"] = ~table["item"].isin(ITEMS)
    wrong["the same key a second time"] = table.duplicated(["item", *KEY])
    for what, lines in wrong.items():
        if lines.any():
            line = int(lines.idxmax())
            raise ValueError(f"{path.name}, line {line + 2}: {what}: {[*table.loc[line]]}")
    return table.assign(**numbers).astype({"shots": "Int64", "value": float, "std": float})


def known_item(item: str) -> Item:
    """Return the item of that id; ValueError with all ids where there is none."""
    if item not in ITEMS:
        raise ValueError(f"unknown item {item!r}; expected one of {list(ITEMS)}")
    return ITEMS[item]


def comparison_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a comparison, with its column types also where a column has no value."""
    kinds = dict.fromkeys(COMPARISON_COLUMNS, str) | dict.fromkeys(("shots", "seeds"), "Int64")
    kinds |= dict.fromkeys(("paper", "paper_std", "ours", "ours_std", "difference"), float)
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS).astype(kinds)
