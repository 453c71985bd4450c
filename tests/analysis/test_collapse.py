"""Neural collapse measures: exact cases, independent references, invariances, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.neighbors import NearestCentroid

from i2p_lib.analysis import collapse


def simplex(classes: int, dimension: int) -> np.ndarray:
    means = np.eye(classes) - 1 / classes
    return np.pad(means, ((0, 0), (0, dimension - classes)))


def cloud(seed: int, classes=5, dimension=12, each=9, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    centres = rng.normal(size=(classes, dimension)) + 3.0
    return centres[labels] + spread * rng.normal(size=(len(labels), dimension)), labels


def reference(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The definitions, spelled out with full d x d matrices and Python loops."""
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in classes])
    var = [np.mean([np.sum((row - m) ** 2) for row in x[y == c]])
           for c, m in zip(classes, means, strict=True)]  # fmt: skip
    pairs = [(var[i] + var[j]) / (2 * np.sum((means[i] - means[j]) ** 2))
             for i in range(len(classes)) for j in range(len(classes)) if i != j]  # fmt: skip
    residual = x - means[np.searchsorted(classes, y)]
    within = residual.T @ residual / len(x)
    centred = means - means.mean(0)
    between = centred.T @ centred / len(classes)
    cosines = 1 - cdist(centred, centred, "cosine")[np.triu_indices(len(classes), 1)]
    lengths = np.linalg.norm(centred, axis=1)
    return {
        "cdnv": np.mean(pairs),
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes),
        "nc2_equinorm": lengths.std() / lengths.mean(),
        "nc2_equiangle": cosines.std(),
        "nc2_max_angle": np.mean(np.abs(cosines + 1 / (len(classes) - 1))),
        "nearest_centre_accuracy": np.mean(NearestCentroid().fit(x, y).predict(x) == y),
    }


def test_a_simplex_with_no_spread_is_full_collapse():
    """Promise: on an exact simplex ETF, the classifier along it, every measure is at its end."""
    means = simplex(6, 10)
    labels = np.repeat(np.arange(6), 4)
    report = collapse.collapse_report(means[labels] + 7, labels, weight=3 * means,
                                      logits=np.eye(6)[labels])  # fmt: skip
    assert report.pop("nearest_centre_accuracy") == 1
    assert (report.pop("classes"), report.pop("samples")) == (6, 24)
    assert set(report) == {"cdnv", "cdnv_one_sided_max", "nc1", "nc2_equinorm", "nc2_equiangle",
                           "nc2_max_angle", "nc3", "nc4"}  # fmt: skip
    assert report == pytest.approx(dict.fromkeys(report, 0), abs=1e-12)


def test_gaussians_have_the_cdnv_of_their_formula():
    """Promise: CDNV of N(mu, s^2 I) classes is s^2 d / distance^2, here within sampling error."""
    rng = np.random.default_rng(0)
    spread, d, gap = 0.5, 16, 4.0
    labels = np.repeat([0, 1], 4000)
    x = rng.normal(scale=spread, size=(8000, d))
    x[:, 0] += gap * labels
    assert collapse.cdnv(x, labels) == pytest.approx(spread**2 * d / gap**2, rel=0.03)


def test_the_one_sided_form_keeps_the_sides_apart_and_averages_alike():
    """Promise: averaged over ordered pairs, the two published forms agree."""
    x = np.array([[0.0, 1], [0, -1], [4, 0], [4, 0]])
    labels = np.array([3, 3, 8, 8])
    report = collapse.collapse_report(x, labels)
    assert report["cdnv_one_sided_max"] == 1 / 16  # of the first class; that of the other is 0
    symmetric = (1 + 0) / (2 * 4**2)
    assert collapse.cdnv(x, labels) == report["cdnv"] == symmetric


@pytest.mark.parametrize("seed, dimension", [(0, 12), (1, 3), (2, 60)])
def test_the_report_equals_an_independent_reference(seed, dimension):
    """Promise: the fast forms equal the definitions, also for d below C and above N."""
    x, labels = cloud(seed, dimension=dimension)
    report = collapse.collapse_report(x, labels)
    expected = reference(x, labels)
    assert {k: report[k] for k in expected} == pytest.approx(expected, rel=1e-8)


def test_random_features_show_no_collapse():
    """Promise: features that know nothing of the labels are far from collapse."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 2000)
    report = collapse.collapse_report(rng.normal(size=(2000, 32)), labels)
    assert report["cdnv"] > 20 and report["nc1"] > 20
    assert report["nearest_centre_accuracy"] < 0.25


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_turning_scaling_shifting_and_shuffling_change_nothing(seed, scale, shift):
    """Promise: the measures depend on the shape of the clouds only."""
    x, labels = cloud(seed, spread=0.7)
    turn = ortho_group.rvs(x.shape[1], random_state=seed)
    order = np.random.default_rng(seed).permutation(len(x))
    moved = collapse.collapse_report((scale * x @ turn + shift)[order], labels[order])
    assert moved == pytest.approx(collapse.collapse_report(x, labels), rel=1e-6, abs=1e-9)


def test_nc3_sees_scale_free_alignment_only():
    """Promise: NC3 is 0 for a scaled copy of the centred means and 2 for the opposite."""
    means, labels = np.random.default_rng(1).normal(size=(4, 7)), np.repeat(np.arange(4), 2)
    centred = means - means.mean(0)
    alike, opposite = (collapse.collapse_report(means[labels], labels, weight=weight)["nc3"]
                       for weight in (5 * centred, -centred))
    assert alike == pytest.approx(0, abs=1e-12) and opposite == pytest.approx(2)


def test_nc4_counts_disagreement_with_the_classifier():
    """Promise: NC4 compares the nearest class mean with the classifier's answer, label by label."""
    x = np.array([[0.0], [0.1], [5], [5.1]])
    logits = np.zeros((4, 9))
    logits[[0, 1, 2, 3], [2, 2, 7, 2]] = 1
    report = collapse.collapse_report(x, np.array([2, 2, 7, 7]), logits=logits)
    assert report["nc4"] == 0.25


def test_tensors_and_arrays_give_the_same_numbers():
    """Promise: float32 tensors are read as they are and measured in float64."""
    x, labels = cloud(3)
    x = x.astype(np.float32)
    tensors = collapse.collapse_report(torch.from_numpy(x).requires_grad_(), torch.tensor(labels))
    assert tensors == collapse.collapse_report(x, labels)


def test_coinciding_means_are_infinitely_far_from_collapse():
    """Promise: classes with one and the same mean give infinity, not a crash or a zero."""
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert collapse.cdnv(x, [0, 0, 1, 1]) == np.inf
    assert collapse.collapse_report(x, [0, 0, 1, 1])["nc1"] == np.inf


@pytest.mark.parametrize(
    "features, labels, message",
    [
        (np.ones((3, 2)), [0, 0, 1], "two samples each"),
        (np.ones((4, 2)), [0, 0, 0, 0], "at least two classes"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], "not finite"),
        (np.ones((4, 2)), [0, 0, 1], "labels \\[N\\]"),
        (np.ones((4, 2)), [0.0, 0.0, 1.0, 1.0], "integer labels"),
    ],
)
def test_what_cannot_be_measured_is_refused(features, labels, message):
    """Promise: too few samples, NaN and wrong shapes are errors that say what was expected."""
    with pytest.raises(ValueError, match=message):
        collapse.collapse_report(features, labels)


def test_a_classifier_without_a_row_for_a_label_is_refused():
    """Promise: weight and logits are matched with the labels, never by position."""
    x, labels = cloud(0)
    with pytest.raises(ValueError, match="row for each label up to 4"):
        collapse.collapse_report(x, labels, weight=np.ones((3, 12)))
    with pytest.raises(ValueError, match="expected logits"):
        collapse.collapse_report(x, labels, logits=np.ones((3, 5)))
