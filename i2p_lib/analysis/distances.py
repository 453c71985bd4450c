"""Distances between samples: first Wasserstein, how sure it is, and of features by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit

from i2p_lib.analysis.bootstrap import interval, resampled
from i2p_lib.analysis.features import Pair

DRAWS = 100


def weighted_wasserstein1(
    x: np.ndarray, y: np.ndarray, x_owner: np.ndarray, y_owner: np.ndarray,
    x_weights: np.ndarray, y_weights: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the first Wasserstein distance between x [n] and y [m] under many weightings: [draws].

    That is the area between their CDFs, in the numbers' unit.
    x_owner [n] and y_owner [m] say whose each number is (an image's, a cloud's), as rows of the
    weights [owners, draws]; all numbers of an owner weigh alike.  Hundreds of draws cost one
    sorting, which SciPy's function repeats for each.
    Raises ValueError for an empty sample, a number that is not finite, owners or weights that do
    not fit, or weights that are negative or all zero in a column.
    """
    x, p = _weighted(x, x_owner, x_weights, "x")
    y, q = _weighted(y, y_owner, y_weights, "y")
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"expected as many draws on both sides, got {p.shape[1]}, {q.shape[1]}")
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    owner = np.concatenate([x_owner, len(p) + np.asarray(y_owner)])
    return _area(values[order], owner[order], np.concatenate([p, -q]))


def _weighted(
    values: np.ndarray, owner: np.ndarray, weights: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample, and the share of each of an owner's numbers, [owners, draws]."""
    values, weights = (np.asarray(a, dtype=np.float64) for a in (values, weights))
    owner = np.asarray(owner)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected {name} [n >= 1], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite; the run may have diverged")
    if owner.shape != values.shape or weights.ndim != 2:
        raise ValueError(
            f"expected {name}_owner [{len(values)}] and {name}_weights [owners, draws], got "
            f"shapes {owner.shape} and {weights.shape}"
        )
    if owner.min() < 0 or owner.max() >= len(weights):
        raise ValueError(f"{name}_owner must be rows of the {len(weights)} weights")
    totals = np.bincount(owner, minlength=len(weights)) @ weights
    if not np.isfinite(weights).all() or (weights < 0).any() or (totals <= 0).any():
        raise ValueError(f"{name}_weights must be finite, not negative, and positive for some")
    return values, weights / totals


@njit(cache=True, nogil=True)
def _area(values: np.ndarray, owner: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Area between two CDFs: rising values, and the rows of mass that each of them brings."""
    draws = mass.shape[1]
    gap, area = np.zeros(draws), np.zeros(draws)
    for i in range(len(values) - 1):
        width = values[i + 1] - values[i]
        for d in range(draws):
            gap[d] += mass[owner[i], d]
            area[d] += abs(gap[d]) * width
    return area


def halves(owners: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return weights [owners, draws] of 0 and 1 that keep a random half of the owners.

    A sample under these weights against itself under one minus them: the distance that is there
    when nothing differs but the choice of owners.  Raises ValueError for a single owner.
    """
    if owners < 2:
        raise ValueError(f"expected two owners or more, got {owners}: there are no halves")
    ranks = rng.permuted(np.tile(np.arange(owners), (draws, 1)), axis=1)
    return (ranks < owners // 2).T.astype(float)


@dataclass(frozen=True)
class Distances:
    """Wasserstein distances between image features and cloud features (paper, Table 5).

    layers   names of the convolutions, first to last
    runs     one row per run and layer: key, method, seed, layer, place (from 1), distance,
             spread (standard deviation of the image features)
    methods  one row per method, scale and place; place 0 is the mean over the layers.
             scale "own unit" (the paper's) or "relative" (over the spread); distance is the mean
             over seeds; low and high its 95 % interval, drawing pictures, clouds and seeds
             together; floor: one half of the pictures against the other
    """

    layers: tuple[str, ...]
    runs: pd.DataFrame
    methods: pd.DataFrame


def feature_distances(pairs: Sequence[Pair], picture: np.ndarray) -> Distances:
    """Return the distances between what image networks and finetuned ones compute, by layer.

    picture int64 [views]: the picture that each view of the image networks' input is of.
    Raises ValueError where a pair's sides hold other layers, or there is no pair.
    """
    if not pairs:
        raise ValueError("expected at least one run of an inflated network, got none")
    rng = np.random.default_rng(0)
    half = {id(p.image): halves(int(picture.max()) + 1, DRAWS // 5, rng) for p in pairs}
    floors, rows, found = {}, [], {}
    for image in {id(p.image): p.image for p in pairs}.values():
        kept, owner = half[id(image)], picture[image.owner]
        floors[id(image)] = np.array([
            np.median(weighted_wasserstein1(v, v, owner, owner, kept, 1 - kept))
            for v in image.values.values()
        ])
    for pair in pairs:
        table, draws = _layer_distances(pair, picture, rng)
        rows.append(table.assign(key=pair.key, method=pair.method, seed=pair.seed))
        found.setdefault(pair.method, []).append((table, draws, floors[id(pair.image)]))
    methods = [_summary(method, parts, scale, rng)
               for method, parts in found.items() for scale in ("own unit", "relative")]
    layers = tuple(pairs[0].image.values)
    return Distances(layers, pd.concat(rows, ignore_index=True),
                     pd.concat(methods, ignore_index=True))


def _layer_distances(
    pair: Pair, picture: np.ndarray, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a pair's distances, one row per layer, and bootstrap draws of them [layers, DRAWS]."""
    if list(pair.image.values) != list(pair.cloud.values):
        odd = sorted(set(pair.image.values) ^ set(pair.cloud.values))[:3]
        raise ValueError(f"images and clouds were seen at other layers: {odd} ...")
    owners = picture[pair.image.owner], pair.cloud.owner
    counts = [int(owner.max()) + 1 for owner in owners]
    weights = [np.hstack([np.ones((n, 1)), resampled(n, DRAWS, rng)]) for n in counts]
    rows, draws = [], []
    for place, (layer, values) in enumerate(pair.image.values.items(), start=1):
        clouds = pair.cloud.values[layer]
        distance, *drawn = weighted_wasserstein1(values, clouds, *owners, *weights)
        draws.append(drawn)
        rows.append({"layer": layer, "place": place, "distance": distance,
                     "spread": float(values.std()) or np.nan})
    return pd.DataFrame(rows), np.stack(draws)


def _summary(method: str, parts: list[tuple], scale: str, rng: np.random.Generator) -> pd.DataFrame:
    """Return the rows of one method and scale; `parts` are the seeds' tables, draws and floors."""
    tables, draws, floors = zip(*parts, strict=True)
    units = [np.ones(len(t)) if scale == "own unit" else t["spread"].to_numpy() for t in tables]
    means = np.mean([t["distance"] / u for t, u in zip(tables, units, strict=True)], axis=0)
    floor = np.mean([f / u for f, u in zip(floors, units, strict=True)], axis=0)
    drawn = np.stack([d / u[:, None] for d, u in zip(draws, units, strict=True)])
    seeds = rng.integers(len(parts), size=(DRAWS, len(parts)))
    drawn = drawn[seeds, :, np.arange(DRAWS)[:, None]].mean(1).T  # [layers, DRAWS]
    low, high = interval(np.vstack([drawn.mean(0), drawn]), axis=1)
    return pd.DataFrame({
        "method": method, "scale": scale, "place": np.arange(len(means) + 1),
        "layer": ["mean", *tables[0]["layer"]], "distance": [means.mean(), *means],
        "low": low, "high": high, "floor": [floor.mean(), *floor], "seeds": len(parts),
    })
