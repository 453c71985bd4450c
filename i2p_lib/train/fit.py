"""Training from objects: your network and your clouds in, a trained network and its history out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from i2p_lib.train.classify import Classify
from i2p_lib.train.clouds import Splits
from i2p_lib.train.loop import Hook, State, finish, start, train
from i2p_lib.train.settings import ClassifySettings


@dataclass(frozen=True)
class Fitted:
    """A trained network.  history: one row per epoch.  metrics: one number per name.

    Accuracies are fractions in 0..1, times are seconds.
    """

    net: nn.Module
    history: pd.DataFrame
    metrics: dict[str, Any]


def fit(
    net: nn.Module,
    clouds: Splits,
    *,
    hooks: Sequence[Hook] = (),
    device: str | torch.device = "cpu",
    progress: bool = True,
    **settings: Any,
) -> Fitted:
    """Train a network on clouds, as the book's named runs do, and return it with its history.

    Args:
        net: what `inflate` or `point_model` returns, or any module that maps voxels to logits;
            parameters without ``requires_grad`` stay as they are (see `freeze`).  It is trained in
            place and moved to the device.
        clouds: see `point_clouds`, or a `Splits` of your own tensors.
        hooks: called before training and after every epoch with the `State`.
        progress: whether a bar shows epochs, time left and the last accuracy.
        settings: fields of `ClassifySettings`, such as epochs, lr, batch_size, voxel_size, seed.

    The global generators of torch are left alone.  The same network, clouds and settings give, on
    one thread (``torch.set_num_threads(1)``), the numbers of a named run.

    Raises:
        ValueError: a setting that is unknown or out of range; Diverged: a loss that is not finite.

    >>> clouds = point_clouds("home_objects", points=64, train_limit=16, test_limit=16)
    >>> net = i2p.inflate(i2p.image_model("resnet18"), in_channels=3, num_classes=16)
    >>> i2p.fit(net, clouds, epochs=1, voxel_size=0.2).history["val_top1"]  # doctest: +SKIP
    """
    chosen = ClassifySettings(**settings)
    task = Classify(chosen, clouds.to(device))
    with tqdm(total=chosen.epochs, desc="epochs", disable=not progress) as bar:

        def show(state: State) -> None:
            bar.update(state.epoch - bar.n)
            bar.set_postfix({k: f"{v:.3f}" for row in state.history[-1:] for k, v in row.items()
                             if k in ("train_loss", "val_top1")})  # fmt: skip

        state = train(start(task, net.to(device)), [show, *hooks])
    kept = finish(state)
    return Fitted(net.eval(), pd.DataFrame(state.history), kept.metrics)
