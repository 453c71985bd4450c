"""The seam between what is trained and how: what a task must answer, what a named run says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.inflation import initialize
from i2p_lib.inflation.regimes import chosen
from i2p_lib.train import settings
from i2p_lib.train.settings import Settings


@dataclass(frozen=True)
class Kept:
    """What a finished run keeps beside its history and network.

    metrics: one number per name.  tables: {file stem: table}, kept as CSV.
    tensors: {file stem: {name: tensor}}.
    """

    metrics: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class Task(Protocol):
    """What a kind of training means; `Classify` and `Segment` are the two that there are.

    settings      how it is trained
    class_names   of the classes that are told apart
    splits        {"train", "val" and, where the protocol reads it, "test": a sized split}
    score         name of the score that a checkpoint is chosen by, such as "top1"
    least         the fewest items that a batch may have; a smaller last one joins the one before
    hooks         what the task itself wants called after every epoch
    """

    settings: Settings
    class_names: tuple[str, ...]
    splits: Mapping[str, Any]
    score: str
    least: int
    hooks: Sequence[Callable[[Any], None]]

    def batch(self, items: Tensor, random: torch.Generator) -> Any:
        """Return the training items of those numbers [B], augmented by draws from `random`."""

    def encode(self, net: nn.Module, batch: Any, part: slice, random: torch.Generator) -> Any:
        """Return what the network takes of a part of a batch, and its targets, on the device."""

    def loss(self, net: nn.Module, x: Any, targets: Tensor) -> tuple[Tensor, Any, dict[str, Any]]:
        """Return the mean loss of a step, of how many targets it is the mean, and counts that the
        epoch's row shows per item."""

    def measure(self, net: nn.Module, split: str) -> dict[str, float]:
        """Return the scores of a split, the network in eval mode meanwhile."""

    def named(self, items: Tensor) -> str:
        """Return what those training items [B] are called, for messages."""

    def finish(self, state: Any) -> Kept:
        """Return the task's own share of what a finished run keeps."""


class NamedRun(Protocol):
    """What a named run says beside its task's settings, for `build_network` and `task_of`.

    drawn: the rule by which all weights are drawn; None where they stay as they are made.
    """

    inflated: bool
    drawn: Literal["torchsparse", "he"] | None
    seed: int
    rules: settings.Protocol
    weights_except: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        """Return a setting of its network or data, such as `model` or `points`."""


def draw_weights(net: nn.Module, run: NamedRun) -> None:
    """Draw the weights of scratch by the run's rule, see `initialize`; others stay.

    Where the protocol's rule is torchsparse's, the new layers of every inflated network are drawn
    by it, as in the original (model_zoo.py, spvcnn_cls: image weights fill the stages alone), and
    so are the layers that `weights_except` leaves out.
    """
    random = generator(run.seed, "initial")
    if run.drawn:
        initialize(net, run.drawn, random)
    elif run.inflated and run.rules.init == "torchsparse":
        fresh = {name.rpartition(".")[0]: None for name, role in net.i2p_roles.items()
                 if role in ("input", "output")
                 or chosen(name.removeprefix("encoder."), run.weights_except)}  # fmt: skip
        for name in fresh:
            initialize(net.get_submodule(name), run.rules.init, random)


def seed_for(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one purpose, the same in every process and on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run."""
    return torch.Generator().manual_seed(seed_for(seed, *names))
