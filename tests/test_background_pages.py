"""The pages on background and data: their small functions, on cases with known answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_notebooks import chapter_functions

from i2p_lib.data import PointCloudSet
from i2p_lib.sources import PACKAGE
from i2p_lib.sparse import SparseTensor

NOTEBOOKS = PACKAGE.parent / "notebooks"
background = chapter_functions(NOTEBOOKS / "background.ipynb")
data = chapter_functions(NOTEBOOKS / "data.ipynb")


@pytest.mark.parametrize("stride", [1, 2])
def test_pairs_found_by_search_are_those_of_the_library(stride: int) -> None:
    cells = torch.randint(-9, 9, (300, 3), generator=torch.Generator().manual_seed(1)).unique(dim=0)
    coords = torch.cat([torch.zeros(len(cells), 1, dtype=torch.long), cells], 1)
    sites = SparseTensor(torch.ones(len(cells), 1), coords).sites
    library = sites.kernel_map((3, 3, 3), stride, (1, 1, 1))
    outputs, pairs = background.pairs_by_search(cells, stride)
    assert torch.equal(outputs, sites.downsample(stride).coords[:, 1:])
    assert [len(rows) for rows, _ in pairs] == list(library.sizes)


def test_the_receptive_field_is_counted_as_the_formula_says() -> None:
    layers = [(5, 2), (3, 1), (3, 2), (1, 1), (3, 1)]
    assert background.field_by_formula(layers) == background.field_by_gradient(layers) == 21


def test_a_network_that_says_one_class_has_its_share_and_a_poor_miou() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    scores = background.scores_by_sets(np.zeros(10, int), labels)
    assert np.allclose(scores, (0.8, 0.5, 0.4))


def test_an_interval_covers_about_as_often_as_it_says() -> None:
    covered = background.share_that_covers(0.7, 200, 200, np.random.default_rng(0))
    assert 0.88 <= covered <= 0.99


def ellipsoids(seed: int, sides: np.ndarray) -> np.ndarray:
    """One sample of 1,024 points of each ellipsoid with these half sides [N, 3]."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(len(sides), 1024, 3))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    return (points * sides[:, None]).astype(np.float32)


def test_a_second_sample_of_a_training_shape_is_found_and_lies_at_about_one() -> None:
    """Promise: near-duplicates across a split are found, and new shapes are none."""
    sides = np.random.default_rng(0).uniform(0.2, 1, (40, 3))
    again = np.concatenate([sides[[7]], [[0.05, 0.05, 1.0]]])  # a known shape, and a needle
    names = ("egg", "needle")
    known, asked = ellipsoids(1, sides), ellipsoids(2, again)
    splits = {
        "trainval": PointCloudSet("eggs", "trainval", known, np.zeros(40, int), names),
        "test": PointCloudSet("eggs", "test", asked, np.array([0, 1]), names),
    }
    data.nearest_in_train.__globals__["load_dataset"] = lambda name, split: splits[split]
    table, missed = data.nearest_in_train(SimpleNamespace(name="eggs"))
    assert missed == 0 and table["train"][0] == 7
    assert 0.9 < table["distance"][0] < 1.1 and table["distance"][1] > 1.5
    row = data.likeness_row("eggs", table)
    assert (row["within 1.1"], row["within 1.5"], row["nearest is of the class (%)"]) == (1, 1, 50)


def test_clouds_with_y_up_are_drawn_standing() -> None:
    """Promise: turning a cloud is a rotation that brings y up, and no mirror image."""
    turned = data.standing(np.eye(3), "y")
    assert np.allclose(turned[1], [0, 0, 1]) and np.isclose(np.linalg.det(turned), 1)
    assert data.standing(turned, "z") is turned
