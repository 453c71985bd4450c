"""What is compared with the original code's own numbers: a register of items, and its table.

    python -m tests.golden.items

prints the table. An item measures how far the library is from the golden numbers in `data/`;
those that are not equal say what differs and by how much. The chapter on the errata shows `table`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from i2p_lib.files import atomic_write, sha256
from i2p_lib.runs.store import key_of, store_root
from i2p_lib.sources import closure, modules_named

MODULES = ("grid", "layers", "filters", "schedules", "measures", "draws", "pointcontrast",
           "classification", "training", "scenes", "segmentation")  # fmt: skip
"""The files of this folder that register items."""

RELATIVE = "of the largest value"
REGISTERED: dict[str, Item] = {}


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that the library and the original are compared by.

    name        begins with the golden file's number
    compared    what is compared, in a sentence
    measure     returns the largest difference, in `unit`
    tolerance   the largest difference that counts as equal
    differs     what makes the library differ; empty where it is equal
    by          the difference that was measured where it differs
    on_purpose  whether the library is to stay different
    """

    name: str
    compared: str
    measure: Callable[[], float]
    tolerance: float
    unit: str
    differs: str = ""
    by: float | None = None
    on_purpose: bool = False

    @cached_property
    def difference(self) -> float:
        """The largest difference, measured once."""
        return float(self.measure())

    @property
    def equal(self) -> bool:
        """Whether the library gives the original's numbers."""
        return self.difference <= self.tolerance


def item(
    name: str,
    tolerance: float = 0.0,
    unit: str = RELATIVE,
    differs: str = "",
    by: float | None = None,
    on_purpose: bool = False,
) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Register a function that measures a difference; its docstring says what is compared."""
    if bool(differs) != (by is not None) or name in REGISTERED:
        raise ValueError(f"{name}: `differs` and `by` belong together, and a name occurs once")

    def register(measure: Callable[[], float]) -> Callable[[], float]:
        compared = " ".join(measure.__doc__.split())
        REGISTERED[name] = Item(name, compared, measure, tolerance, unit, differs, by, on_purpose)
        return measure

    return register


def items() -> Iterator[Item]:
    """Yield every item, in the order of the golden files."""
    for module in MODULES:
        import_module(f"tests.golden.{module}")
    yield from sorted(REGISTERED.values(), key=lambda one: one.name)


def rows() -> Iterator[dict[str, Any]]:
    """Yield each item as a table's row; what is compared is measured meanwhile."""
    for one in items():
        yield {
            "item": one.name, "compared": one.compared, "largest difference": one.difference,
            "unit": one.unit, "tolerance": one.tolerance, "equal": one.equal, "why": one.differs,
            "stays": one.on_purpose,
        }  # fmt: skip


def table(store: str | Path | None = None) -> pd.DataFrame:
    """Return the items as a table; with the same sources and numbers it is measured once.

    store: the folder of the runs, where the table is kept (see `store_root`).
    """
    folder = Path(__file__).parent
    paths = [path for path in folder.rglob("*") if path.suffix in (".py", ".npz")]
    files = {path.name: sha256(path) for path in paths}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")]
    sources = closure({name for tree in trees for name in modules_named(tree)})
    kept = store_root(store) / f"golden-{key_of(files | sources)[:16]}.csv"
    if not kept.is_file():
        with atomic_write(kept) as temp:
            pd.DataFrame(rows()).to_csv(temp, index=False)
    return pd.read_csv(kept, keep_default_na=False)


if __name__ == "__main__":
    for row in import_module("tests.golden.items").rows():  # not this copy's empty register
        print(f"{row['item']:75} {'equal' if row['equal'] else 'differs':8}"
              f"{row['largest difference']:.3g} {row['unit']}")  # fmt: skip
