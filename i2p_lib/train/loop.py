"""One training loop with hooks, and what it needs: data, network, optimizer, rate, evaluation.

All randomness of an epoch is drawn from generators seeded by (seed, purpose, epoch), so the state
of a run is only its tensors, its epoch and its history: going on from a checkpoint gives the same
bits as never having stopped.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.data import augment, dataset_card, few_shot_episode, load_dataset
from i2p_lib.inflation import inflate
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models import is_point_model, point_model
from i2p_lib.models.res16 import is_pointcontrast, load_pointcontrast
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.train import team as distributed
from i2p_lib.train.distill import distillation_loss, teacher_answers
from i2p_lib.weights import image_model

CPU = torch.device("cpu")


class Diverged(ValueError):
    """The loss is no longer a number."""


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
    """The splits of one run, cut down as its spec says, and the class names.

    test is None where the run must not read it (protocol "tuning").
    """

    train: Split
    val: Split
    test: Split | None
    class_names: tuple[str, ...]


@dataclass
class State:
    """A run in training: what a hook may look at, and all that a checkpoint must hold."""

    spec: RunSpec
    net: nn.Module
    optimizer: torch.optim.Optimizer
    splits: Splits
    device: torch.device
    teacher: nn.Module | None = None
    team: distributed.Team = field(default_factory=distributed.Team)
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    probes: list[dict] = field(default_factory=list)
    last_features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


Hook = Callable[[State], None]


@dataclass(frozen=True)
class Scores:
    """An evaluation: mean cross entropy (no smoothing), accuracy in 0..1, logits [N, classes]."""

    loss: float
    top1: float
    logits: Tensor


def seed_for(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one purpose, the same in every process and on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run."""
    return torch.Generator().manual_seed(seed_for(seed, *names))


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


def load_splits(spec: RunSpec, device: torch.device = CPU) -> Splits:
    """Load the splits of a spec onto a device and cut them to its shots, limits and points.

    Which split is trained on and which one validates is the protocol's (`PROTOCOLS`).
    The first `spec.points` points of a cloud are used.  Few-shot episodes are drawn from the
    training split only.  Raises ValueError where clouds hold fewer points than asked for.
    """
    files = {"train": spec.rules.train_on, "val": spec.rules.validate_on, "test": "test"}
    if spec.rules.test == "never":
        del files["test"]
    parts: dict[str, Split | None] = {"test": None}
    for name, file in files.items():
        whole = load_dataset(spec.data, file)
        labels = torch.tensor(whole.labels)
        if spec.points > whole.points.shape[1]:
            raise ValueError(
                f"points={spec.points}, but clouds of {spec.data} hold {whole.points.shape[1]}: "
                "set points to that number or less"
            )
        if name == "train" and spec.shots is not None:
            chosen = torch.as_tensor(few_shot_episode(whole.labels, spec.shots, spec.episode))
        else:
            limit = spec.train_limit if name == "train" else spec.test_limit
            chosen = stratified_first(labels, limit)
        points = torch.tensor(whole.points[chosen.numpy(), : spec.points])
        parts[name] = Split(points.to(device), labels[chosen])
        names = whole.class_names
    return Splits(**parts, class_names=tuple(names))


def build_network(spec: RunSpec, num_classes: int) -> nn.Module:
    """Return the network of a spec on the CPU, with its regime's parameters frozen.

    Networks on points are built as they are, image networks are inflated.
    """
    if is_point_model(spec.model):
        up = dataset_card(spec.data).up
        net = point_model(spec.model, num_classes, spec.weights, spec.seed, up=up)
    else:
        net = _inflated(spec, num_classes)
    freeze(net, spec.regime)
    return net


def _inflated(spec: RunSpec, num_classes: int) -> nn.Module:
    """Inflate the spec's image network; PointContrast's kernels are 3D and come afterwards."""
    on_points = is_pointcontrast(spec.model, spec.weights)
    weights = "random" if on_points else spec.weights
    net = inflate(
        image_model(spec.model, weights=weights, seed=spec.seed),
        in_channels=3,
        num_classes=num_classes,
        axis=spec.axis,
        normalize=spec.normalize,
        recipe=spec.recipe,
        generator=generator(spec.seed, "inflate"),
    )
    if on_points:
        load_pointcontrast(net, spec.weights)
    return net


def build_optimizer(net: nn.Module, spec: RunSpec) -> torch.optim.Optimizer:
    """Return the optimizer over what is trained; norms and biases get no weight decay.

    SGD uses momentum 0.9 without Nesterov, as the original code does.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=spec.lr, fused=True)


def learning_rate(spec: RunSpec, step: int, steps_per_epoch: int) -> float:
    """Return the rate of optimisation step `step` (from 0): a pure function, so nothing to save.

    one_cycle: lr/25 up to lr within the share `warmup`, then a cosine down to lr/250000.
    cosine: from lr down to 0 over all steps.
    cosine_per_iteration: the original code's slip, a cosine whose half period is `epochs`
    *iterations*, so the rate swings up and down many times (paper notes 3.3).
    """
    total = max(1, spec.epochs * steps_per_epoch)
    if spec.schedule == "cosine":
        return _cosine(spec.lr, 0.0, step / total)
    if spec.schedule == "cosine_per_iteration":
        return _cosine(spec.lr, 0.0, step / spec.epochs)
    rise = spec.warmup * total
    if step < rise:
        return _cosine(spec.lr / 25, spec.lr, step / rise)
    return _cosine(spec.lr, spec.lr / 250_000, (step - rise) / (total - rise))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def batches(indices: Tensor, size: int) -> Sequence[Tensor]:
    """Split indices into batches of `size`; a last batch of one joins the batch before it.

    (One item alone has no batch statistics.)
    """
    parts = list(indices.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def net_input(
    net: nn.Module, points: Tensor, spec: RunSpec, device: torch.device
) -> SparseTensor | Tensor:
    """Return what a network takes of a batch [B, P, 3]: points, or voxels made on `device`.

    A voxel has the mean of its points or its first one, as the protocol says.
    With `amp` bf16 its features are bfloat16, and sparse layers work in their input's format.
    """
    points = points.to(device)
    if getattr(net, "i2p_input", "voxels") == "points":
        return points
    voxels = voxelize(points, spec.voxel_size, reduce=spec.rules.voxel)
    return voxels.to(torch.bfloat16) if spec.amp == "bf16" else voxels


def logits_of(net: nn.Module, x: SparseTensor | Tensor, spec: RunSpec) -> Tensor:
    """Return a network's logits [B, classes] in float32, computed in the spec's precision."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=spec.amp == "bf16"):
        return net(x).float()


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, spec: RunSpec, device: torch.device) -> Scores:
    """Measure a network in eval mode on a split without augmentation, and leave its mode alone.

    Processes that train together share out the batches, and all get the whole answer.
    """
    was_training = net.training
    net.eval()
    try:
        logits = [
            logits_of(net, net_input(net, split.points[part], spec, device), spec).cpu()
            for part in distributed.shard(torch.arange(len(split)).split(spec.batch_size))
        ]
    finally:
        net.train(was_training)
    every = distributed.gather(logits)
    right = (every.argmax(1) == split.labels).double().mean()
    return Scores(float(cross_entropy(every, split.labels)), float(right), every)


def start(spec: RunSpec, device: torch.device) -> State:
    """Load the data and build the network and optimizer of a run that begins."""
    splits = load_splits(spec, device)
    net = build_network(spec, len(splits.class_names)).to(device)
    return State(spec, net, build_optimizer(net, spec), splits, device)


def train(state: State, hooks: Sequence[Hook] = ()) -> State:
    """Train from `state.epoch` to the last epoch; each hook is called after every epoch.

    Hooks are also called before the first epoch (`state.epoch` 0).
    The validation split is measured after every epoch, in few-shot runs (whose epochs are many
    and short) after the last one; the test split only where the protocol validates on it.
    Raises Diverged after an epoch in which a loss was not finite.
    """
    spec = state.spec
    if state.epoch == 0:
        _call(hooks, state)
    replica = state.team.replica(state.net)
    while state.epoch < spec.epochs:
        epoch = state.epoch + 1
        row = {"epoch": epoch} | _train_epoch(state, replica, epoch)
        began = time.perf_counter()
        if spec.rules.validate_on == "test":
            scores = _measure(state, "test")
            row |= {name.replace("test", "val"): value for name, value in scores.items()} | scores
        elif spec.shots is None or epoch == spec.epochs:
            row |= _measure(state, "val")
        row["eval_seconds"] = time.perf_counter() - began
        state.history.append(row)
        state.epoch = epoch
        _call(hooks, state)
    return state


def _call(hooks: Sequence[Hook], state: State) -> None:
    for hook in hooks:
        hook(state)


def _measure(state: State, split: str) -> dict[str, float]:
    scores = evaluate(state.net, getattr(state.splits, split), state.spec, state.device)
    return {f"{split}_loss": scores.loss, f"{split}_top1": scores.top1}


def _train_epoch(state: State, replica: nn.Module, epoch: int) -> dict[str, float]:
    """Train one epoch; return its loss, accuracy, last rate, seconds and voxels per cloud.

    A network on points counts points instead.  Of a team, each process draws its own dropout.
    """
    spec, net, data, team = state.spec, state.net, state.splits.train, state.team
    began = time.perf_counter()
    done, right, voxels = [], 0, 0.0  # losses and hits stay on the device, which nobody waits for
    net.train()
    with _dropout_seed(seed_for(spec.seed, "dropout", epoch, *team.salt), state.device):
        for step, rate, points, labels in _epoch_batches(state, epoch):
            mine = team.share(len(labels))
            x = net_input(net, points[mine], spec, state.device)
            target = labels[mine].to(state.device)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            state.optimizer.zero_grad(set_to_none=True)
            logits = logits_of(replica, x, spec)
            if state.teacher is None:
                loss = cross_entropy(logits, target, label_smoothing=spec.label_smoothing)
            else:
                answers = teacher_answers(state.teacher, x)
                loss = distillation_loss(logits, answers, spec.distill, spec.temperature)
            loss = team.weighted(loss)
            loss.backward()
            state.optimizer.step()
            done.append((step, rate, len(labels), loss.detach()))
            if team.counts:
                right = right + (logits.argmax(1) == target).sum()
                voxels += len(x.coords) if isinstance(x, SparseTensor) else x[..., 0].numel()
    count, (right, voxels) = len(data), team.total(right, voxels)
    return {
        "train_loss": _summed(done, epoch, team) / count,
        "train_top1": float(right) / count,
        "lr": rate,
        "seconds": time.perf_counter() - began,
        "voxels": voxels / count,
    }


def _summed(
    done: list[tuple[int, float, int, Tensor]], epoch: int, team: distributed.Team
) -> float:
    """Sum the losses of an epoch's steps, (step, rate, clouds, mean loss); Diverged names one."""
    values = team.mean(torch.stack([loss for *_, loss in done])).tolist()
    for (step, rate, *_), value in zip(done, values, strict=True):
        if not math.isfinite(value):
            raise Diverged(
                f"the loss became {value} in epoch {epoch}, step {step}, at a learning rate "
                f"of {rate:.3g}: lower lr, or check that the points are finite"
            )
    return sum(value * clouds for (_, _, clouds, _), value in zip(done, values, strict=True))


def _epoch_batches(state: State, epoch: int) -> Iterator[tuple[int, float, Tensor, Tensor]]:
    """Yield (step, rate, augmented points [B, P, 3], labels [B]) of one epoch in random order.

    Random numbers are drawn on the CPU and applied where the points lie, so that a run is the same
    on every device: the device is no part of its key.
    """
    spec, data = state.spec, state.splits.train
    random = generator(spec.seed, "epoch", epoch)
    parts = batches(torch.randperm(len(data), generator=random), spec.batch_size)
    for number, part in enumerate(parts):
        step = (epoch - 1) * len(parts) + number
        points = augment(data.points[part], random, spec.augment)
        yield step, learning_rate(spec, step, len(parts)), points, data.labels[part]


@contextmanager
def _dropout_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout draws from them) and put them back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
