"""Network dissection of finished runs (Figure 4): what single units respond to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from i2p_lib import paper
from i2p_lib.analysis.dissection import class_entropy, class_selectivity, dissect, top_samples
from i2p_lib.analysis.features import image_batches, unit_layer, unit_maps
from i2p_lib.analysis.methods import CONTROLS
from i2p_lib.analysis.why import Pair, precision_of, source_network
from i2p_lib.data.pictures import Pictures
from i2p_lib.runs import results
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.show.text import html_list
from i2p_lib.sparse import SparseTensor
from i2p_lib.train.clouds import net_input

TOP = 10  # samples that a unit is judged by
SHUFFLES = 20  # permutations of the labels


def unit_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return one row per run and active unit, measured on the test clouds.

    Columns: method, seed, key, unit, entropy, selectivity, and what both are on average when the
    labels are permuted among the clouds (entropy_shuffled, selectivity_shuffled): sparse units
    look selective for any labels.
    """
    tables = []
    for pair in pairs:
        top = min(TOP, len(pair.labels))
        table = dissect(pair.cloud.units, pair.labels, top)
        values = pair.cloud.units[:, table["unit"]]
        best, rng = top_samples(values, top), np.random.default_rng(pair.result.spec.seed)
        shuffled = [rng.permutation(pair.labels) for _ in range(SHUFFLES)]
        tables.append(table.assign(
            method=pair.method, seed=pair.result.spec.seed, key=pair.result.key,
            entropy_shuffled=np.mean([class_entropy(s[best]) for s in shuffled], axis=0),
            selectivity_shuffled=np.mean([class_selectivity(values, s) for s in shuffled], axis=0),
        ))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def dissection_rows(units: pd.DataFrame, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return the mean entropy and selectivity of each run's units as rows for `paper.compare`."""
    table = results([pair.result for pair in pairs])
    means = units.groupby("key")[["entropy", "selectivity"]].mean()
    means = means.loc[[pair.result.key for pair in pairs]].reset_index(drop=True)
    return pd.concat([
        paper.rows_of_runs(table.assign(value=means[column]), metric, "value")
        for column, metric in (("entropy", f"class_entropy_of_top_{TOP}_bits"),
                               ("selectivity", "class_selectivity"))
    ], ignore_index=True)  # fmt: skip


def dissection_sentences(units: pd.DataFrame) -> str:
    """Say how single-classed the units of each method are, against its control: HTML list."""
    units = units.assign(excess=units["selectivity"] - units["selectivity_shuffled"])
    means = units.groupby(["method", "seed"], sort=False).mean(numeric_only=True)
    overall = means.groupby("method", sort=False).mean()
    ranked = overall.sort_values("entropy")
    lines = [
        f"Class entropy of the {TOP} clouds that activate a unit most, in bits, mean over units "
        "and seeds, lowest first: "
        + ", ".join(f"{m} {row.entropy:.2f}" for m, row in ranked.iterrows())
        + f"; with shuffled labels {overall['entropy_shuffled'].mean():.2f}.",
        "Class selectivity above that of shuffled labels, highest first: "
        + ", ".join(f"{m} {row.excess:+.2f} ({row.selectivity:.2f})" for m, row in
                    overall.sort_values("excess", ascending=False).iterrows())
        + " (in brackets the selectivity itself).",
    ]
    for method, control in CONTROLS.items():
        if not {method, control} <= set(overall.index):
            continue
        gaps = (means.loc[method] - means.loc[control]).dropna()
        lower, higher = int((gaps["entropy"] < 0).sum()), int((gaps["excess"] > 0).sum())
        lines.append(
            f"{method} against {control}: entropy {gaps['entropy'].mean():+.2f} bits, lower in "
            f"{lower} of {len(gaps)} seeds; selectivity above chance "
            f"{gaps['excess'].mean():+.2f}, higher in {higher} of {len(gaps)}."
        )
    return html_list(lines)


@dataclass(frozen=True)
class UnitPictures:
    """What activates one unit most: pictures [S, S, 3] in 0..1 with maps [h, w], clouds [P, 3]
    with an activation [P] for each point, and the clouds' class names."""

    unit: int
    caption: str
    pictures: list[tuple[np.ndarray, np.ndarray]]
    clouds: list[tuple[np.ndarray, np.ndarray, str]]


def unit_pictures(
    pairs: Sequence[Pair], units: pd.DataFrame, pictures: Pictures, method: str,
    device: str = "cpu", rows: int = 6, shown: int = 4,
) -> list[UnitPictures]:  # fmt: skip
    """Return the top pictures and clouds of a few units of a method's first run.

    Half of the units have the lowest class entropy on clouds, the other half a middling one;
    of each picture the strongest view is taken.
    """
    pair = next((p for p in pairs if p.method == method), None)
    if pair is None:
        return []
    place = torch.device(resolve_device(device))
    table = units[units["key"] == pair.result.key]
    table = table[pair.image.units.any(0)[table["unit"]]]
    table = table.sort_values(["entropy", "selectivity"], ascending=[True, False])
    middle = len(table) // 2
    table = pd.concat([table[: rows // 2], table[middle : middle + rows - rows // 2]])
    with one_thread():
        net = pair.result.network().to(place)
        model = source_network(pair.result).to(place)
        layer = unit_layer(net)
        return [
            UnitPictures(
                int(row.unit),
                f"unit {row.unit}\nentropy {row.entropy:.1f}\n"
                f"selectivity {row.selectivity:.2f}",
                _top_pictures(model, layer, pair, int(row.unit), pictures, shown, place),
                _top_clouds(net, layer, pair, int(row.unit), shown, place),
            )
            for row in table.itertuples()
        ]


def _top_pictures(model, layer, pair, unit, pictures, shown, place):
    order = top_samples(pair.image.units[:, [unit]], len(pictures))[0]
    _, first = np.unique(pictures.owner[order], return_index=True)
    best = [pictures.views[i] for i in order[np.sort(first)][:shown]]
    maps = unit_maps(model, torch.cat(list(image_batches(model, best, place))), layer)
    return [(_square(view), values[unit].float().cpu().numpy())
            for view, values in zip(best, maps, strict=True)]


def _square(view: np.ndarray, side: int = 160) -> np.ndarray:
    """Return the middle of a view that the image network sees, [side, side, 3] in 0..1."""
    from PIL import Image

    size = int(0.875 * min(view.shape[:2]))
    top, left = ((n - size) // 2 for n in view.shape[:2])
    middle = Image.fromarray(view[top : top + size, left : left + size])
    return np.asarray(middle.resize((side, side)), dtype=np.float32) / 255


def _top_clouds(net, layer, pair, unit, shown, place):
    spec = pair.result.spec
    best = torch.from_numpy(top_samples(pair.cloud.units[:, [unit]], shown)[0])
    points = pair.test.points[best.to(pair.test.points.device)]
    with precision_of(pair.result, place):
        maps = unit_maps(net, net_input(net, points, spec), layer)
    values = _at_points(maps, points, spec.voxel_size, unit)
    return [(cloud.cpu().numpy(), value, pair.class_names[pair.labels[i]])
            for cloud, value, i in zip(points, values, best.tolist(), strict=True)]


def _at_points(maps: SparseTensor, points: torch.Tensor, voxel_size: float, unit: int) -> list:
    """Return a unit's activation at each point of each cloud: that of the cell it lies in."""
    cells = torch.floor(points / voxel_size).div(maps.sites.stride, rounding_mode="floor").long()
    found = {tuple(site): value for site, value in
             zip(maps.sites.coords.tolist(), maps.feats[:, unit].tolist(), strict=True)}
    return [np.array([found[b, *cell] for cell in cloud]) for b, cloud in enumerate(cells.tolist())]
