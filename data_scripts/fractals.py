"""Fractal images in the manner of FractalDB: systems of maps, categories, instances, pixels.

Source of the method: Kataoka et al., Pre-training without Natural Images, ACCV 2020 (longer in
IJCV 2022), and the authors' public code, hirokatsukataoka16/FractalDB-Pretrained-ResNet-PyTorch.
Facts taken from there, with the file of that repository that states them:

- A category is an iterated function system of 2 to 7 affine maps (the paper writes 2 to 8);
  their six parameters are drawn uniformly from [-1, 1], and a map is chosen with a probability in
  proportion to the size of its determinant (`param_search/ifs_search.py`).
- It is kept when 100,000 points fill at least 0.2 of the pixels of a 512 x 512 image with a margin
  of 6 (`param_search/ifs_search.py`, `ifs_simple.py`).
- An instance multiplies one parameter of all maps by 0.2, 0.6, 1.4 or 1.8, or none: 25 weights
  (`fractal_renderer/weights/weights_0.4.csv`).  10 renderings and 4 flips of each make 1,000
  instances a category (`make_fractaldb.py`).
- Each of 200,000 points pastes a 3 x 3 patch, of one of the 511 masks that are not empty, onto
  362 x 362 pixels; grey is 127 on black, and each axis is stretched to fill the image (`exe.sh`,
  `ifs_function.py`).

What is done otherwise here: an image is drawn at twice its size, with as many points per pixel,
and averaged (the authors draw 362 pixels and train on 256); a system that diverges is refused
instead of cut short; the first points, on their way to the attractor, are not drawn; weights that
leave less than half of the fill rate are not used; flips are left to the training; and the factors
0.4, 0.8, 1.2 and 1.6 make held-out instances, so no held-out shape was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from tqdm.auto import tqdm

MAPS = (2, 7)
FILL_RATE = 0.2
SEARCH_SIZE, SEARCH_MARGIN, SEARCH_POINTS = 512, 6, 100_000
POINTS_PER_PIXEL = 200_000 / 362**2
FINER = 2  # an image is drawn at this many times its size
GREY = 127
SKIPPED = 100  # points before the first that counts
SPLITS = ("train", "held_out")
FACTORS = {"train": (0.2, 0.6, 1.0, 1.4, 1.8), "held_out": (0.4, 0.8, 1.2, 1.6)}
SMALLEST = 16  # pixels across
_ATTEMPTS = 20_000  # systems drawn for one category before the search gives up
_FAR = 1e6  # no system of these parameters that stays bounded comes so far


@dataclass(frozen=True)
class Category:
    """One class of fractals.

    maps       [N, 6] float64: a, b, c, d, e, f of x' = a x + b y + e, y' = c x + d y + f
    fill_rate  what `fill_rate` gave when the category was found
    weights    for each split the factors of the six parameters that instances use, [W, 6]
    """

    maps: np.ndarray
    fill_rate: float
    weights: dict[str, np.ndarray]


def map_probabilities(maps: np.ndarray) -> np.ndarray:
    """Return how often each map of a system is chosen: its determinant's share, [N] float64.

    Raises ValueError for anything but [N, 6] finite numbers with a determinant that is not zero.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 2 or maps.shape[1:] != (6,) or not len(maps) or not np.isfinite(maps).all():
        raise ValueError(f"expected maps as finite numbers [N, 6], got shape {maps.shape}")
    areas = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2])
    if not areas.sum() > 0:
        raise ValueError("every map has determinant 0, so none can be chosen: draw other maps")
    return areas / areas.sum()


def chaos_game(
    maps: np.ndarray, points: int, generator: np.random.Generator,
    probabilities: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return points [points, 2] float64 of a system's attractor, drawn by the chaos game.

    The orbit begins at the origin; its first 100 points are skipped.
    probabilities: of the maps [N], adding up to 1 (default `map_probabilities`).
    Raises ValueError where the orbit diverges, or an argument does not fit.
    """
    default = map_probabilities(maps)
    chances = default if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    if chances.shape != default.shape or (chances < 0).any() or abs(chances.sum() - 1) > 1e-9:
        raise ValueError(f"expected {len(default)} probabilities that add up to 1, got {chances}")
    if points < 1:
        raise ValueError(f"expected at least 1 point, got {points}")
    found = np.empty((points, 2))
    if not _orbit(np.asarray(maps, dtype=np.float64), np.cumsum(chances), generator, found):
        raise ValueError("the system diverges: its orbit leaves every bound")
    return found


@njit(cache=True)
def _orbit(maps, limits, generator, found):
    """Fill `found` [P, 2] with the orbit behind its first points; False where it runs away."""
    x = y = 0.0
    last = len(limits) - 1
    for step in range(-SKIPPED, len(found)):
        draw = generator.random()
        chosen = 0
        while chosen < last and draw >= limits[chosen]:
            chosen += 1
        a, b, c, d, e, f = maps[chosen]
        x, y = a * x + b * y + e, c * x + d * y + f
        if not (abs(x) < _FAR and abs(y) < _FAR):
            return False
        if step >= 0:
            found[step, 0] = x
            found[step, 1] = y
    return True


@njit(cache=True)
def _pixels(points, size, margin):
    """Return the row and column of each point [P, 2] int64; both axes fill the image."""
    placed = np.zeros(points.shape, np.int64)
    for axis in range(2):
        low, high = points[:, axis].min(), points[:, axis].max()
        if high > low:
            scale = (size - 2 * margin) / (high - low)
            for i in range(len(points)):
                at = min(int((points[i, axis] - low) * scale), size - 2 * margin - 1) + margin
                if axis == 0:
                    placed[i, 1] = at
                else:
                    placed[i, 0] = size - 1 - at
    return placed


@njit(cache=True)
def _filled(placed, size):
    seen = np.zeros((size, size), np.bool_)
    count = 0
    for i in range(len(placed)):
        if not seen[placed[i, 0], placed[i, 1]]:
            seen[placed[i, 0], placed[i, 1]] = True
            count += 1
    return count / (size * size)


@njit(cache=True)
def _paste(placed, size, generator):
    """Return the bits [size, size] uint8 after each point has pasted a patch of random bits."""
    image = np.zeros((size, size), np.uint8)
    for i in range(len(placed)):
        mask = 1 + int(generator.random() * 511)
        top, left = placed[i, 0] - 1, placed[i, 1] - 1
        for bit in range(9):
            image[top + bit // 3, left + bit % 3] = (mask >> bit) & 1
    return image


def fill_rate(maps: np.ndarray, generator: np.random.Generator) -> float:
    """Return the share of a 512 x 512 image that 100,000 points of a system fill; 0: diverges."""
    points = np.empty((SEARCH_POINTS, 2))
    if not _orbit(maps, np.cumsum(map_probabilities(maps)), generator, points):
        return 0.0
    return float(_filled(_pixels(points, SEARCH_SIZE, SEARCH_MARGIN), SEARCH_SIZE))


def parameter_weights(split: str) -> np.ndarray:
    """Return the factors of the six parameters that a split's instances use: [25 or 24, 6]."""
    _check_split(split)
    rows = [np.where(np.arange(6) == place, factor, 1.0)
            for place in range(6) for factor in FACTORS[split]]  # fmt: skip
    return np.unique(rows, axis=0)


def find_categories(
    count: int, seed: int, least: float = FILL_RATE, progress: bool = False
) -> list[Category]:
    """Return the first `count` systems, of those that `seed` draws, that fill `least` of an image.

    A longer list begins with the shorter one.  Weights that leave less than half of `least` are
    not among a category's, and a category needs one for each split.

    Raises ValueError for a count below 1 or a fill rate that 100,000 points cannot reach, and
    where 20,000 draws bring no category.
    """
    most = SEARCH_POINTS / SEARCH_SIZE**2
    if count < 1 or not 0 < least < most:
        raise ValueError(
            f"expected a count of 1 or more and a fill rate between 0 and {most:.2f} (that many "
            f"points fill no more), got {count} and {least}"
        )
    generator = np.random.default_rng(seed)
    found: list[Category] = []
    missed = 0  # draws since the last one
    bar = tqdm(total=count, desc="search categories", disable=not progress)
    while len(found) < count:
        maps = generator.uniform(-1, 1, (generator.integers(MAPS[0], MAPS[1] + 1), 6))
        rate = fill_rate(maps, generator)
        missed += 1
        if rate >= least:
            weights = {split: _usable(maps, split, least / 2, generator) for split in SPLITS}
            if all(len(rows) for rows in weights.values()):
                found.append(Category(maps, rate, weights))
                bar.update()
                missed = 0
        if missed >= _ATTEMPTS:
            raise ValueError(
                f"{_ATTEMPTS} systems in a row filled less than {least} of the image; "
                f"{len(found)} of {count} categories were found. Ask for a smaller fill rate"
            )
    bar.close()
    return found


def _usable(
    maps: np.ndarray, split: str, least: float, generator: np.random.Generator
) -> np.ndarray:
    rows = parameter_weights(split)
    return np.array([row for row in rows if fill_rate(maps * row, generator) >= least])


def render(maps: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return one image of a system, [size, size] uint8, from 0 (empty) to 127 (full).

    Raises ValueError for a size below 16 and a system that diverges.
    """
    if size < SMALLEST:
        raise ValueError(f"expected a size of {SMALLEST} pixels or more, got {size}")
    drawn = FINER * size
    points = chaos_game(maps, round(POINTS_PER_PIXEL * drawn**2), generator)
    margin = max(1, round(SEARCH_MARGIN / SEARCH_SIZE * drawn))
    bits = _paste(_pixels(points, drawn, margin), drawn, generator)
    shares = bits.reshape(size, FINER, size, FINER).mean(axis=(1, 3))
    return np.rint(GREY * shares).astype(np.uint8)


def fractal_image(
    categories: list[Category], label: int, number: int, size: int, seed: int, split: str = "train"
) -> np.ndarray:
    """Return instance `number` of the category `label`: [size, size] uint8, always the same one.

    Instances go round the category's weights and differ in points and patches.
    """
    _check_split(split)
    weights = categories[label].weights[split]
    generator = np.random.default_rng([seed, SPLITS.index(split), label, number])
    return render(categories[label].maps * weights[number % len(weights)], size, generator)


def fractal_images(
    categories: list[Category], each: int, size: int, seed: int, split: str = "train"
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (label, image) of the first `each` instances of every category, by category."""
    for label in range(len(categories)):
        for number in range(each):
            yield label, fractal_image(categories, label, number, size, seed, split)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"expected a split of {SPLITS}, got {split!r}")
