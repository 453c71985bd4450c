"""The clouds of a run in memory, and what a network answers about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.analysis.taps import taps
from i2p_lib.data import dataset_card, few_shot_episode, load_dataset
from i2p_lib.data.registry import DatasetCard
from i2p_lib.inflation.trace import evaluated
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.train import team
from i2p_lib.train.settings import PROTOCOLS, ClassifySettings
from i2p_lib.train.task import NamedRun

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Split:
    """The clouds of one split in memory: points [N, P, 3 + F] float32, labels [N] int64.

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
    card: of the set that they come from, where they come from one.
    """

    train: Split
    val: Split
    test: Split | None
    class_names: tuple[str, ...]
    card: DatasetCard | None = None

    @property
    def used(self) -> dict[str, Split]:
        """The splits that there are, by their names."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in every.items() if split is not None}

    def to(self, device: str | torch.device) -> Splits:
        """Return the same splits with their points on a device."""
        moved = {k: replace(v, points=v.points.to(device)) for k, v in self.used.items()}
        return replace(self, **moved)


def net_input(net: nn.Module, points: Tensor, settings: ClassifySettings) -> SparseTensor | Tensor:
    """Return what a network takes of a batch [B, P, 3 + F]: the points, or voxels made of them.

    A network on points sees x, y and z; a voxel has all features.

    What a voxel has of its points, and where voxels lie, is the protocol's.
    With `amp` bf16 its features are bfloat16, and sparse layers work in their input's format.
    """
    if getattr(net, "i2p_input", "voxels") == "points":
        return points[..., :3] if points.shape[2] > 3 else points
    rules = settings.rules
    features = points.flatten(0, 1) if points.shape[2] > 3 else None
    voxels = voxelize(points[..., :3], settings.voxel_size, rules.voxel, features, rules.grid)
    return voxels.to(torch.bfloat16) if settings.amp == "bf16" else voxels


def logits_of(net: nn.Module, x: SparseTensor | Tensor, settings: ClassifySettings) -> Tensor:
    """Return a network's logits [B, classes] in float32, computed in the settings' precision."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.amp == "bf16"):
        return net(x).float()


def evaluate(net: nn.Module, points: Tensor, settings: ClassifySettings) -> Tensor:
    """Return logits [N, classes] of clouds [N, P, 3] as they are, the network in eval mode.

    Its mode is left alone.  Network and clouds lie on one device, the answer on the CPU.  Processes
    that train together share out the batches, and all get the whole answer.
    """
    with evaluated(net):
        return team.gather([
            logits_of(net, net_input(net, points[part], settings), settings).cpu()
            for part in team.shard(torch.arange(len(points)).split(settings.batch_size))
        ])  # fmt: skip


def features(
    net: nn.Module, points: Tensor, settings: ClassifySettings, stages: list[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return ({layer: [N, C]}, logits [N, classes]) of clouds in eval mode, in one pass."""
    with taps(net, stages) as seen:
        logits = evaluate(net, points, settings)
    return {name: team.gather(parts) for name, parts in seen.items()}, logits


def stratified_first(labels: Tensor, limit: int | None) -> Tensor:
    """Return rising indices of `limit` items: the first of every class, then the second, ...

    labels: [N] int64.  All items where `limit` is None or not below N.
    """
    turn = pd.Series(labels.numpy()).groupby(labels.numpy()).cumcount()
    return torch.argsort(torch.tensor(turn.to_numpy()), stable=True)[:limit].sort().values


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
    return Splits(**parts, class_names=tuple(whole.class_names), card=dataset_card(name))


def load_splits(spec: NamedRun, device: torch.device = CPU) -> Splits:
    """Return the splits of a spec on a device, cut to its shots, limits and points.

    Which split is trained on and which one validates is the protocol's (`PROTOCOLS`).
    """
    return point_clouds(
        spec.data, spec.points, spec.train_limit, spec.test_limit,
        episode=None if spec.shots is None else (spec.shots, spec.episode),
        files=spec.rules.splits(), draws=spec.rules.draws,
    ).to(device)  # fmt: skip
