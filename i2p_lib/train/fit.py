"""Training from objects: your network and your clouds in, a trained network and its history out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from i2p_lib.analysis.answers import Answered, Answers
from i2p_lib.data.own import PointClouds
from i2p_lib.data.registry import cloud_names
from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.train.classify import Classify
from i2p_lib.train.clouds import Splits, evaluate, point_clouds
from i2p_lib.train.loop import Hook, State, finish, start, train
from i2p_lib.train.reading import Reads
from i2p_lib.train.settings import ClassifySettings


@dataclass(frozen=True)
class Fitted(Answered):
    """A trained network.  history: one row per epoch.  metrics: one number per name.

    answers: what it says of the test clouds, of the val clouds where test was not read.
    Accuracies are fractions in 0..1, times are seconds.
    """

    net: nn.Module
    history: pd.DataFrame
    metrics: dict[str, Any]
    answers: Answers


def fit(
    net: nn.Module, clouds: Splits | PointClouds, *, regime: str | None = None,
    hooks: Sequence[Hook] = (), device: str | torch.device = "cpu", progress: bool = True,
    **settings: Any,
) -> Fitted:  # fmt: skip
    """Train a network on clouds, as the book's named runs do, and return it with its history.

    Args:
        net: what `inflate` or `point_model` returns, or any module that maps voxels to logits.  It
            is trained in place and moved to the device.
        clouds: your own (`PointClouds`), a set of the book (`point_clouds`), or a `Splits` of your
            own tensors.
        regime: what is trained, a name in `REGIMES`, see `freeze`; it also sets a usual learning
            rate.  None: parameters without ``requires_grad`` stay as they are.
        hooks: called before training and after every epoch with the `State`.
        progress: whether a bar shows epochs, time left and the last accuracy.
        settings: fields of `ClassifySettings`, such as epochs, lr, batch_size, voxel_size, seed.
            The voxel size of your own clouds is by default the suggested one.

    The global generators of torch are left alone.  The same network, clouds and settings give, on
    one thread (``torch.set_num_threads(1)``), the numbers of a named run.

    Raises:
        ValueError: a setting that is unknown or out of range, a network that does not take these
            clouds or has too few classes; Diverged: a loss that is not finite.

    >>> clouds = point_clouds("home_objects", points=64, train_limit=16, test_limit=16)
    >>> net = i2p.inflate(i2p.image_model("resnet18"), in_channels=3, num_classes=16)
    >>> i2p.fit(net, clouds, epochs=1, voxel_size=0.2).history["val_top1"]  # doctest: +SKIP
    """
    names: Sequence[str] = ()
    if isinstance(clouds, PointClouds):
        settings = {"voxel_size": clouds.voxel_size} | settings
        names = cloud_names(clouds.name, "test")
        clouds = point_clouds(clouds.name, clouds.card.points)
    if regime is not None:
        freeze(net, regime)
        settings = {"lr": REGIMES[regime].rate} | settings
    chosen = ClassifySettings(**settings)
    task = Classify(chosen, clouds.to(device))
    _try_out(net.to(device), task)
    with tqdm(total=chosen.epochs, desc="epochs", disable=not progress) as bar:

        def show(state: State) -> None:
            bar.update(state.epoch - bar.n)
            bar.set_postfix({k: f"{v:.3f}" for row in state.history[-1:] for k, v in row.items()
                             if k in ("train_loss", "val_top1")})  # fmt: skip

        state = train(start(task, net), [show, *hooks])
    kept = finish(state)
    net.i2p_reads = Reads(clouds.card, chosen, clouds.class_names, clouds.train.points.shape[1])
    split = task.splits.get("test", task.splits["val"])
    answers = net.i2p_reads.answers(net, split, names)
    return Fitted(net.eval(), pd.DataFrame(state.history), kept.metrics, answers)


def _try_out(net: nn.Module, task: Classify) -> None:
    """Refuse a network that does not take these clouds, before anything is trained."""
    points, classes = task.splits["train"].points[:2], len(task.class_names)
    image = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    if image and not hasattr(net, "i2p_roles"):
        raise ValueError(f"expected a network on points or voxels, got an image network (its layer "
                         f"{image[0]} is a Conv2d): give it to inflate(...) first")  # fmt: skip
    logits = evaluate(net, points, task.settings)
    if logits.ndim != 2 or logits.shape[1] < classes:
        raise ValueError(f"expected logits [clouds, {classes} classes or more], the network gives "
                         f"{list(logits.shape)}: inflate(..., num_classes={classes})")  # fmt: skip
