"""What activates units of a finished run most: its clouds, its image network's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from i2p_lib.analysis import features
from i2p_lib.analysis.dissection import top_samples
from i2p_lib.analysis.features import Pair, unit_layer, unit_maps
from i2p_lib.data.pictures import Pictures
from i2p_lib.runs.inside import Opened, each_run
from i2p_lib.runs.tables import RunResult
from i2p_lib.sparse import SparseTensor
from i2p_lib.train import clouds


@dataclass(frozen=True)
class UnitPictures:
    """What activates one unit most: pictures [S, S, 3] in 0..1 with maps [h, w], clouds [P, 3]
    with an activation [P] for each point, and the clouds' class names."""

    unit: int
    entropy: float
    selectivity: float
    pictures: list[tuple[np.ndarray, np.ndarray]]
    clouds: list[tuple[np.ndarray, np.ndarray, str]]


def unit_pictures(
    found: Sequence[RunResult], pairs: Sequence[Pair], units: pd.DataFrame, pictures: Pictures,
    method: str, device: str = "cpu", rows: int = 6, shown: int = 4,
) -> list[UnitPictures]:  # fmt: skip
    """Return the top pictures and clouds of a few units of a method's first run.

    Half of the units have the lowest class entropy on clouds, the other half a middling one;
    of each picture the strongest view is taken.  units: as `dissection.unit_table` of the pairs.
    """
    pair = next((p for p in pairs if p.method == method), None)
    if pair is None:
        return []
    table = units[units["key"] == pair.key]
    table = table[pair.image.units.any(0)[table["unit"]]]
    table = table.sort_values(["entropy", "selectivity"], ascending=[True, False])
    middle = len(table) // 2
    table = pd.concat([table[: rows // 2], table[middle : middle + rows - rows // 2]])

    def draw(run: Opened) -> list[UnitPictures]:
        net, model, drawn = run.network(), run.image_network(), []
        for row in table.itertuples():
            seen = _top_pictures(run, model, unit_layer(net), pair, row.unit, pictures, shown)
            parts = _top_clouds(run, net, pair, row.unit, shown)
            drawn.append(UnitPictures(row.unit, row.entropy, row.selectivity, seen, parts))
        return drawn

    return each_run([r for r in found if r.key[:16] == pair.key], draw, device)[0]


def _top_pictures(run, model, layer, pair, unit, pictures, shown):
    order = top_samples(pair.image.units[:, [unit]], len(pictures))[0]
    _, first = np.unique(pictures.owner[order], return_index=True)
    best = [pictures.views[i] for i in order[np.sort(first)][:shown]]
    views = torch.cat(list(features.image_batches(model, best, run.place)))
    maps = unit_maps(model, views, layer)[:, unit].float().cpu().numpy()
    return [(_square(view), values) for view, values in zip(best, maps, strict=True)]


def _square(view: np.ndarray, side: int = 160) -> np.ndarray:
    """Return the middle of a view that the image network sees, [side, side, 3] in 0..1."""
    from PIL import Image

    size = int(0.875 * min(view.shape[:2]))
    top, left = ((n - size) // 2 for n in view.shape[:2])
    middle = Image.fromarray(view[top : top + size, left : left + size])
    return np.asarray(middle.resize((side, side)), dtype=np.float32) / 255


def _top_clouds(run, net, pair, unit, shown):
    best = top_samples(pair.cloud.units[:, [unit]], shown)[0]
    points = run.splits.test.points[torch.from_numpy(best).to(run.place)]
    with run.precision():
        maps = unit_maps(net, clouds.net_input(net, points, run.spec), unit_layer(net))
    names = [run.splits.class_names[label].replace("_", " ") for label in pair.labels[best]]
    values = _at_points(maps, points, run.spec.voxel_size, unit)
    return list(zip(points.cpu().numpy(), values, names, strict=True))


def _at_points(maps: SparseTensor, points: torch.Tensor, voxel_size: float, unit: int) -> list:
    """Return a unit's activation at each point of each cloud: that of the cell it lies in."""
    cells = torch.floor(points / voxel_size).div(maps.sites.stride, rounding_mode="floor").long()
    found = {tuple(site): value for site, value in
             zip(maps.sites.coords.tolist(), maps.feats[:, unit].tolist(), strict=True)}
    return [np.array([found[b, *cell] for cell in cloud]) for b, cloud in enumerate(cells.tolist())]
