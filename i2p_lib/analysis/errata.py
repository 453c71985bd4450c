"""The original code's slips, each made small enough to be seen: simulations, arithmetic, plots.

Sources are the released code (commit 6efba31 of its repository) and what it calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from i2p_lib.data import PAPER_AUGMENT, augment
from i2p_lib.inflation import inflate
from i2p_lib.inflation.regimes import freeze
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sparse import SparseConv3d, voxelize
from i2p_lib.train.optimise import learning_rate

STARTS_WITH_ERROR = (
    ("modelnet/34_distill.yaml", "its criterion, soft_pseudolabel_with_temperature, is missing, as "
     "are pretrained, trainable_params and resume_path"),
    ("s3dis/finetune.yaml", 'pretrained_dir is "None", and the code compares with "none"'),
    ("semantic_kitti/*.yaml", "trainable_params is missing; fixed_param is no longer read"),
    ("modelnet/101_from_scratch.yaml", "the model's package does not export spvcnn101_cls"),
)  # fmt: skip
"""Released configurations that end in an error -> why, as read in the code."""


# ----------------------------------------------------------------------------- how it is trained


def rates(spec: RunSpec, steps_per_epoch: int) -> pd.DataFrame:
    """Return the learning rate of every step under both cosines (epoch, schedule, rate)."""
    names = {"cosine": "one fall", "cosine_per_iteration": "stepped per iteration"}
    parts = []
    for schedule, label in names.items():
        one = spec.but(schedule=schedule)
        values = [learning_rate(one, step, steps_per_epoch)
                  for step in range(spec.epochs * steps_per_epoch)]  # fmt: skip
        epochs = np.arange(len(values)) / steps_per_epoch
        parts.append(pd.DataFrame({"epoch": epochs, "schedule": label, "rate": values}))
    return pd.concat(parts, ignore_index=True)


def swings(table: pd.DataFrame) -> pd.Series:
    """Return how often the rate of each schedule has fallen to its end."""
    def falls(rate: pd.Series) -> int:
        slope = np.sign(np.diff(rate.to_numpy()))
        slope = slope[slope != 0]
        return int(((slope[:-1] < 0) & (slope[1:] > 0)).sum() + (slope[-1] < 0))

    return table.groupby("schedule", sort=False)["rate"].agg(falls)


def rate_plot(table: pd.DataFrame, first: float = 5.0) -> Figure:
    """Draw both schedules: the whole training, and its first epochs."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 2.9), sharey=True, layout="constrained")
    for axis, part, title in (
        (axes[0], table, "the whole training"),
        (axes[1], table[table["epoch"] < first], f"its first {first:g} epochs"),
    ):
        for (label, rows), colour in zip(
            part.groupby("schedule", sort=False), ("#2563c9", "#e8871e"), strict=True
        ):
            width = 2.2 if label == "one fall" else 0.5 if axis is axes[0] else 1.2
            axis.plot(rows["epoch"], rows["rate"], color=colour, lw=width, label=label,
                      zorder=3 if label == "one fall" else 2)
        axis.set(title=title, xlabel="epoch")
    axes[0].set_ylabel("learning rate")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def process_draws(labels: np.ndarray, shots: int, processes: int, seed: int = 777,
                  epochs: int = 100) -> list[np.ndarray]:  # fmt: skip
    """Return the few-shot draw of each process, as the released code makes it.

    Each process seeds numpy with seed + rank * 8 * epochs and draws `shots` clouds of a class.
    """
    draws = []
    for rank in range(processes):
        random = np.random.RandomState(seed + rank * 8 * epochs)
        chosen = [random.choice(np.flatnonzero(labels == c), shots, replace=False)
                  for c in np.unique(labels)]  # fmt: skip
        draws.append(np.sort(np.concatenate(chosen)))
    return draws


def draw_table(draws: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return, for 1, 2, ... processes, how many different clouds the run has learned from."""
    rows = []
    for count in range(1, len(draws) + 1):
        seen = np.unique(np.concatenate(draws[:count]))
        rows.append({
            "processes": count, "clouds the experiment claims": len(draws[0]),
            "clouds it learns from": len(seen),
            "shared by all": len(set.intersection(*(set(d.tolist()) for d in draws[:count]))),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("processes")


def glob_draws(labels: np.ndarray, files: int = 5, shots: int = 1, seed: int = 777) -> float:
    """Return the share of a draw that stays when a folder lists its files in reverse.

    The clouds are laid out in `files` files; an unsorted glob reads them as the disk has them.
    """
    parts = np.array_split(np.arange(len(labels)), files)
    orders = np.concatenate(parts), np.concatenate(parts[::-1])
    draws = [order[process_draws(labels[order], shots, 1, seed)[0]] for order in orders]
    return float(np.isin(draws[0], draws[1]).mean())


def written_back(cloud: Tensor, epochs: Sequence[int], seed: int = 0) -> dict[int, Tensor]:
    """Return a cloud [P, 3] as it is stored after so many epochs of augmenting it in place."""
    random = torch.Generator().manual_seed(seed)
    stored, kept = cloud[None].clone(), {}
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            kept[epoch] = stored[0].clone()
        stored = augment(stored, random, PAPER_AUGMENT)
    return kept


def clouds_plot(clouds: Mapping[int, Tensor], limit: float = 2.0) -> Figure:
    """Draw clouds {epoch: [P, 3]} from the front, all in the same frame."""
    figure, axes = plt.subplots(1, len(clouds), figsize=(2.5 * len(clouds), 2.7), sharey=True,
                                layout="constrained")  # fmt: skip
    for axis, (epoch, cloud) in zip(axes, clouds.items(), strict=True):
        axis.scatter(cloud[:, 0], cloud[:, 2], s=1.2, color="#2563c9", lw=0)
        axis.set(title=f"after {epoch} epochs", xlim=(-limit, limit), ylim=(-limit, limit),
                 aspect="equal", xlabel="x")  # fmt: skip
    axes[0].set_ylabel("z")
    return figure


# --------------------------------------------------------------------------- what the network sees


def first_against_mean(points: Tensor, voxel_size: float) -> pd.DataFrame:
    """Return one row per voxel: points in it, and how far its first point lies from their mean.

    points: [B, P, 3].  distance is in voxel edges.
    """
    first = voxelize(points, voxel_size, reduce="first")
    mean = voxelize(points, voxel_size, reduce="mean")
    cells = torch.floor(points.flatten(0, 1) / voxel_size).long()
    batch = torch.arange(len(points)).repeat_interleave(points.shape[1])[:, None]
    _, counts = torch.unique(torch.cat([batch, cells], 1), dim=0, return_counts=True)
    distance = (first.feats - mean.feats).norm(dim=1) / voxel_size
    return pd.DataFrame({"points": counts.numpy(), "distance": distance.numpy()})


def distance_plot(table: pd.DataFrame) -> Figure:
    """Draw the distances of `first_against_mean`, by the number of points in a voxel."""
    figure, axis = plt.subplots(figsize=(6.5, 2.9), layout="constrained")
    groups = {"2": table["points"] == 2, "3 to 5": table["points"].between(3, 5),
              "6 or more": table["points"] >= 6}  # fmt: skip
    for (label, rows), colour in zip(groups.items(), ("#8bbf3f", "#2563c9", "#e8871e"),
                                     strict=True):  # fmt: skip
        axis.hist(table.loc[rows, "distance"], bins=np.linspace(0, 1, 41), histtype="step", lw=1.8,
                  color=colour, label=f"{label} points ({rows.sum():,} voxels)", density=True)
    axis.set(xlabel="distance of the kept point from the mean (voxel edges)", ylabel="density")
    axis.legend()
    return figure


def growth(image_net: nn.Module, points: Tensor, voxel_size: float) -> pd.DataFrame:
    """Return the size of activations behind each inflated convolution, in eval mode.

    One row per layer and rule: the root mean square of the convolution's output, divided by k
    or not.  points: [B, P, 3]; the network's norms keep the statistics of the images.
    """
    rows = []
    for label, normalize in (("divided by k", True), ("not divided", False)):
        net = inflate(image_net, 3, 10, "z", normalize, "paper", torch.Generator().manual_seed(0))
        layers = [m for m in net.modules() if isinstance(m, SparseConv3d)]

        def note(layer: nn.Module, args: tuple, out: object, label: str = label) -> None:
            size = float(out.feats.double().square().mean().sqrt())
            rows.append({"layer": sum(r["rule"] == label for r in rows) + 1, "rule": label,
                         "rms": size})  # fmt: skip

        handles = [layer.register_forward_hook(note) for layer in layers]
        with torch.no_grad():
            net.eval()(voxelize(points, voxel_size))
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows)


def growth_plot(table: pd.DataFrame) -> Figure:
    """Draw the activations of `growth` over the layers."""
    figure, axis = plt.subplots(figsize=(7.5, 3), layout="constrained")
    for (label, rows), colour in zip(table.groupby("rule", sort=False), ("#2563c9", "#e8871e"),
                                     strict=True):  # fmt: skip
        axis.plot(rows["layer"], rows["rms"], "o-", ms=3, color=colour, label=label)
    axis.set(yscale="log", xlabel="convolution, from the first to the last",
             ylabel="root mean square")  # fmt: skip
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


# --------------------------------------------------------------------- what is loaded and counted


def by_position(values: Sequence[Tensor], target: nn.Module) -> dict[str, Tensor]:
    """Return a state for `target` with the n-th value under its n-th name, as the original maps."""
    return dict(zip(target.state_dict(), values, strict=False))


def with_layers_swapped(state: Mapping[str, Tensor], one: str, other: str) -> list[Tensor]:
    """Return a file's tensors in its order, where two layers of equal shapes stand exchanged."""
    def swapped(name: str) -> str:
        for mine, theirs in ((one, other), (other, one)):
            if name.startswith(mine):
                return theirs + name.removeprefix(mine)
        return name

    values = [state[swapped(name)] for name in state]
    if any(a.shape != b.shape for a, b in zip(values, state.values(), strict=True)):
        raise ValueError(f"{one} and {other} have different shapes")
    return values


def optimizer_table(net: nn.Module, regime: str) -> pd.DataFrame:
    """Return how many values the optimizer holds when it is built before or after freezing."""
    before = torch.optim.SGD(net.parameters(), lr=0.1)
    freeze(net, regime)
    after = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    rows = {}
    for name, optimizer in (("built before freezing", before), ("built after freezing", after)):
        held = [p for group in optimizer.param_groups for p in group["params"]]
        rows[name] = {"values it holds": sum(p.numel() for p in held),
                      "of them frozen": sum(p.numel() for p in held if not p.requires_grad)}
    return pd.DataFrame(rows).T


def decayed(steps: int = 100, lr: float = 0.1, weight_decay: float = 1e-4) -> pd.DataFrame:
    """Return what remains of a frozen weight of 1 that an SGD optimizer (momentum 0.9) holds.

    Its gradient is None where it never had one, and zeros where it was once computed and then
    cleared to zero, as PyTorch did by default before 2.0.
    """
    rows = {}
    for label, gradient in (("gradient None", None), ("gradient zeros", torch.zeros(1))):
        weight = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=weight_decay)
        weight.requires_grad_(False)
        weight.grad = gradient
        for _ in range(steps):
            optimizer.step()
        rows[label] = {f"weight after {steps} steps": float(weight)}
    return pd.DataFrame(rows).T


def without_absent_class(logged: float, classes: int = 14) -> float:
    """Return the mIoU in per cent of the classes that occur, from one that counts an absent as 100.

    >>> round(without_absent_class(55.09), 2)
    51.64
    """
    return (classes * logged - 100) / (classes - 1)


def checkpoint_table(histories: pd.DataFrame) -> pd.DataFrame:
    """Return per run the test accuracy of its last epoch and of the epoch that is best on test."""
    rows = []
    for _, run in histories.groupby("key", sort=False):
        run = run.sort_values("epoch")
        best = run.loc[run["test_top1"].idxmax()]
        last = run.iloc[-1]
        rows.append({
            "seed": int(last["seed"]), "last epoch (%)": 100 * last["test_top1"],
            "best on test (%)": 100 * best["test_top1"], "its epoch": int(best["epoch"]),
            "gain by choosing": 100 * (best["test_top1"] - last["test_top1"]),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("seed")


def lucky_epoch(top1: float, clouds: int, epochs: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """Return what choosing gains where all epochs are equally good and only chance differs.

    Draws 2,000 times the accuracy of each epoch on `clouds` independent test clouds; epochs that
    follow each other are correlated, so a real run gains less.
    """
    random = np.random.default_rng(seed)
    drawn = random.binomial(clouds, top1, size=(2000, max(epochs))) / clouds
    rows = [{"epochs to choose from": n, "gain (points)": 100 * (drawn[:, :n].max(1).mean() - top1)}
            for n in epochs]  # fmt: skip
    return pd.DataFrame(rows).set_index("epochs to choose from")


def cannot_run() -> pd.DataFrame:
    """Return the released configurations that end in an error, and why."""
    return pd.DataFrame(STARTS_WITH_ERROR, columns=["configuration", "why it ends in an error"])
