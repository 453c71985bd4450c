"""The sentences on collapse give the measured numbers, and compare seeds within a method alone."""

import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions
from sklearn.neighbors import NearestCentroid

from i2p_lib.analysis.methods import with_method
from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "05_neural_collapse.ipynb")


def table(cdnv, top1, seeds=1):
    """Runs of four methods; the frozen ones share their starting network with nobody here."""
    weights = np.repeat(["random", "random", "imagenet1k", "imagenet1k"], seeds)
    regime = np.repeat(["io", "all", "io", "all"], seeds)
    start = [f"{w}{r}{n % seeds}" for n, (w, r) in enumerate(zip(weights, regime, strict=True))]
    return with_method(pd.DataFrame({
        "model": "net", "weights": weights, "regime": regime, "cdnv": cdnv, "top1": top1,
        "start": start}))  # fmt: skip


def test_collapse_sentences_give_the_measured_numbers():
    runs = table([4.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.3, 0.4])
    text = " ".join(chapter.collapse_lines(runs, runs))
    assert "most collapsed first: FIP-ALL 1.00, FIP-IO 2.00, scratch 3.00, control IO 4.00" in text
    assert "correlation" not in text, "methods that differ in both numbers are no correlation"
    answer = chapter.collapse_answer(runs, runs)
    assert answer[0].endswith("a CDNV of 1.50 in networks of image weights, 3.00 in scratch, 4.00 "
                              "in random image networks, inflated (the controls).")
    assert "Training takes FIP-ALL from 1.00 to 1.00, and scratch from 3.00 to 3.00." in answer


def test_seeds_of_each_method_are_compared_among_themselves():
    """Promise: seeds that fall within methods are found where the methods' means rise."""
    seeds = np.tile(np.arange(4.0), 4)
    means = np.repeat(np.arange(4.0), 4)
    runs = table(10 * means + seeds, means - 0.1 * seeds, seeds=4)
    (line,) = chapter.correlation(runs, "after training")
    assert "-1.00 (p = 0.0005" in line and "16 starting networks" in line


def test_a_cloud_that_is_left_out_makes_no_centre():
    """Promise: the error equals that of scikit-learn, fitted anew without each cloud."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [4, 5, 7])
    x = random.normal(size=(16, 30)) + np.eye(30)[y]
    found = chapter.centre_errors(x, y)
    wrong = [NearestCentroid().fit(np.delete(x, i, 0), np.delete(y, i)).predict(x[[i]])[0] != y[i]
             for i in range(16)]
    assert found["out"] == pytest.approx(pd.Series(wrong).groupby(y).mean().mean())
    fitted = pd.Series(NearestCentroid().fit(x, y).predict(x) != y)
    assert found["in"] == pytest.approx(fitted.groupby(y).mean().mean())
    assert found["out"] > found["in"]
