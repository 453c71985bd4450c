"""Collapse of few samples is that of many, on average; and features without classes have none."""

import math

import numpy as np
import pytest

from i2p_lib.analysis.collapse import cdnv, unbiased_cdnv


def gaussians(centres, each, rng, spread=2.0):
    labels = np.repeat(np.arange(len(centres)), each)
    return centres[labels] + spread * rng.normal(size=(len(labels), centres.shape[1])), labels


def test_few_samples_a_class_have_the_cdnv_of_many():
    """Promise: eight samples a class give on average what thousands give, where CDNV does not."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(16, 50))
    many = unbiased_cdnv(*gaussians(centres, 3000, rng))
    few = [gaussians(centres, 8, rng) for _ in range(100)]
    assert np.mean([unbiased_cdnv(*some) for some in few]) == pytest.approx(many, rel=0.03)
    assert np.mean([cdnv(*some) for some in few]) < 0.7 * many


def test_it_is_the_ratio_of_corrected_averages_over_pairs():
    rng = np.random.default_rng(1)
    x, y = gaussians(5 * rng.normal(size=(4, 6)), 5, rng)
    x, y = x[:-2], y[:-2]  # the last class has three samples
    means = [x[y == c].mean(0) for c in range(4)]
    spread = [x[y == c].var(0, ddof=1).sum() for c in range(4)]
    count = [5, 5, 5, 3]
    apart = [((means[i] - means[j]) ** 2).sum() - spread[i] / count[i] - spread[j] / count[j]
             for i in range(4) for j in range(4) if i != j]
    assert unbiased_cdnv(x, y) == pytest.approx(np.mean(spread) / np.mean(apart))


def test_centres_no_farther_apart_than_their_errors_have_no_end():
    x = np.array([[-1.0], [1.0], [-1.1], [0.9]])
    assert math.isinf(unbiased_cdnv(x, np.array([0, 0, 1, 1])))
