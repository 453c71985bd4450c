"""Why it works, from finished runs beside their image networks: feature distances (Table 5)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from i2p_lib import paper
from i2p_lib.analysis import collapse
from i2p_lib.analysis.bootstrap import interval, resampled
from i2p_lib.analysis.distances import halves, wasserstein1, weighted_wasserstein1
from i2p_lib.analysis.features import (
    Seen,
    backbone_convolutions,
    image_batches,
    observe,
    unit_layer,
)
from i2p_lib.analysis.methods import CONTROLS, method_label
from i2p_lib.data.pictures import Pictures
from i2p_lib.models import is_point_model
from i2p_lib.runs import RunResult, results
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.show.text import html_list
from i2p_lib.train.classify import build_network
from i2p_lib.train.clouds import Split, load_splits, net_input
from i2p_lib.train.task import generator
from i2p_lib.weights import image_model

DRAWS = 100
IMAGENET_CLASSES = 1000
WORKERS = 2  # runs looked at side by side, each on one thread
_BUILDING = threading.Lock()  # random networks are drawn from torch's one global generator
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Pair:
    """A finished run and its image network: what both computed, on test clouds and on views.

    The image network is the one that the run's network was inflated from, untrained where its
    weights are random.
    """

    result: RunResult
    image: Seen
    cloud: Seen
    test: Split
    class_names: tuple[str, ...]

    @property
    def method(self) -> str:
        return method_label(self.result.spec.weights, self.result.spec.regime)

    @property
    def labels(self) -> np.ndarray:
        return self.test.labels.numpy()


def look_inside(
    found: Sequence[RunResult], pictures: Pictures, device: str = "cpu"
) -> list[Pair]:
    """Run each finished network on its test clouds, and its image network on pictures.

    Of several networks the first one's runs are taken; moving statistics are left out.
    Returns an empty list where no run is of an inflated network.
    """
    place = torch.device(resolve_device(device))
    inflated = [r for r in found if not is_point_model(r.spec.model) and r.spec.regime != "io+ms"]
    chosen = [r for r in inflated if r.spec.model == inflated[0].spec.model]
    sources = {_source(r): r for r in chosen}

    def see_pictures(result: RunResult) -> Seen:
        net = network_of(result)
        with _BUILDING:
            model = source_network(result).to(place)
        batches = image_batches(model, pictures.views, place)
        random = generator(0, "pictures")
        layers = backbone_convolutions(net), unit_layer(net)
        return observe(model, batches, len(pictures), *layers, random)

    images = dict(zip(sources, each_run(list(sources.values()), see_pictures), strict=True))

    def see_clouds(result: RunResult) -> Pair:
        spec, net = result.spec, network_of(result).to(place)
        splits = load_splits(spec, place)
        batches = (net_input(net, splits.test.points[part], spec)
                   for part in torch.arange(len(splits.test)).split(spec.batch_size))
        random = generator(0, "clouds")
        layers = backbone_convolutions(net), unit_layer(net)
        with precision_of(result, place):
            cloud = observe(net, batches, len(splits.test), *layers, random)
        return Pair(result, images[_source(result)], cloud, splits.test, splits.class_names)

    return each_run(chosen, see_clouds)


def _source(result: RunResult) -> tuple[str, int | None]:
    """What tells the image networks of one model apart: the weights, and a random one's seed."""
    spec = result.spec
    return spec.weights, spec.seed if spec.weights == "random" else None


def each_run(
    found: Sequence[RunResult], work: Callable[[RunResult], _Result]
) -> list[_Result]:
    """Return `work` of each run, in their order; some run side by side, each on one thread."""
    with one_thread(), ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, found))


def network_of(result: RunResult, trained: bool = True) -> nn.Module:
    """Return a run's network after training, or before it, in eval mode; from any thread."""
    with _BUILDING:
        if trained:
            return result.network()
        return build_network(result.spec, result.metrics["classes"]).eval()


def source_network(result: RunResult) -> nn.Module:
    """Return the image network that a run's network was inflated from, in eval mode.

    Its weights lie in memory channels last, which a CPU convolves faster.
    """
    spec = result.spec
    model = image_model(spec.model, weights=spec.weights, seed=spec.seed).eval()
    return model.to(memory_format=torch.channels_last)


def precision_of(result: RunResult, place: torch.device) -> torch.autocast:
    """Compute in the block as the run did."""
    return torch.autocast(place.type, torch.bfloat16, enabled=result.spec.amp == "bf16")


@dataclass(frozen=True)
class Distances:
    """Wasserstein distances between image features and cloud features.

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


def feature_distances(pairs: Sequence[Pair], pictures: Pictures) -> Distances:
    """Return the distances between what image networks and finetuned ones compute, by layer.

    Raises ValueError where a pair's sides hold other layers, or there is no pair.
    """
    if not pairs:
        raise ValueError("expected at least one run of an inflated network, got none")
    rng = np.random.default_rng(0)
    floors = {id(pair.image): _floor(pair.image, pictures, rng) for pair in pairs}
    rows, found = [], {}
    for pair in pairs:
        table, draws = _layer_distances(pair, pictures, rng)
        rows.append(table.assign(key=pair.result.key, method=pair.method,
                                 seed=pair.result.spec.seed))
        found.setdefault(pair.method, []).append((table, draws, floors[id(pair.image)]))
    methods = [_summary(method, parts, scale, rng)
               for method, parts in found.items() for scale in ("own unit", "relative")]
    layers = tuple(pairs[0].image.values)
    return Distances(layers, pd.concat(rows, ignore_index=True),
                     pd.concat(methods, ignore_index=True))


def _floor(image: Seen, pictures: Pictures, rng: np.random.Generator) -> np.ndarray:
    """Return the distance of two halves of the pictures in each layer, the median of draws."""
    owner = pictures.owner[image.owner]
    half = halves(int(owner.max()) + 1, DRAWS // 5, rng)
    return np.array([np.median(weighted_wasserstein1(v, v, owner, owner, half, 1 - half))
                     for v in image.values.values()])


def _layer_distances(
    pair: Pair, pictures: Pictures, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a pair's distances, one row per layer, and bootstrap draws of them [layers, DRAWS]."""
    if list(pair.image.values) != list(pair.cloud.values):
        odd = sorted(set(pair.image.values) ^ set(pair.cloud.values))[:3]
        raise ValueError(f"images and clouds were seen at other layers: {odd} ...")
    owners = pictures.owner[pair.image.owner], pair.cloud.owner
    weights = [resampled(int(owner.max()) + 1, DRAWS, rng) for owner in owners]
    rows, draws = [], []
    for place, (layer, values) in enumerate(pair.image.values.items(), start=1):
        clouds = pair.cloud.values[layer]
        draws.append(weighted_wasserstein1(values, clouds, *owners, *weights))
        rows.append({"layer": layer, "place": place, "distance": wasserstein1(values, clouds),
                     "spread": float(values.std()) or np.nan})
    return pd.DataFrame(rows), np.stack(draws)


def _summary(method: str, parts: list[tuple], scale: str, rng: np.random.Generator) -> pd.DataFrame:
    """Return the rows of one method and scale; `parts` are the seeds' tables, draws and floors."""
    tables, draws, floors = zip(*parts, strict=True)
    unit = [np.ones(len(t)) if scale == "own unit" else t["spread"].to_numpy() for t in tables]
    means = np.mean([t["distance"] / u for t, u in zip(tables, unit, strict=True)], axis=0)
    floor = np.mean([f / u for f, u in zip(floors, unit, strict=True)], axis=0)
    drawn = np.stack([d / u[:, None] for d, u in zip(draws, unit, strict=True)])
    seeds = rng.integers(len(parts), size=(DRAWS, len(parts)))
    drawn = drawn[seeds, :, np.arange(DRAWS)[:, None]].mean(1).T  # [layers, DRAWS]
    low, high = interval(np.vstack([drawn.mean(0), drawn]), axis=1)
    return pd.DataFrame({
        "method": method, "scale": scale, "place": np.arange(len(means) + 1),
        "layer": ["mean", *tables[0]["layer"]], "distance": [means.mean(), *means],
        "low": low, "high": high, "floor": [floor.mean(), *floor], "seeds": len(parts),
    })


def paper_places(count: int) -> dict[str, int]:
    """Return {metric of Table 5: place of the layer, from 1} of a network of `count` layers.

    Layers 1, 4, 8 and 16 of 16; in another network those at the same share of the depth.
    """
    return {f"wasserstein1_layer{k}": max(1, round(k * count / 16)) for k in (1, 4, 8, 16)}


def distance_rows(
    distances: Distances, pairs: Sequence[Pair], pictures: Pictures
) -> pd.DataFrame:
    """Return the distances as rows for `paper.compare`: Table 5, one row per run and metric.

    A row counts as in the paper where its run does and the pictures have ImageNet's number of
    classes.
    """
    table = results([pair.result for pair in pairs])
    enough = len(pictures.label_names) == IMAGENET_CLASSES
    wide = distances.runs.pivot(index="key", columns="place", values="distance")
    wide = wide.loc[[pair.result.key for pair in pairs]].reset_index(drop=True)
    columns = {"wasserstein1_mean_of_16_layers": wide.mean(axis=1)}
    columns |= {name: wide[place] for name, place in paper_places(wide.shape[1]).items()}
    parts = [paper.rows_of_runs(table.assign(value=values), metric, "value")
             for metric, values in columns.items()]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(as_in_paper=rows["as_in_paper"] & enough)


def distance_sentences(distances: Distances) -> str:
    """Say which method's features lie how far from the images', by layer and on the mean: HTML."""
    table, count = distances.methods, len(distances.layers)
    means = table[table["place"] == 0].set_index(["scale", "method"])
    lines = []
    for scale, unit in (("relative", "in standard deviations of the image features"),
                        ("own unit", "in the features' own unit, as the paper prints it")):
        ranked = means.loc[scale].sort_values("distance")
        texts = [f"{m} {row.distance:.3g} ({row.low:.3g} to {row.high:.3g})"
                 for m, row in ranked.iterrows()]
        lines.append(f"Mean over the {count} convolutions {unit}, nearest first, with 95 % "
                     f"intervals: {', '.join(texts)}.")
    layers = table[(table["place"] > 0) & (table["scale"] == "relative")]
    layers = {method: part.set_index("place") for method, part in layers.groupby("method")}
    for method, control in CONTROLS.items():
        if method not in layers:
            continue
        mine = layers[method]
        above = int((mine["distance"] > 2 * mine["floor"]).sum())
        text = (f"{method}: clouds are more than twice as far from the pictures as one half of "
                f"the pictures from the other in {above} of {count} layers")
        if control in layers:
            nearer = int((mine["distance"] < layers[control]["distance"]).sum())
            text += (f"; nearer to its image network than {control} to its own in {nearer} of "
                     f"{count}, on the relative scale")
        lines.append(text + ".")
    return html_list(lines)


def centre_bound(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (bound, error) of nearest-centre classification, means over the classes.

    features [N, d], labels int [N]; each class centre is the mean of its features.  By
    Chebyshev's inequality a feature of class i lies nearer to centre j with a probability of at
    most 4 Var_i / |mu_i - mu_j|^2, so the error is at most 4 (C - 1) times the CDNV of C classes.
    A bound of 1 or more says nothing.  Raises ValueError as `collapse.class_moments` does.
    """
    means = collapse.class_moments(features, labels).means
    nearest = collapse.nearest_centre(features, means)
    classes, codes = np.unique(labels, return_inverse=True)
    wrong = [np.mean(nearest[codes == c] != c) for c in range(len(classes))]
    bound = 4 * (len(classes) - 1) * collapse.cdnv(features, labels, "one-sided")
    return float(bound), float(np.mean(wrong))


def bound_sentences(found: Sequence[RunResult]) -> str:
    """Set the bound beside the measured error, on test features: HTML list, one line a method."""
    rows = []
    for result in found:
        kept = result.features()
        bound, error = centre_bound(kept["test_features"], kept["test_labels"])
        method = method_label(result.spec.weights, result.spec.regime)
        rows.append({"method": method, "bound": bound, "error": error})
    table = pd.DataFrame(rows).groupby("method", sort=False)
    return html_list([
        f"{method}: error {100 * part['error'].mean():.0f} % ({len(part)} runs), bound "
        f"{100 * part['bound'].mean():,.0f} %, below 100 % in {(part['bound'] < 1).sum()} of them."
        for method, part in table
    ])
