"""The sentences on collapse give the measured numbers and their rank correlation."""

import pandas as pd

from i2p_lib.show import collapse


def test_collapse_sentences_give_the_rank_correlation():
    cdnv = [4.0, 3.0, 2.0, 1.0]
    runs = pd.DataFrame({"key": list("abcd"), "top1": [0.1, 0.2, 0.3, 0.4],
                         "weights": ["random", "random", "imagenet1k", "imagenet1k"],
                         "regime": ["io", "all", "io", "all"]})
    probes = pd.concat([pd.DataFrame({"key": list("abcd"), "value": cdnv, "epoch": epoch,
                                      "layer": "penultimate", "split": "test", "metric": "cdnv"})
                        for epoch in (0, 5)])
    text = " ".join(collapse.collapse_lines(probes, runs))
    assert "most collapsed first: FIP-ALL 1.00, FIP-IO 2.00, scratch 3.00, control IO 4.00" in text
    assert text.count("rank correlation -1.00") == 2
