"""Collapse on the images' side, on fractals whose classes are known."""

import fractals
import numpy as np
import pytest
import torch
from made_notebooks import chapter_functions

from i2p_lib.analysis.collapse import cdnv
from i2p_lib.data.fractal_images import SPLITS, FractalImages
from i2p_lib.sources import PACKAGE
from i2p_lib.weights import weight_card

chapter = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")


def test_the_images_side_is_measured_on_held_out_fractals():
    """Promise: the numbers are those of the features returned, and better than random weights."""
    categories, drawn = fractals.find_categories(3, seed=1), {}
    for split in SPLITS:
        labels, images = zip(*fractals.fractal_images(categories, 6, 96, 2, split), strict=True)
        drawn[split] = FractalImages(np.stack(images), np.array(labels), ())
    table, features, hits = chapter.source_collapse(drawn)
    last = table.query("layer == 'penultimate' and metric == 'cdnv' and split == 'held_out'")
    for weights, (values, labels) in features.items():
        assert values.shape == (18, 512)
        held = last.set_index("weights")["value"]
        assert held[weights] == pytest.approx(cdnv(values, labels))
    assert last.set_index("weights")["value"]["fractal"] < held["random"]
    classes = weight_card("resnet18", "fractal").classes
    right = table.query("metric == 'top1'").set_index("split")["value"]
    assert set(right.index) == {"train", "held_out"} and (right > 5 / classes).all()
    assert hits.mean() == right["held_out"] and len(hits) == 18


def test_fractals_are_given_as_the_pretraining_gave_them():
    """Promise: the same crop and the same scale as the script that trained the weights."""
    from torchvision.transforms.functional import center_crop, normalize

    images = np.random.default_rng(0).integers(128, size=(2, 96, 96), dtype=np.uint8)
    grey = center_crop(torch.from_numpy(images)[:, None] / 255, [80, 80]).expand(-1, 3, -1, -1)
    expected = normalize(grey, [0.2] * 3, [0.5] * 3)
    torch.testing.assert_close(chapter.fractal_input(images), expected)
