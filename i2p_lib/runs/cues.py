"""Which cues finished runs use: accuracy under patch shuffling and receptive-field ablation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import nn

from i2p_lib.analysis import collapse
from i2p_lib.analysis.receptive_field import ablate, spatial_kernels
from i2p_lib.analysis.shuffling import KINDS, shuffled
from i2p_lib.analysis.taps import PENULTIMATE, taps
from i2p_lib.runs.inside import Opened, run_rows
from i2p_lib.runs.tables import RunResult
from i2p_lib.sparse import SparseBatchNorm
from i2p_lib.train.clouds import Split, evaluate, logits_of, stratified_first
from i2p_lib.train.task import generator

PATCHES = (4,)  # edges of the shuffled patches, in voxels
SHARES = (0.0, 0.5, 1.0)  # of the spatial kernels, from the first on, that stay whole
PER_CLASS = 5  # training clouds that give a class its centre


def shuffled_accuracy(
    found: Sequence[RunResult], patches: Sequence[int] = PATCHES, device: str = "cpu"
) -> pd.DataFrame:
    """Return the test accuracy of finished runs on clouds under patch shuffling.

    One row per run, kind (see `shuffling.shuffled`) and patch: key, model, weights, regime,
    method, seed, kind, patch (edge in voxels), top1, and `whole`, the accuracy on whole clouds.
    The shuffling of a cloud is the same for all runs of one data set.
    """

    def measure(run: Opened) -> list[dict]:
        net, test, rows = run.network(), run.splits.test, []
        for kind, patch, clouds in shuffled_versions(test.points, patches, run.spec.voxel_size):
            scores = evaluate(net, Split(clouds, test.labels), run.spec)
            rows.append({"kind": kind, "patch": patch, "top1": scores.top1})
        return rows

    return run_rows(found, measure, device)


def shuffled_versions(
    points: torch.Tensor, patches: Sequence[int], voxel_size: float
) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Yield (kind, patch, clouds): clouds [N, P, 3] under each kind of patch shuffling."""
    for kind in KINDS:
        for patch in patches:
            random = generator(0, "shuffle", kind, patch)
            yield kind, patch, shuffled(points, patch * voxel_size, kind, random)


def ablated_accuracy(found: Sequence[RunResult], device: str = "cpu") -> pd.DataFrame:
    """Return how well nearest class centres name test clouds under receptive-field ablation.

    One row per run and share of the spatial kernels that stay whole: as `shuffled_accuracy`, with
    share, field (voxels) and top1.  Kernels are cut by `receptive_field.ablate`; norms use the
    statistics of the batch, since those that were learned belong to whole kernels; centres come
    from five training clouds of each class.  Nothing is trained.
    """

    def measure(run: Opened) -> list[dict]:
        train, test = run.splits.train, run.splits.test
        chosen = stratified_first(train.labels, PER_CLASS * len(run.splits.class_names))
        net, rows = run.network(), []
        for share in sorted(SHARES, reverse=True):  # what was cut stays cut
            field = ablate(net, math.ceil(share * len(spatial_kernels(net))))
            seen = batch_norm_features(run, net, train.points[chosen.to(run.place)])
            means = collapse.class_moments(seen, train.labels[chosen])
            seen = batch_norm_features(run, net, test.points)
            named = means.classes[collapse.nearest_centre(seen, means.means)]
            top1 = float((named == test.labels).double().mean())
            rows.append({"share": share, "field": field, "top1": top1})
        return rows[::-1]

    return run_rows(found, measure, device)


def batch_norm_features(run: Opened, net: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """Return penultimate features [N, C] with norms that use the batch's own statistics."""
    for norm in (m for m in net.modules() if isinstance(m, SparseBatchNorm)):
        norm.train().frozen_stats = False
    with taps(net, []) as seen, torch.no_grad():
        for x in run.inputs(net, points):
            logits_of(net, x, run.spec)
    return torch.cat(seen[PENULTIMATE])
