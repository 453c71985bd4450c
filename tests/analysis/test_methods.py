"""Every regime has one name, one place in the order, and one colour."""

import subprocess
import sys

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


def test_a_new_regime_is_known_everywhere_from_one_entry():
    """Promise: `REGIMES` is the only place where a regime is listed."""
    code = (
        "from i2p_lib.inflation import regimes\n"
        "regimes.REGIMES['o'] = regimes.Regime('O', ('output',), keeps_statistics=True)\n"
        "from i2p_lib.analysis.methods import CONTROLS, METHODS, method_label\n"
        "from i2p_lib.runs import RunSpec\n"
        "from i2p_lib.show.style import COLOURS\n"
        "assert RunSpec(regime='o').regime == 'o'\n"
        "assert method_label('random', 'o') == CONTROLS['FIP-O'] == 'control O'\n"
        "assert METHODS == tuple(COLOURS) and COLOURS['FIP-O']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
