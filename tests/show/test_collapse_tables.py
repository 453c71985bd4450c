"""The sentences on collapse give the measured numbers and their rank correlation."""

import pandas as pd
from made_notebooks import chapter_functions

from i2p_lib.sources import PACKAGE


def test_collapse_sentences_give_the_rank_correlation():
    cdnv = [4.0, 3.0, 2.0, 1.0]
    runs = pd.DataFrame({"key": list("abcd"), "top1": [0.1, 0.2, 0.3, 0.4],
                         "weights": ["random", "random", "imagenet1k", "imagenet1k"],
                         "regime": ["io", "all", "io", "all"]})
    probes = pd.concat([pd.DataFrame({"key": list("abcd"), "value": cdnv, "epoch": epoch,
                                      "layer": "penultimate", "split": "test", "metric": "cdnv"})
                        for epoch in (0, 5)])
    chapter = chapter_functions(PACKAGE.parent / "notebooks" / "05_neural_collapse.ipynb")
    sides = [chapter.cdnv_at(probes, runs, epoch) for epoch in (0, 5)]
    text = " ".join(chapter.collapse_lines(*sides))
    assert "most collapsed first: FIP-ALL 1.00, FIP-IO 2.00, scratch 3.00, control IO 4.00" in text
    assert text.count("rank correlation -1.00") == 2
    answer = chapter.collapse_answer(*sides)
    assert answer[0].endswith("a CDNV of 1.50 in networks of image weights, 3.00 in scratch, 4.00 "
                              "in random image networks, inflated (the controls).")
    assert "Training takes FIP-ALL from 1.00 to 1.00, and scratch from 3.00 to 3.00." in answer
