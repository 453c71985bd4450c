"""What a run will cost: one measured training step, times clouds and epochs, checked by past runs.

A step is measured on this machine's device with random weights, on items of the run's own data
or, where those are absent, on stand-ins.  It is kept in the store, so a setup is
measured once.  Ratios of past runs to their steps calibrate the estimate and give its error.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.machine import cpu_name, gpu_names
from i2p_lib.runs import store
from i2p_lib.runs.examples import example, setup, sizes
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.runs.sources import closure
from i2p_lib.runs.spec import AnySpec, RunSpec, SegmentSpec, spec_from
from i2p_lib.train.task import generator

CHECKED_SETUPS = 3
# A pass is a third forward, a third for the gradients of activations, a third for those of weights.
FROZEN_SHARE = 2 / 3


@dataclass(frozen=True)
class Cost:
    """seconds: training and validation of the whole run.  gib: memory of one process.

    Memory counts weights, gradients, the optimizer's tensors and the activations that a batch
    saves; buffers that come and go are not in it.
    """

    seconds: float
    gib: float


@dataclass
class CostModel:
    """Estimates for one device.  factor, low and high: past runs over their measured steps."""

    device: str
    root: Path
    factor: float = 1.0
    low: float = math.nan
    high: float = math.nan
    checked: int = 0
    _steps: dict[str, dict] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, device: str, root: str | Path | None = None, calibrate: bool = True) -> CostModel:
        """Open the model of a device ("cpu", "cuda" or "auto"), checked against the store."""
        model = cls(resolve_device(device), store.store_root(root))
        model._steps = store.read_json(model._file) or {}
        if calibrate:
            model._calibrate()
        return model

    @property
    def _file(self) -> Path:
        return self.root / "steps.json"

    def machine(self) -> str:
        """Return the name of the processor or GPU that the estimates are for."""
        return gpu_names()[0] if self.device == "cuda" else f"{cpu_name()} (one free core, no GPU)"

    def error(self) -> str:
        """Say in one sentence how far the estimates may be off."""
        if not self.checked:
            return (
                "no finished run in the store to check against; it rests on one measured step of "
                "each network, so take it as an order of magnitude"
            )
        return (
            f"{self.checked} finished runs took {self.factor:.2f} times what their steps said "
            f"({self.low:.2f} to {self.high:.2f}), and the estimates are multiplied by that"
        )

    def cost(self, spec: AnySpec) -> Cost:
        """Return what a run will cost; ValueError where its network or its size is unknown."""
        step = self._step(spec)
        answers = sizes(spec)["train"] * spec.epochs if spec.teacher is not None else 0
        forward = step["seconds_to_measure"] * (items_measured(spec) + answers)
        seconds = self.factor * (_training_seconds(step, spec) + forward)
        gib = (_held(step, spec) + step["saved_per_item"] * spec.batch_size) / 2**30
        return Cost(seconds, gib)

    def _step(self, spec: AnySpec) -> dict:
        place = torch.device(self.device)
        return self._measured(
            setup(spec, self.device), lambda found: measure_step(spec, found["items"], place)
        )

    def _measured(self, setup: dict, measure: Callable[[dict], dict]) -> dict:
        """Return what was measured of a setup on this machine, now or before."""
        setup = setup | {"machine": self.machine(), "torch": torch.__version__, "code": _code()}
        key = hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self._steps:
            self._steps[key] = setup | measure(setup)
            self.root.mkdir(parents=True, exist_ok=True)
            store.write_json(self._file, self._steps)
        return self._steps[key]

    def _calibrate(self) -> None:
        """Compare the newest finished runs of this device, of a few setups, with their steps."""
        groups: dict[str, list] = {}
        for spec, seconds in _finished(self.root, self.device):
            groups.setdefault(json.dumps(setup(spec, self.device)), []).append((spec, seconds))
        ratios = [
            seconds / _training_seconds(self._step(spec), spec)
            for runs in list(groups.values())[:CHECKED_SETUPS]
            for spec, seconds in runs
        ]
        if ratios:
            self.factor = statistics.median(ratios)
            self.low, self.high, self.checked = min(ratios), max(ratios), len(ratios)


def _held(step: dict, spec: AnySpec) -> int:
    """Return the bytes of weights, gradients and the optimizer's tensors."""
    slots = 2 + (spec.optimizer == "adamw")  # gradient, momentum, AdamW's second moment
    return step["parameter_bytes"]["all"] + slots * step["parameter_bytes"][spec.regime]


def _training_seconds(step: dict, spec: AnySpec) -> float:
    """Return the seconds of all training steps; where layers are frozen, an item's are less."""
    share = 1 if spec.regime == "all" else FROZEN_SHARE
    return step["seconds_per_item"] * share * spec.epochs * sizes(spec)["train"]


def items_measured(spec: AnySpec) -> int:
    """Return how many clouds or scenes a run passes forward alone, to validate and to test."""
    count = sizes(spec)
    epochs = sum(spec.validated(epoch) for epoch in range(1, spec.epochs + 1))
    return epochs * count["val"] + count["test"]


def measure_step(spec: AnySpec, items: int, device: torch.device) -> dict:
    """Train one batch of so many items twice; return the second pass' cost.

    seconds_per_item (all layers trained), seconds_to_measure (forward alone), saved_per_item
    (bytes of activations), and parameter_bytes of what each regime trains.
    """
    alone = {"teacher": None, "distill": None, "temperature": None}
    changes = {name: value for name, value in alone.items() if name in type(spec).model_fields}
    plain = spec.but(weights="random", regime="all", **changes)
    task = example(plain, items, device)
    net = plain.module.build_network(plain, len(task.class_names)).to(device).train()
    random = generator(0, "cost")
    batch = task.batch(torch.arange(items), random)

    def loss() -> Tensor:
        x, targets = task.encode(net, batch, slice(items), random)
        return task.loss(net, x, targets)[0]

    timed_pass(net, loss, device)  # the first pass compiles and warms up
    seconds, saved = timed_pass(net, loss, device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    with one_thread():
        task.measure(net, "train")
    return {
        "seconds_per_item": seconds / items,
        "seconds_to_measure": (clock() - began) / items,
        "saved_per_item": saved / items,
        "parameter_bytes": trained_bytes(net),
    }


def timed_pass(
    net: nn.Module, loss_of: Callable[[], Tensor], device: torch.device
) -> tuple[float, int]:
    """Return seconds and bytes of saved activations of one pass forward and backward.

    On a CPU the processor's own time is taken, so that other programs do not count.
    """
    saved: dict[int, int] = {}
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with one_thread():
        began = clock()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - began
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    return seconds, sum(n for place, n in saved.items() if place not in own)


def trained_bytes(net: nn.Module) -> dict[str, int]:
    """Return the bytes of the parameters that each regime trains; the net ends as in the last."""
    trained = {}
    for regime in REGIMES:
        freeze(net, regime)
        trained[regime] = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    return trained


def _finished(root: Path, device: str) -> list[tuple[AnySpec, float]]:
    """Return (spec, seconds of training) of the store's finished runs on a device, newest first."""
    found = []
    for folder, parts in store.stored_runs(root):
        state = store.read_json(folder / "state.json") or {}
        if state.get("state") != "done" or state.get("device") != device:
            continue
        if state.get("processes", 1) > 1:  # its seconds are those of several
            continue
        try:
            spec = spec_from(json.loads(parts["spec"]), str(folder))
            sizes(spec)
        except ValueError:
            continue  # settings or data that are no longer known here
        metrics = store.read_json(folder / "metrics.json")
        found.append((state["finished"], spec, metrics["seconds_training"]))
    found.sort(key=lambda item: item[0], reverse=True)
    return [(spec, seconds) for _, spec, seconds in found]


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a hash of the sources that decide how long a step takes."""
    parts = closure([RunSpec.TASK, SegmentSpec.TASK])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
