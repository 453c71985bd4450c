"""What a run will cost: one measured training step, times clouds and epochs, checked by past runs.

A step is measured on this machine's device with random weights, on items of the run's own data
or, where those are absent, on stand-ins.  It is kept in the store, so a setup is
measured once.  Ratios of past runs to their steps calibrate the estimate and give its error.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

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
STEPS = "steps.json"
MEASURED = {"seconds_per_item", "seconds_to_measure", "saved_per_item", "parameter_bytes"}


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
        root = store.store_root(root)
        model = cls(resolve_device(device), root, _steps=_measured_before(root / STEPS))
        if calibrate:
            model._calibrate()
        return model

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
        weights, slots = step["parameter_bytes"], 3 if spec.optimizer == "adamw" else 2
        held = weights["all"] + slots * weights[spec.regime]  # gradients, one or two moments
        return Cost(seconds, (held + step["saved_per_item"] * spec.batch_size) / 2**30)

    def _step(self, spec: AnySpec) -> dict:
        """Return what a step of a run's setup costs on this machine, measured now or before."""
        found = setup(spec, self.device)
        about = found | {"machine": self.machine(), "torch": torch.__version__, "code": _code()}
        key = store.key_of(about)[:16]
        if key not in self._steps:
            self._steps[key] = about | measure_step(spec, found["items"], torch.device(self.device))
            store.write_json(self.root / STEPS, self._steps)
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


def _measured_before(file: Path) -> dict[str, dict]:
    """Return the steps that a file keeps; what is damaged is left out and measured again."""
    try:
        steps = store.read_json(file) or {}
        return {key: step for key, step in steps.items() if step.keys() >= MEASURED}
    except (store.DamagedRun, AttributeError):  # no JSON, or not of this form
        return {}


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
    """Train one batch of so many items twice; return the second pass' cost (`MEASURED`).

    seconds_per_item (all layers trained), seconds_to_measure (forward alone), saved_per_item
    (bytes of activations), and parameter_bytes of what each regime trains.
    On a CPU the processor's own time is taken, so that other programs do not count.
    """
    alone = {"teacher", "distill", "temperature"} & type(spec).model_fields.keys()
    plain = spec.but(weights="random", regime="all", **dict.fromkeys(alone))
    task = example(plain, items, device)
    net = plain.module.build_network(plain, len(task.class_names)).to(device).train()
    random = generator(0, "cost")
    batch = task.batch(torch.arange(items), random)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with one_thread():
        for _ in range(2):  # the first pass compiles and warms up
            saved.clear()
            began = clock()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                x, targets = task.encode(net, batch, slice(items), random)
                loss = task.loss(net, x, targets)[0]
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            trained = clock()
        task.measure(net, "train")
        measured = clock()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    weights = {}
    for regime in REGIMES:
        freeze(net, regime)
        weights[regime] = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    return {
        "seconds_per_item": (trained - began) / items,
        "seconds_to_measure": (measured - trained) / items,
        "saved_per_item": sum(n for place, n in saved.items() if place not in own) / items,
        "parameter_bytes": weights,
    }


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
    return store.key_of(closure([RunSpec.TASK, SegmentSpec.TASK]))
