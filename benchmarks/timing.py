"""Measuring: contenders that take turns, the machine's own limits, and the memory of a step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.goals import COPIED, GEMM_SIDE

SLOW = 4  # times as long as the first contender
SHORT = 0.01  # seconds; what is shorter is called several times in a turn

Contender = Callable[[], Sequence[float]]
"""Does its work once and returns the seconds of each of its stages."""


def now(device: torch.device) -> float:
    """Return processor seconds, which other programs do not change; on a GPU wall-clock seconds.

    A GPU is waited for first.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def take_turns(
    contenders: Mapping[str, Contender], budget: float, least: int = 3, most: int = 15
) -> dict[str, np.ndarray]:
    """Return the seconds [rounds, stages] of each contender.

    All are called once to warm up.  Then there are as many rounds as fit into `budget` seconds,
    within `least` and `most`; in each of them every contender has its turn, and the order rotates,
    so that all share the machine's good and bad moments.  In a turn, work shorter than `SHORT` is
    repeated and the median kept.  What takes `SLOW` times as long as the first contender is not
    called again: its warm-up counts.
    """
    first = {name: call() for name, call in contenders.items()}
    spent = {name: sum(stages) for name, stages in first.items()}
    slowest = max(SLOW * spent[next(iter(first))], 10 * SHORT)
    names = [name for name in first if spent[name] <= slowest]
    calls = {name: max(1, min(20, int(SHORT / max(spent[name], 1e-9)))) for name in names}
    rounds = int(budget / sum(spent[name] * calls[name] for name in names))
    seconds: dict[str, list] = {name: [] for name in names}
    for turn in range(max(least, min(most, rounds))):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            seen = [contenders[name]() for _ in range(calls[name])]
            seconds[name].append(np.median(seen, axis=0))
    return {name: np.array(seconds.get(name, [first[name]])) for name in first}


def ratio(seconds: np.ndarray, reference: np.ndarray) -> float:
    """Return the median over the rounds of `seconds` over `reference`, both [rounds]."""
    return float(np.median(seconds / reference[: len(seconds)]))


def limits(device: torch.device, half: bool) -> dict[str, Contender]:
    """Return what bounds every layer: a large float32 product, a copy, and a bf16 product."""
    found = {
        "gemm": gemm(device, torch.float32),
        "copy": large_copy(device),
    }
    return found | ({"gemm bf16": gemm(device, torch.bfloat16)} if half else {})


def timed(work: Callable[[], object], device: torch.device) -> Contender:
    """Return work of one stage as a contender."""

    def call() -> list[float]:
        start = now(device)
        work()
        return [now(device) - start]

    return call


def gemm(device: torch.device, dtype: torch.dtype) -> Contender:
    """Return a product of two square matrices of side `GEMM_SIDE`."""
    a = torch.ones(GEMM_SIDE, GEMM_SIDE, dtype=dtype, device=device)
    out = torch.empty_like(a)
    return timed(lambda: torch.mm(a, a, out=out), device)


def large_copy(device: torch.device) -> Contender:
    """Return a copy of `COPIED` float32 values."""
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    return timed(lambda: target.copy_(source), device)


def fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def saved_bytes(forward: Callable[[], object], net: nn.Module) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, parameters left out."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # holds the graph, so that no storage is given twice
    del kept
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    return sum(size for place, size in saved.items() if place not in own)


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that tensors which `step` makes and releases occupy at one time.

    What is left when it ends (gradients) does not count.  Follows torch's own record of every
    allocation and release on the device.
    """
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU] + ([kinds.CUDA] if device.type == "cuda" else [])
    with TemporaryDirectory() as folder:
        profile = torch.profiler.profile(activities=activities, profile_memory=True)
        with _silent(), profile as record:
            step()
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    number = {"cpu": 0, "cuda": 1}[device.type]
    changes = [(event["ts"], event["args"]["Addr"], event["args"]["Bytes"]) for event in events
               if event.get("name") == "[memory]" and event["args"]["Device Type"] == number]
    changes.sort(key=lambda change: change[0])
    sizes = np.array([size for _, _, size in changes], dtype=np.int64)
    alive: dict[int, int] = {}
    for place, (_, address, size) in enumerate(changes):
        if size > 0:
            alive[address] = place
        elif address in alive:
            del alive[address]
        else:
            sizes[place] = 0  # made before
    sizes[list(alive.values())] = 0
    return int(np.cumsum(sizes).max(initial=0))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the profiler's native code prints off the terminal."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
