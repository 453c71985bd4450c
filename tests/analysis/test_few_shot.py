"""The error of nearest centres from a few samples, and its bound."""

import math

import numpy as np
import pytest
from made_notebooks import chapter_functions
from sklearn.neighbors import NearestCentroid

from i2p_lib.analysis import collapse
from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")
few_shot_bound, few_shot_error = chapter.few_shot_bound, chapter.few_shot_error


def classes(spread, count=4, each=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(count), each)) * 3 + 1
    centres = 3 * rng.normal(size=(3 * count + 1, 6))
    return centres[labels] + spread * rng.standard_t(3, size=(len(labels), 6)), labels


@pytest.mark.parametrize("shots", [1, 5, 19])
@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0])
def test_the_error_never_exceeds_its_bound(spread, shots):
    """Promise: the inequality holds on any data, for few shots and many."""
    x, y = classes(spread)
    error = few_shot_error(x, y, shots, 200, np.random.default_rng(1))
    assert 0 <= error <= few_shot_bound(x, y, shots)
    if spread == 0.05:
        assert few_shot_bound(x, y, shots) < 1, "collapsed classes make the bound say something"


def test_two_classes_of_two_points_have_the_bound_of_the_definition():
    """Promise: standard deviation 1, distance 10: ((2 + 1) + 1)^2 / 100 with one shot."""
    x, y = np.array([[-1.0], [1.0], [9.0], [11.0]]), np.array([0, 0, 1, 1])
    assert few_shot_bound(x, y, 1) == pytest.approx(0.16)
    assert few_shot_bound(x, y, 4) == pytest.approx(0.09)
    assert few_shot_bound(x, y, math.inf) == pytest.approx(0.04)
    assert few_shot_error(x, y, 1, 50, np.random.default_rng(0)) == 0


def test_many_shots_give_the_bound_of_the_classes_own_centres():
    """Promise: without an end to the shots it is 4 (C - 1) CDNV, and it falls towards that."""
    x, y = classes(0.7)
    assert few_shot_bound(x, y, math.inf) == pytest.approx(4 * 3 * collapse.cdnv(x, y))
    falling = [few_shot_bound(x, y, n) for n in (1, 5, 10, math.inf)]
    assert falling == sorted(falling, reverse=True)


def test_the_error_is_that_of_scikit_learns_nearest_centroid():
    """Promise: one episode equals an independent classifier on what it was not fitted to."""
    x, y = classes(2.0)
    rng = np.random.default_rng(3)
    dealt = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    chosen = np.concatenate([one[:5] for one in dealt])
    fitted = NearestCentroid().fit(x[chosen], y[chosen])
    expected = np.mean([np.mean(fitted.predict(x[one[5:]]) != y[one[0]]) for one in dealt])
    assert few_shot_error(x, y, 5, 1, np.random.default_rng(3)) == pytest.approx(expected)
    assert expected > 0


def test_features_without_classes_are_named_at_chance():
    x, y = np.random.default_rng(0).normal(size=(400, 3)), np.repeat(np.arange(4), 100)
    assert few_shot_error(x, y, 1, 100, np.random.default_rng(0)) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0, 3.0])
def test_the_error_of_the_classes_own_centres_never_exceeds_its_bound(spread):
    """Promise: the inequality holds on any data, and collapsed classes make it say something."""
    random = np.random.default_rng(0)
    for classes in (2, 5):
        labels = np.repeat(np.arange(classes), 30)
        features = np.eye(classes)[labels] + spread * random.standard_t(3, (len(labels), classes))
        bound = few_shot_bound(features, labels, math.inf)
        error = np.mean(NearestCentroid().fit(features, labels).predict(features) != labels)
        assert 0 <= error <= bound
        assert (bound < 1) == (spread < 0.1)
