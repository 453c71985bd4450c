"""Texture or shape, the offline twin of Table 4: cues destroyed in the data, and short sight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from i2p_lib import paper
from i2p_lib.analysis import collapse
from i2p_lib.analysis.features import backbone_convolutions
from i2p_lib.analysis.methods import CONTROLS, method_label
from i2p_lib.analysis.shuffling import KINDS, shuffled
from i2p_lib.analysis.taps import PENULTIMATE, taps
from i2p_lib.analysis.why import CONTROLS, each_run, network_of
from i2p_lib.runs import RunResult, results
from i2p_lib.runs.execute import resolve_device
from i2p_lib.show.text import html_list
from i2p_lib.sparse import SparseBatchNorm, SparseConv3d
from i2p_lib.sparse.kernel_map import kernel_offsets
from i2p_lib.train.clouds import (
    Split,
    evaluate,
    load_splits,
    logits_of,
    net_input,
    stratified_first,
)
from i2p_lib.train.loop import batches
from i2p_lib.train.task import generator

CELLS = (4,)  # edges of the shuffled cells, in voxels
SHARES = (0.0, 0.5, 1.0)  # of the kernels, from the first on, that stay whole
PER_CLASS = 5  # training clouds that give a class its centre


def shuffled_accuracy(
    found: Sequence[RunResult], cells: Sequence[int] = CELLS, device: str = "cpu"
) -> pd.DataFrame:
    """Return the test accuracy of finished runs on shuffled clouds.

    One row per run, kind (see `shuffling.shuffled`) and cell: key, model, weights, regime, method,
    seed, kind, cell (edge in voxels), top1, and `whole`, the run's accuracy on whole clouds.
    The shuffling of a cloud is the same for all runs of one data set.
    """
    place = torch.device(resolve_device(device))

    def measure(result: RunResult) -> list[dict]:
        spec, net = result.spec, network_of(result).to(place)
        test = load_splits(spec, place).test
        rows = []
        for kind in KINDS:
            for cell in cells:
                random = generator(0, "shuffle", kind, cell)
                clouds = shuffled(test.points, cell * spec.voxel_size, kind, random)
                score = evaluate(net, Split(clouds, test.labels), spec)
                rows.append(_about(result) | {"kind": kind, "cell": cell, "top1": score.top1})
        return rows

    rows = [row for part in each_run(found, measure) for row in part]
    return pd.DataFrame(rows)


def shuffled_example(
    result: RunResult, cells: Sequence[int] = CELLS
) -> tuple[np.ndarray, dict[str, list[tuple[int, np.ndarray]]]]:
    """Return a run's first test cloud [P, 3], and {kind: [(cell, the cloud shuffled)]}."""
    cloud = load_splits(result.spec).test.points[:1]
    versions = {
        kind: [(cell, shuffled(cloud, cell * result.spec.voxel_size, kind,
                               generator(0, "shuffle", kind, cell))[0].numpy())
               for cell in cells]
        for kind in KINDS
    }  # fmt: skip
    return cloud[0].numpy(), versions


def _about(result: RunResult) -> dict:
    spec = result.spec
    return {
        "key": result.key[:16], "model": spec.model, "weights": spec.weights,
        "regime": spec.regime, "method": method_label(spec.weights, spec.regime),
        "seed": spec.seed, "whole": result.metrics["top1"],
    }  # fmt: skip


def short_sighted(net: nn.Module, kept: int) -> int:
    """Let only the first `kept` kernels of an inflated network see beyond their own cell, in place.

    The later ones keep the taps that lie in the output's own cell: the centre where the stride
    is 1, as BagNet's 1x1 kernels, and the cells that are merged where it is more.
    Returns the receptive field of the last stage in voxels, from the input layer on.
    """
    names = backbone_convolutions(net)
    field, jump, spatial = 1, 1, 0
    stem = next(m for m in net.modules() if isinstance(m, SparseConv3d))
    for layer in (stem, *(net.get_submodule(name) for name in names)):
        if not isinstance(layer, SparseConv3d):
            continue
        reach = max(layer.kernel_size) - 1
        if layer is not stem and reach:
            spatial += 1
            if spatial > kept:
                _own_cell_only(layer)
                reach = layer.stride - 1
        field += reach * layer.dilation * jump
        jump *= layer.stride
    return field


def spatial_kernels(net: nn.Module) -> int:
    """Return how many of an inflated network's kernels see more than one cell."""
    layers = (net.get_submodule(name) for name in backbone_convolutions(net))
    return sum(max(m.kernel_size) > 1 for m in layers if isinstance(m, SparseConv3d))


def _own_cell_only(layer: SparseConv3d) -> None:
    offsets = kernel_offsets(layer.kernel_size, layer.padding, layer.dilation)
    inside = ((offsets >= 0) & (offsets < layer.stride)).all(1)
    with torch.no_grad():
        layer.weight[~inside.to(layer.weight.device)] = 0


def short_sighted_accuracy(
    found: Sequence[RunResult], shares: Sequence[float] = SHARES, device: str = "cpu"
) -> pd.DataFrame:
    """Return how well nearest class centres name test clouds when networks see less and less.

    One row per run and share of the kernels that stay whole: as `shuffled_accuracy`, with share,
    field (voxels) and top1.  Kernels are cut as in `short_sighted`; norms use the statistics of
    the batch, since those that were learned belong to whole kernels; centres come from five
    training clouds of each class.  Nothing is trained.
    """
    place = torch.device(resolve_device(device))

    def measure(result: RunResult) -> list[dict]:
        splits = load_splits(result.spec, place)
        count = PER_CLASS * len(splits.class_names)
        chosen = stratified_first(splits.train.labels, count)
        train = Split(splits.train.points[chosen.to(place)], splits.train.labels[chosen])
        net, rows = network_of(result).to(place), []
        for share in sorted(shares, reverse=True):  # what was cut stays cut
            field = short_sighted(net, math.ceil(share * spatial_kernels(net)))
            sides = [_features(net, split, result, place) for split in (train, splits.test)]
            means = collapse.class_moments(sides[0], train.labels)
            named = means.classes[collapse.nearest_centre(sides[1], means.means)]
            top1 = float((named == splits.test.labels).double().mean())
            rows.append(_about(result) | {"share": share, "field": field, "top1": top1})
        return rows[::-1]

    rows = [row for part in each_run(found, measure) for row in part]
    return pd.DataFrame(rows)


def _features(net: nn.Module, split: Split, result: RunResult, place: torch.device) -> torch.Tensor:
    """Return penultimate features [N, C] with norms that use the batch's own statistics."""
    for norm in (m for m in net.modules() if isinstance(m, SparseBatchNorm)):
        norm.train().frozen_stats = False
    spec = result.spec
    with taps(net, []) as seen, torch.no_grad():
        for part in batches(torch.arange(len(split)), spec.batch_size):
            logits_of(net, net_input(net, split.points[part], spec), spec)
    return torch.cat(seen[PENULTIMATE])


def shape_rows(table: pd.DataFrame, found: Sequence[RunResult]) -> pd.DataFrame:
    """Return the accuracies on shuffled clouds as rows for `paper.compare`, Table 4, ours."""
    settings = results(found).set_index("key")
    parts = []
    for (kind, cell), part in table.groupby(["kind", "cell"], sort=False):
        runs = settings.loc[part["key"]].reset_index().assign(value=part["top1"].to_numpy() * 100)
        metric = f"top1_{kind}_shuffled_at_{cell}_voxels"
        parts.append(paper.rows_of_runs(runs, metric, "value"))
    return pd.concat(parts, ignore_index=True)


def shape_sentences(table: pd.DataFrame, chance: float) -> str:
    """Say which cue each method loses more by, and whether more than its control: HTML list.

    At the largest cells.
    """
    cell = table["cell"].max()
    part = table[table["cell"] == cell].assign(lost=lambda t: 100 * (t["whole"] - t["top1"]))
    lines = []
    for model, runs in part.groupby("model", sort=False):
        lost = runs.pivot_table("lost", ["method", "seed"], "kind", sort=False)
        whole = 100 * runs.groupby("method")["whole"].mean()
        for method, mine in lost.groupby("method", sort=False):
            gap = mine["arrangement"] - mine["detail"]
            more = "arrangement" if gap.mean() > 0 else "detail"
            agree = int((np.sign(gap) == np.sign(gap.mean())).sum())
            lines.append(
                f"{model}, {method}, cells of {cell} voxels: {mine['arrangement'].mean():.0f} "
                f"points lost with the arrangement destroyed, {mine['detail'].mean():.0f} with the "
                f"detail; more by {more} in {agree} of {len(gap)} runs (whole {whole[method]:.0f} "
                f"%, chance {100 * chance:.0f} %)."
            )
        for method, control in CONTROLS.items():
            if not {method, control} <= set(whole.index):
                continue
            gap = (lost.loc[method] - lost.loc[control]).dropna()["detail"]
            lines.append(
                f"{model}, {method} against {control}: with the detail destroyed "
                f"{gap.mean():+.0f} points are lost, more in {int((gap > 0).sum())} of {len(gap)} "
                "seeds."
            )
    return html_list(lines)


def sight_sentences(table: pd.DataFrame) -> str:
    """Say what a shorter sight costs pretrained networks and their controls: HTML list."""
    lines = []
    for (model, method), part in table.groupby(["model", "method"], sort=False):
        means = part.groupby("field")["top1"].mean().sort_index()
        shortest, widest = means.index[0], means.index[-1]
        lines.append(
            f"{model}, {method}: nearest centres name {100 * means[widest]:.0f} % with a receptive "
            f"field of {widest} voxels and {100 * means[shortest]:.0f} % with one of {shortest}."
        )
    return html_list(lines)
