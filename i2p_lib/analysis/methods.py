"""The methods' names: what the book calls a regime on pretrained or random weights, in order."""

from collections.abc import Iterable

import pandas as pd

from i2p_lib.inflation.regimes import REGIMES

_FROZEN = {name: regime for name, regime in REGIMES.items() if "backbone" not in regime.roles}
METHODS = (
    "scratch",
    *(f"FIP-{regime.title}" for regime in REGIMES.values()),
    *(f"control {regime.title}" for regime in _FROZEN.values()),
)
"""Every method, in the order in which tables and plots show them."""

CONTROLS = {
    f"FIP-{regime.title}": f"control {regime.title}" if name in _FROZEN else "scratch"
    for name, regime in REGIMES.items()
}
"""Method -> its control: the same layers trained, where the other weights are random."""


def method_label(weights: str, regime: str) -> str:
    """Return the book's name of a regime on pretrained or random weights."""
    if weights != "random":
        return f"FIP-{REGIMES[regime].title}"
    return CONTROLS[f"FIP-{REGIMES[regime].title}"]


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs (columns weights, regime) with a column ``method``, ordered as `METHODS`."""
    names = [method_label(w, r) for w, r in zip(runs["weights"], runs["regime"], strict=True)]
    order = pd.CategoricalDtype(list(METHODS), ordered=True)
    return runs.assign(method=pd.Series(names, index=runs.index).astype(order))


def present(methods: Iterable[str]) -> list[str]:
    """Return the methods that occur in `methods`, each once, in the order of `METHODS`."""
    found = set(methods)
    return [method for method in METHODS if method in found]
