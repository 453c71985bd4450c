"""Fractal images: the chaos game lands where mathematics says, and a seed fixes every pixel."""

import fractals
import numpy as np
import pytest

# x and y halved, towards three corners: the points whose coordinates share no binary digit.
SIERPINSKI = np.array([[0.5, 0, 0, 0.5, e, f] for e, f in [(0, 0), (0.5, 0), (0, 0.5)]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def categories():
    return fractals.find_categories(2, seed=1)


def test_the_chaos_game_draws_sierpinskis_triangle():
    """Promise: every point is on the attractor, and every part of it is visited."""
    points = fractals.chaos_game(SIERPINSKI, 20_000, rng())
    cells = np.floor(points * 2**20).astype(np.int64)
    assert not np.any(cells[:, 0] & cells[:, 1])
    coarse = np.unique(np.floor(points * 2**5).astype(np.int64), axis=0)
    assert len(coarse) == 3**5


def test_maps_are_chosen_as_often_as_asked():
    """Promise: by the share of the determinant; where a point lies tells its last map."""
    assert fractals.map_probabilities(SIERPINSKI) == pytest.approx([1 / 3] * 3)
    scaled = SIERPINSKI * np.array([1, 1, 1, 0.5, 1, 1])
    scaled[0, 3] = 0.5  # determinants 1/4, 1/8, 1/8
    assert fractals.map_probabilities(scaled) == pytest.approx([0.5, 0.25, 0.25])
    points = fractals.chaos_game(SIERPINSKI, 40_000, rng(), np.array([0.6, 0.3, 0.1]))
    taken = np.array([(points.max(axis=1) < 0.5).mean(), (points[:, 0] >= 0.5).mean()])
    assert taken == pytest.approx([0.6, 0.3], abs=0.02)  # six standard errors and more


def test_an_image_shows_the_attractor_upright():
    """Promise: y points up, grey on black, nothing beyond the shape, random patches."""
    image = fractals.render(SIERPINSKI, 64, rng())
    assert image.shape == (64, 64) and image.dtype == np.uint8 and image.max() == 127
    rows, columns = np.mgrid[:64, :64]
    beyond = columns > rows + 4  # above the long side, with room for a patch
    assert not image[beyond].any() and image[~beyond].mean() > 20
    assert not np.array_equal(image, fractals.render(SIERPINSKI, 64, rng(1)))


def test_the_fill_rate_is_the_share_of_pixels_that_are_hit(categories):
    """Promise: equal to a count by NumPy over the same orbit."""
    for maps in (SIERPINSKI, categories[0].maps):
        points = fractals.chaos_game(maps, 100_000, rng(3))
        low, high = points.min(axis=0), points.max(axis=0)
        cells = np.minimum((points - low) * (500 / (high - low)), 499).astype(int)
        expected = len(np.unique(cells, axis=0)) / 512**2
        assert fractals.fill_rate(maps, rng(3)) == expected


@pytest.mark.parametrize("least", [0.2, 0.25])
def test_categories_fill_what_was_asked(least):
    """Promise: every category, and half of it every instance, also when counted anew."""
    for category in fractals.find_categories(2, 5, least):
        assert 2 <= len(category.maps) <= 7 and np.abs(category.maps).max() <= 1
        assert category.fill_rate >= least
        assert fractals.fill_rate(category.maps, rng(9)) > 0.95 * least
        for weights in category.weights.values():
            rates = [fractals.fill_rate(category.maps * row, rng(9)) for row in weights]
            assert min(rates) > 0.95 * least / 2


def test_held_out_weights_are_in_no_training_image(categories):
    """Promise: 25 weights as published train; the 24 between them are held out."""
    train, held_out = (fractals.parameter_weights(split) for split in fractals.SPLITS)
    assert train.shape == (25, 6) and held_out.shape == (24, 6)
    assert np.all((train != 1).sum(axis=1) <= 1) and np.all((held_out != 1).sum(axis=1) == 1)
    assert not {tuple(row) for row in train} & {tuple(row) for row in held_out}
    for category in categories:
        rows = {tuple(row) for row in category.weights["held_out"]}
        assert rows and rows <= {tuple(row) for row in held_out}


def test_a_seed_fixes_everything_and_leaves_the_global_generator_alone(categories):
    """Promise: the same categories and pixels for the same seed, others for another."""
    before = np.random.get_state()[1].copy()
    again = fractals.find_categories(1, seed=1)
    other = fractals.find_categories(1, seed=2)
    assert np.array_equal(again[0].maps, categories[0].maps)  # the longer list begins with it
    assert not np.array_equal(other[0].maps[:2], categories[0].maps[:2])

    def draw(*arguments):
        return fractals.fractal_image(categories, *arguments).tobytes()

    first = draw(0, 3, 32, 7)
    assert first == draw(0, 3, 32, 7)
    for changed in [(1, 3, 32, 7), (0, 4, 32, 7), (0, 3, 32, 8), (0, 3, 32, 7, "held_out")]:
        assert draw(*changed) != first
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_first_category_is_the_same_on_every_machine(categories):
    """Promise: a network's classes mean the same categories wherever they are searched."""
    first = [0.584852, -0.576827, 0.415194, 0.732938, -0.466641, -0.246981]
    assert categories[0].maps[0].round(6).tolist() == first


@pytest.mark.parametrize("act, message", [
    (lambda c: fractals.find_categories(0, 1), "count of 1 or more"),
    (lambda c: fractals.find_categories(1, 1, 0.5), "between 0 and 0.38"),
    (lambda c: fractals.map_probabilities(np.ones((2, 5))), r"shape \(2, 5\)"),
    (lambda c: fractals.map_probabilities(np.full((2, 6), np.nan)), "finite numbers"),
    (lambda c: fractals.map_probabilities(np.ones((2, 6))), "determinant 0"),
    (lambda c: fractals.chaos_game(SIERPINSKI, 0, rng()), "at least 1 point"),
    (lambda c: fractals.chaos_game(SIERPINSKI, 9, rng(), np.ones(3)), "add up to 1"),
    (lambda c: fractals.chaos_game(4 * SIERPINSKI, 9, rng()), "diverges"),
    (lambda c: fractals.render(SIERPINSKI, 8, rng()), "16 pixels or more, got 8"),
    (lambda c: fractals.fractal_image(c, 0, 0, 32, 1, "test"), "got 'test'"),
])  # fmt: skip
def test_what_makes_no_fractal_is_refused(categories, act, message):
    """Promise: before any work, with what was expected and what was got."""
    with pytest.raises(ValueError, match=message):
        act(categories)
