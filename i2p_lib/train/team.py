"""One training by several processes: joining them, their shares of the work, what they add up.

torchrun starts the processes, `torch.distributed` holds their group.  A process alone is a team of
one, for which every function here gives back what it got.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from i2p_lib.train.global_norm import use_global_statistics
from i2p_lib.train.settings import Settings

COMMAND = "torchrun --nproc-per-node N -m i2p_lib.cli run ..."


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, for the block; alone, do nothing.

    device: "cpu" (they talk by gloo) or "cuda" (NCCL; each has the GPU of its local rank).
    Raises ValueError where torchrun's variables are incomplete or a process has no GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if absent := [name for name in names if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE asks for {os.environ['WORLD_SIZE']} processes, but {', '.join(absent)} "
            f"is not set: start them with {COMMAND}, or unset WORLD_SIZE"
        )
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {gpus}: "
                f"start at most {gpus} processes on it (--nproc-per-node)"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: the others may still wait for this process


def rank() -> int:
    """Return the number of this process; 0 is the main one, which alone writes."""
    return dist.get_rank() if _many() else 0


def size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _many() else 1


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def _place() -> torch.device:
    """Return the device on which the group's collectives work."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def agreed(value: Any) -> Any:
    """Return the main process's value in every process: what JSON can hold, never a pickle."""
    if size() == 1:
        return value
    text = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8).to(_place())
    length = torch.tensor(len(text), device=_place())
    dist.broadcast(length, 0)
    if rank() > 0:
        text = torch.empty(int(length), dtype=torch.uint8, device=_place())
    dist.broadcast(text, 0)
    return json.loads(text.cpu().numpy().tobytes())


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
    return items[_span(len(items))]


def _span(count: int) -> slice:
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def gather(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows [N, C] of all processes in order, given this one's parts [n_i, C]."""
    if size() == 1:
        return torch.cat(list(parts))
    shape = [sum(map(len, parts)), parts[0].shape[1] if parts else 0]
    shapes = [torch.zeros(2, dtype=torch.int64, device=_place()) for _ in range(size())]
    dist.all_gather(shapes, torch.tensor(shape, device=_place()))
    counts = [int(rows) for rows, _ in shapes]
    whole = torch.zeros(sum(counts), max(int(width) for _, width in shapes), device=_place())
    if parts:
        first = sum(counts[: rank()])
        whole[first : first + shape[0]] = torch.cat(list(parts)).to(_place())
    dist.all_reduce(whole)  # every row is added to zeros, so it stays as it is
    return whole.cpu()


def refuse_small_batches(specs: Iterable[Settings], processes: int) -> None:
    """Raise ValueError for a run whose batches are smaller than the number of processes."""
    for spec in specs:
        if spec.batch_size < processes:
            raise ValueError(
                f"{spec.label()}: a batch of {spec.batch_size} clouds has no share for each of "
                f"{processes} processes: start at most {spec.batch_size} (--nproc-per-node)"
            )


@dataclass
class Team:
    """This process among those that train one network: its share of each step.

    All draw the same batches and augmentations, then take their clouds of each.  A mean loss over
    `share` counts by `weight`; a process without a cloud in a small last batch computes one all
    the same, because the others wait for it, and counts 0.
    """

    rank: int = field(default_factory=rank)
    size: int = field(default_factory=size)
    weight: float = 1.0

    @property
    def counts(self) -> bool:
        """Whether this process has clouds of the current batch."""
        return self.weight > 0

    @property
    def salt(self) -> tuple[int, ...]:
        """What tells the random numbers of this process's dropout from those of the others."""
        return () if self.size == 1 else (self.rank, self.size)

    def replica(self, net: nn.Module) -> nn.Module:
        """Return `net` to be called in training steps.

        In a team its backward pass averages gradients over the processes, and its batch norms
        take their statistics over the whole batch from now on.
        """
        if self.size == 1:
            return net
        use_global_statistics(net, lambda: self.counts)
        replica = nn.parallel.DistributedDataParallel(net)
        replica.broadcast_buffers = False  # the statistics are equal everywhere
        return replica

    def share(self, count: int) -> slice:
        """Return which of a batch's `count` clouds are this process's."""
        mine = _span(count)
        self.weight = (mine.stop - mine.start) * self.size / count
        return mine if self.counts else slice(0, 1)

    def weighted(self, loss: Tensor) -> Tensor:
        """Return a loss whose mean over the processes is that of the whole batch."""
        return loss if self.size == 1 else loss * self.weight

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values over the processes."""
        if self.size == 1:
            return values
        values = values.double() / self.size
        dist.all_reduce(values)
        return values

    def total(self, *counts: float) -> list[float]:
        """Return the sums of some counts over the processes."""
        if self.size == 1:
            return list(counts)
        sums = torch.tensor(list(map(float, counts)), dtype=torch.float64, device=_place())
        dist.all_reduce(sums)
        return sums.tolist()
