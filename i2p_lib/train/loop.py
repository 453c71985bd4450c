"""The one training loop, for every task: a state, its epochs, and hooks that look at it.

All randomness of an epoch is drawn from generators seeded by (seed, purpose, epoch), so the state
of a run is only its tensors, its epoch and its history: going on from a checkpoint gives the same
bits as never having stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from i2p_lib.train import team as together
from i2p_lib.train.optimise import build_optimizer, learning_rate
from i2p_lib.train.settings import Settings
from i2p_lib.train.task import Kept, Task, generator, seed_for


class Diverged(ValueError):
    """The loss is no longer a number."""


@dataclass
class State:
    """A run in training: what a hook may look at, and all that a checkpoint must hold.

    best: what the net had learned when its score was best, where the protocol reports that epoch.
    """

    task: Task
    net: nn.Module
    optimizer: torch.optim.Optimizer
    team: together.Team = field(default_factory=together.Team)
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    probes: list[dict] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


Hook = Callable[[State], None]


def start(task: Task, net: nn.Module) -> State:
    """Begin the training of a network, which lies on the task's device with its layers frozen."""
    return State(task, net, build_optimizer(net, task.settings))


def train(state: State, hooks: Sequence[Hook] = ()) -> State:
    """Train from `state.epoch` to the last epoch; each hook is called after every epoch.

    Hooks, the task's own first, are also called before the first epoch (`state.epoch` 0).
    The split that the protocol validates on is measured after epochs that the settings say; where
    it is the test split, its scores are under both names.
    Raises Diverged after an epoch in which a loss was not finite.
    """
    task, settings = state.task, state.task.settings
    hooks = [*task.hooks, *hooks]
    if state.epoch == 0:
        for hook in hooks:
            hook(state)
    replica = state.team.replica(state.net)
    while state.epoch < settings.epochs:
        epoch = state.epoch + 1
        row = {"epoch": epoch} | _train_epoch(state, replica, epoch)
        began = time.perf_counter()
        if settings.validated(epoch):
            scores = task.measure(state.net, "val")
            names = ("val", "test") if settings.rules.validate_on == "test" else ("val",)
            row |= {f"{name}_{key}": value for name in names for key, value in scores.items()}
        row["eval_seconds"] = time.perf_counter() - began
        state.history.append(row)
        state.epoch = epoch
        best = settings.validated(epoch) and settings.rules.checkpoint == "best on test"
        if best and _best(state) is row:
            state.best = {k: v.detach().clone() for k, v in learned_tensors(state.net).items()}
        for hook in hooks:
            hook(state)
    return state


def _train_epoch(state: State, replica: nn.Module, epoch: int) -> dict[str, float]:
    """Train one epoch; return its loss, last learning rate, seconds and counts per item.

    Losses and counts stay on the device, which nobody waits for, until the epoch's end.
    Dropout draws from torch's global generators, which are put back afterwards.
    Of a team, each process draws its own dropout, and all draw the same batches.
    """
    task, net, team, began = state.task, state.net, state.team, time.perf_counter()
    done: list[tuple[int, float, Tensor, Tensor]] = []
    counts: dict[str, Any] = {}
    net.train()
    device = next(net.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(state.task.settings.seed, "dropout", epoch, *team.salt))
        for step, lr, items, batch, random in steps(task, epoch):
            x, targets = task.encode(net, batch, team.share(len(items)), random)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.zero_grad(set_to_none=True)
            loss, number, counted = task.loss(replica, x, targets)
            loss = loss * team.weight(number)
            loss.backward()
            state.optimizer.step()
            done.append((step, lr, items, loss.detach()))
            for name, value in counted.items():
                counts[name] = counts.get(name, 0) + value * team.counts
    count = len(task.splits["train"])
    totals = together.total(torch.tensor(list(map(float, counts.values())), dtype=torch.float64))
    return {
        "train_loss": _summed(done, epoch, state) / count,
        "lr": lr,
        "seconds": time.perf_counter() - began,
        **dict(zip(counts, (totals / count).tolist(), strict=True)),
    }


def steps(task: Task, epoch: int) -> Iterator[tuple[int, float, Tensor, Any, torch.Generator]]:
    """Yield (step, learning rate, item numbers, augmented batch, generator) of a shuffled epoch.

    Random numbers are drawn on the CPU and applied where the data lie, so that a run is the same
    on every device: the device is no part of its key.
    """
    settings = task.settings
    random = generator(settings.seed, "epoch", epoch)
    order = order_of(len(task.splits["train"]), epoch, random, settings)
    parts = batches(order, settings.batch_size, task.least)
    for number, part in enumerate(parts):
        step = (epoch - 1) * len(parts) + number
        lr = learning_rate(settings, step, len(parts))
        yield step, lr, part, task.batch(part, random), random


def order_of(count: int, epoch: int, random: torch.Generator, settings: Settings) -> Tensor:
    """Return the shuffled numbers [count] of an epoch's items, drawn from `random`.

    The original's sampler is seeded by the epoch (from 0) alone: all seeds see one order
    (core/trainers.py, _before_epoch).
    """
    if settings.rules.draws == "numpy":
        random = torch.Generator().manual_seed(epoch - 1)
    return torch.randperm(count, generator=random)


def batches(indices: Tensor, size: int, least: int = 2) -> Sequence[Tensor]:
    """Split indices into batches of `size`; a last one below `least` joins the batch before it.

    (One cloud alone has no batch statistics.)
    """
    parts = list(indices.split(size))
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _summed(done: list[tuple[int, float, Tensor, Tensor]], epoch: int, state: State) -> float:
    """Sum the losses of an epoch's steps, (step, lr, items, mean loss); Diverged names one."""
    means, total = together.total(torch.stack([loss for *_, loss in done])) / together.size(), 0
    for (step, lr, items, _), value in zip(done, means.tolist(), strict=True):
        if not math.isfinite(value):
            raise Diverged(
                f"the loss became {value} in epoch {epoch}, step {step}, at a learning rate "
                f"of {lr:.3g}, on {state.task.named(items)}: lower lr, or check these data"
            )
        total += value * len(items)
    return total


def _best(state: State) -> dict:
    """Return the history's first row with the best score on test."""
    name = f"test_{state.task.score}"
    return max((row for row in state.history if name in row), key=lambda row: row[name])


def learned_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Return the state that training can change: trained parameters and buffers.

    Frozen parameters are left out, since the spec rebuilds them.
    """
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    return {name: t for name, t in net.state_dict().items() if name not in frozen}


def finish(state: State) -> Kept:
    """Return what a trained state keeps: metrics that every task has, and the task's own.

    Its network becomes that of the epoch which the protocol reports.
    """
    task, last = state.task, state.history[-1]
    state.net.load_state_dict(state.best, strict=False)
    sizes = [(p.numel(), p.requires_grad) for p in state.net.parameters()]
    kept = task.finish(state)
    metrics = {
        f"val_{task.score}": last[f"val_{task.score}"],
        "train_loss": last["train_loss"],
        "seconds_total": sum(row["seconds"] + row["eval_seconds"] for row in state.history),
        "seconds_training": sum(row["seconds"] for row in state.history),
        "parameters": sum(n for n, _ in sizes),
        "parameters_trained": sum(n for n, trained in sizes if trained),
        "classes": len(task.class_names),
        **{f"n_{name}": len(split) for name, split in task.splits.items()},
        **kept.metrics,
    }
    if state.best:
        name, best = f"test_{task.score}", _best(state)
        metrics |= {
            f"{task.score}_last": last[name],
            f"{task.score}_best_test": best[name],
            "best_test_epoch": best["epoch"],
        }
    return Kept(metrics, kept.tables, kept.tensors)
