"""Every regime has one name, one place in the order, and one colour."""

import pandas as pd
import pytest

from i2p_lib.analysis.methods import CONTROLS, METHODS, method_label, present, with_method
from i2p_lib.show.style import COLOURS


@pytest.mark.parametrize("weights, regime, label", [
    ("imagenet1k", "io", "FIP-IO"), ("random", "io", "control IO"), ("random", "all", "scratch"),
    ("fractal", "io+bn", "FIP-IO+BN"), ("random", "io+ms", "control IO, moving statistics"),
])  # fmt: skip
def test_every_regime_has_its_name_and_colour(weights, regime, label):
    assert method_label(weights, regime) == label and label in METHODS
    assert list(COLOURS) == list(METHODS)
    table = with_method(pd.DataFrame({"weights": [weights], "regime": [regime]}))
    assert table["method"].tolist() == [label]


def test_methods_stand_in_the_books_order():
    assert present(["FIP-ALL", "control IO", "scratch", "FIP-ALL"]) == [
        "scratch", "FIP-ALL", "control IO"]
    assert set(CONTROLS) | set(CONTROLS.values()) <= set(METHODS)
