"""One training by several processes: joining them, their shares, and sums and norms over all.

torchrun starts the processes, `torch.distributed` holds their group.  A process alone is a team of
one, for which every function here gives back what it got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from i2p_lib.sparse import SparseBatchNorm, SparseTensor
from i2p_lib.train.settings import Settings

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SparseBatchNorm)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, for the block; alone, do nothing.

    device: "cpu" (they talk by gloo), "cuda" (NCCL; each has the GPU of its local rank), or "auto".
    Raises ValueError where torchrun's variables are incomplete or a process has no GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if absent := [name for name in names if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE asks for {os.environ['WORLD_SIZE']} processes, but {', '.join(absent)} "
            "is not set: start them with torchrun --nproc-per-node N -m i2p_lib.cli run ..., "
            "or unset WORLD_SIZE"
        )
    gpu = device == "cuda" or device == "auto" and torch.cuda.is_available()
    if gpu:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {gpus}: "
                f"start at most {gpus} processes on it (--nproc-per-node)"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: the others may still wait for this process


def rank() -> int:
    """Return the number of this process; 0 is the main one, which alone writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """Return the sums of values over the processes, in float64 and where the group works."""
    if size() == 1:
        return values.double()
    sums = values.to("cuda" if dist.get_backend() == "nccl" else "cpu", torch.float64, copy=True)
    dist.all_reduce(sums)
    return sums


def gather(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows [N, C] of all processes in order, given this one's parts [n_i, C]."""
    if size() == 1:
        return torch.cat(list(parts))
    own = torch.cat(list(parts)).float().cpu() if parts else torch.zeros(0, 0)
    shapes = torch.zeros(size(), 2, dtype=torch.float64)
    shapes[rank()] = torch.tensor([len(own), own[:1].numel()])
    counts, widths = total(shapes).long().T.tolist()
    whole, first = torch.zeros(sum(counts), max(widths)), sum(counts[: rank()])
    whole[first : first + len(own), : own[:1].numel()] = own
    return total(whole).float().cpu()  # every row is added to zeros, so it stays as it is


def agreed(value: Any) -> Any:
    """Return the main process's value in every process: what JSON can hold, never a pickle."""
    text = json.dumps(value).encode() if rank() == 0 else b""
    column = torch.tensor([[byte] for byte in text])
    return json.loads(bytes(gather([column]).flatten().byte().tolist()))


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go through the block before all others."""
    if rank() > 0:
        agreed(None)
    yield
    if rank() == 0:
        agreed(None)


def shard(items: Sequence) -> Sequence:
    """Return this process's share of a sequence: neighbours, in order; it may be empty."""
    count = len(items)
    return items[count * rank() // size() : count * (rank() + 1) // size()]


def refuse_small_batches(specs: Iterable[Settings], processes: int) -> None:
    """Raise ValueError for a run whose batches are smaller than the number of processes."""
    for spec in specs:
        if spec.batch_size < processes:
            raise ValueError(
                f"{spec.label()}: a batch of {spec.batch_size} clouds has no share for each of "
                f"{processes} processes: start at most {spec.batch_size} (--nproc-per-node)"
            )


class Team:
    """This process among those that train one network: its share of each step.

    All draw the same batches and augmentations, then take their items of each.  A mean loss over
    `share` times `weight` has that of the whole batch as its mean over the processes.  One without
    an item in a small last batch computes one all the same, because the others wait for it; it
    does not count.
    """

    counts = True

    @property
    def salt(self) -> tuple[int, ...]:
        """What tells the random numbers of this process's dropout from those of the others."""
        return () if size() == 1 else (rank(), size())

    def replica(self, net: nn.Module) -> nn.Module:
        """Return `net` to be called in training steps.

        In a team its backward pass averages gradients over the processes, and its batch norms
        take their statistics over the whole batch from now on.
        """
        if size() == 1:
            return net
        use_global_statistics(net, self)
        replica = nn.parallel.DistributedDataParallel(net)
        replica.broadcast_buffers = False  # the statistics are equal everywhere
        return replica

    def share(self, count: int) -> slice:
        """Return which of a batch's `count` items are this process's."""
        mine = shard(range(count))
        self.counts = len(mine) > 0
        return slice(mine.start, mine.stop) if mine else slice(0, 1)

    def weight(self, number: int | Tensor) -> float | Tensor:
        """Return what a mean loss of `number` targets is multiplied by: 1 of a process alone."""
        if size() == 1:
            return 1.0
        own = torch.as_tensor(number) * self.counts
        return own * size() / total(own.view(1))[0].clamp_min(1).to(own.device)


def use_global_statistics(net: nn.Module, team: Team) -> None:
    """Let every batch norm of `net`, in training, take mean and variance over all processes.

    Parameters, buffers, hooks and frozen statistics stay as they are.
    Raises ValueError for a batch norm that computes something of its own.
    """
    for name, layer in net.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        usual = layer.affine and layer.track_running_stats and layer.momentum
        if type(layer) not in NORMS or not usual:
            raise ValueError(
                f"{name}: {layer} cannot be shared by several processes: train this network in one"
            )
        layer.forward = partial(_forward, layer, team)


def _forward(layer: _BatchNorm, team: Team, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
    """Normalise by the statistics of all rows, 16-bit features in float32."""
    if not layer.training or getattr(layer, "frozen_stats", False):
        return type(layer).forward(layer, x)
    feats = x.feats if isinstance(x, SparseTensor) else x
    wide = torch.promote_types(feats.dtype, torch.float32)
    mean, var, rows = statistics(feats.to(wide), counts=team.counts)
    with torch.no_grad():
        layer.num_batches_tracked.add_(1)
        layer.running_mean.lerp_(mean.to(wide), layer.momentum)
        layer.running_var.lerp_((var * rows / (rows - 1)).to(wide), layer.momentum)
    scale = layer.weight * (var + layer.eps).rsqrt()
    shift = layer.bias - mean * scale
    scale, shift = (v.to(wide).view(1, -1, *[1] * (feats.ndim - 2)) for v in (scale, shift))
    out = (feats * scale + shift).to(feats.dtype)
    return layer.activation(x.replace(out)) if isinstance(x, SparseTensor) else out


def statistics(x: Tensor, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, and its rows, over all processes: [C] in float64.

    x: [N, C, ...], this process's rows.  counts: whether they belong to the batch.
    """
    var, mean = (own.double() for own in torch.var_mean(x, (0, *range(2, x.ndim)), correction=0))
    rows = torch.full_like(mean, x.numel() / len(mean) * counts)
    own = torch.stack([rows, rows * mean, rows * (var + mean.square())])
    rows, first, second = _Total.apply(own)
    return first / rows, second / rows - (first / rows).square(), rows


class _Total(torch.autograd.Function):
    """The sum over all processes, and that of its gradients on the way back."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        return total(own)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return total(grad)
