"""The clouds of a run in memory, and what a network answers about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.data import few_shot_episode, load_dataset
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.train import team
from i2p_lib.train.settings import PROTOCOLS, ClassifySettings
from i2p_lib.train.task import NamedRun

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    """The clouds of one split in memory: points [N, P, 3] float32, labels [N] int64.

    The points lie on the device that trains, the labels on the CPU, where metrics read them.
    """

    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """The splits that one run uses, and the class names.

    test is None where the run must not read it (protocol "tuning").
    """

    train: Split
    val: Split
    test: Split | None
    class_names: tuple[str, ...]

    def to(self, device: torch.device) -> Splits:
        """Return the same splits with their points on a device."""
        train, val, test = (
            split and replace(split, points=split.points.to(device))
            for split in (self.train, self.val, self.test)
        )
        return Splits(train, val, test, self.class_names)


@dataclass(frozen=True)
class Scores:
    """An evaluation: mean cross entropy (no smoothing), accuracy in 0..1, logits [N, classes]."""

    loss: float
    top1: float
    logits: Tensor


def net_input(
    net: nn.Module, points: Tensor, settings: ClassifySettings
) -> SparseTensor | Tensor:
    """Return what a network takes of a batch [B, P, 3]: the points, or voxels made of them.

    What a voxel has of its points, and where voxels lie, is the protocol's.
    With `amp` bf16 its features are bfloat16, and sparse layers work in their input's format.
    """
    if getattr(net, "i2p_input", "voxels") == "points":
        return points
    rules = settings.rules
    voxels = voxelize(points, settings.voxel_size, reduce=rules.voxel, grid=rules.grid)
    return voxels.to(torch.bfloat16) if settings.amp == "bf16" else voxels


def logits_of(net: nn.Module, x: SparseTensor | Tensor, settings: ClassifySettings) -> Tensor:
    """Return a network's logits [B, classes] in float32, computed in the settings' precision."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.amp == "bf16"):
        return net(x).float()


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, settings: ClassifySettings) -> Scores:
    """Measure a network in eval mode on a split without augmentation, and leave its mode alone.

    Network and split lie on one device.  Processes that train together share out the batches, and
    all get the whole answer.
    """
    was_training = net.training
    net.eval()
    try:
        logits = [
            logits_of(net, net_input(net, split.points[part], settings), settings).cpu()
            for part in team.shard(torch.arange(len(split)).split(settings.batch_size))
        ]
    finally:
        net.train(was_training)
    every = team.gather(logits)
    right = (every.argmax(1) == split.labels).double().mean()
    return Scores(float(cross_entropy(every, split.labels)), float(right), every)


def stratified_first(labels: Tensor, limit: int | None) -> Tensor:
    """Return rising indices of `limit` items: the first of every class, then the second, ...

    labels: [N] int64.  All items where `limit` is None or not below N.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    rank = torch.empty_like(labels)
    for label in labels.unique():
        mine = labels == label
        rank[mine] = torch.arange(int(mine.sum()))
    return torch.argsort(rank, stable=True)[:limit].sort().values


def point_clouds(
    name: str,
    points: int = 2048,
    train_limit: int | None = None,
    test_limit: int | None = None,
    episode: tuple[int, int] | None = None,
    files: Mapping[str, str] | None = None,
    draws: Literal["generator", "numpy"] = "generator",
) -> Splits:
    """Return the splits of a data set by name (see `dataset_names`), in memory on the CPU.

    points: the first so many points of each cloud.  A limit takes the first clouds of every class
    in turn.  episode: the shots and the number of a few-shot episode, drawn from the training
    split; draws: see `few_shot_episode`.  files: {what a split is used as: the split of the files},
    by default as the protocol "clean" does.
    Raises ValueError where clouds hold fewer points, and as `load_dataset` does.
    """
    parts: dict[str, Split | None] = {"test": None}
    for use, file in (files or PROTOCOLS["clean"].splits()).items():
        whole = load_dataset(name, file)
        labels = torch.tensor(whole.labels)
        if points > whole.points.shape[1]:
            raise ValueError(
                f"points={points}, but clouds of {name} hold {whole.points.shape[1]}: "
                "set points to that number or less"
            )
        if use == "train" and episode is not None:
            chosen = torch.as_tensor(few_shot_episode(whole.labels, *episode, draws))
        else:
            chosen = stratified_first(labels, train_limit if use == "train" else test_limit)
        parts[use] = Split(torch.tensor(whole.points[chosen.numpy(), :points]), labels[chosen])
    return Splits(**parts, class_names=tuple(whole.class_names))


def load_splits(spec: NamedRun, device: torch.device = CPU) -> Splits:
    """Return the splits of a spec on a device, cut to its shots, limits and points.

    Which split is trained on and which one validates is the protocol's (`PROTOCOLS`).
    """
    return point_clouds(
        spec.data, spec.points, spec.train_limit, spec.test_limit,
        episode=None if spec.shots is None else (spec.shots, spec.episode),
        files=spec.rules.splits(), draws=spec.rules.draws,
    ).to(device)  # fmt: skip
