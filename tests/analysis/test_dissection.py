"""Network dissection, as chapter 5 has it: a planted selective unit, exact entropies."""

import numpy as np
import pytest
from made_notebooks import chapter_functions
from scipy.stats import entropy

from i2p_lib.sources import PACKAGE

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "05_neural_collapse.ipynb")


def planted(classes=4, each=12, units=30, seed=0):
    """Units of noise, but unit 7 that is active in class 2 alone, and unit 9 that is dead."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    values = rng.random((len(labels), units)) + 1
    values[:, 7] = np.where(labels == 2, values[:, 7], 0)
    values[:, 9] = 0
    return values, labels


def test_a_planted_selective_unit_is_found_and_a_dead_one_is_left_out():
    """Promise: a unit for one class has entropy 0 and selectivity 1, and it is the only one."""
    values, labels = planted()
    table = chapter.dissect(values, labels, count=10).set_index("unit")
    assert table.loc[7].tolist() == [0, 1]
    assert 9 not in table.index and len(table) == 29
    others = table.drop(index=7)
    assert others["entropy"].min() > 0.5 and others["selectivity"].max() < 0.2


def test_entropy_of_one_class_of_all_and_scipys():
    """Promise: 0 for one class, log2 of their number for all different, SciPy's in between."""
    assert chapter.class_entropy(np.array([[3, 3, 3, 3], [0, 1, 2, 3]])).tolist() == [0, 2]
    labels = np.random.default_rng(0).integers(5, size=(20, 9))
    theirs = [entropy(np.bincount(row), base=2) for row in labels]
    np.testing.assert_allclose(chapter.class_entropy(labels), theirs, atol=1e-12)


def test_the_top_samples_are_the_strongest_in_order_and_ties_keep_theirs():
    values = np.array([[1.0, 0], [3, 0], [2, 0], [3, 1]])
    assert chapter.top_samples(values, 3).tolist() == [[1, 3, 2], [3, 0, 1]]


def test_selectivity_is_that_of_the_definition():
    """Promise: (m - r) / (m + r) with the class means, whatever the class sizes."""
    values, labels = np.array([[6.0, 1], [2, 1], [1, 1], [0, 1], [2, 1]]), np.array([5, 5, 7, 8, 8])
    # class means of unit 0: 4, 1, 1; unit 1 is alike in all
    assert chapter.class_selectivity(values, labels) == pytest.approx([3 / 5, 0])
    assert np.isnan(chapter.class_selectivity(np.zeros((4, 1)), np.array([0, 0, 1, 1]))[0])


@pytest.mark.parametrize(
    ("values", "labels", "count", "message"),
    [
        (np.array([[1.0], [np.nan]]), [0, 1], 1, "diverged"),
        (-np.ones((2, 1)), [0, 1], 1, "diverged"),
        (np.zeros((4, 2)), [0, 0, 1, 1], 1, "no active unit"),
        (np.zeros((0, 3)), [], 1, "too few samples"),
        (np.ones((2, 1)), [0, 1, 1], 1, "too few samples"),
        (np.ones((3, 2)), [0, 1, 1], 4, "too few samples"),
        (np.ones((2, 1)), [0, 0], 1, "two classes"),
    ],
)
def test_what_cannot_be_dissected_is_refused(values, labels, count, message):
    with pytest.raises(AssertionError, match=message):
        chapter.dissect(values, np.array(labels), count)
