"""The methods' names: what the book calls a regime on pretrained or random weights, in order."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

METHODS = (
    "scratch", "FIP-IO", "FIP-IO, moving statistics", "FIP-IO+BN", "FIP-ALL", "control IO",
    "control IO, moving statistics", "control IO+BN",
)  # fmt: skip
"""Every method, in the order in which tables and plots show them."""

CONTROLS = {"FIP-IO": "control IO", "FIP-IO+BN": "control IO+BN", "FIP-ALL": "scratch"}
"""Method -> its control: the same layers trained, where the other weights are random."""

_NAMES = {"io": "IO", "io+ms": "IO, moving statistics", "io+bn": "IO+BN", "all": "ALL"}


def method_label(weights: str, regime: str) -> str:
    """Return the book's name of a regime on pretrained or random weights (paper, section 3.3)."""
    if weights != "random":
        return f"FIP-{_NAMES[regime]}"
    return "scratch" if regime == "all" else f"control {_NAMES[regime]}"


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs (columns weights, regime) with a column ``method``, ordered as `METHODS`."""
    names = [method_label(w, r) for w, r in zip(runs["weights"], runs["regime"], strict=True)]
    order = pd.CategoricalDtype(list(METHODS), ordered=True)
    return runs.assign(method=pd.Series(names, index=runs.index).astype(order))


def present(methods: Iterable[str]) -> list[str]:
    """Return the methods that occur in `methods`, each once, in the order of `METHODS`."""
    found = set(methods)
    return [method for method in METHODS if method in found]
