"""What a run will cost: one measured training step, times clouds and epochs, checked by past runs.

A step is measured on this machine's device with random weights, on clouds of the run's own data
or, where those are absent, of the embedded objects.  It is kept in the store, so a setup is
measured once.  Ratios of past runs to their steps calibrate the estimate and give its error.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.data import dataset_card, dataset_root, load_dataset
from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.machine import cpu_name, gpu_names
from i2p_lib.runs import store
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.runs.segment_spec import SegmentSpec
from i2p_lib.runs.sources import closure
from i2p_lib.runs.spec import AnySpec, RunSpec
from i2p_lib.train.loop import build_network, logits_of, net_input

STAND_IN = "home_objects"
CPU_CLOUDS = 2  # a CPU's time grows with the clouds; a GPU is measured with the run's own batch
CHECKED_SETUPS = 3
STEP_FIELDS = ("model", "recipe", "voxel_size", "points")
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
        """Return what a run will cost; ValueError where its network is unknown."""
        if isinstance(spec, SegmentSpec):
            return self._cost_of_scenes(spec)
        step = self._step(spec)
        held, batch = _held(step, spec), step["saved_per_cloud"] * spec.batch_size
        forward = step["seconds_per_cloud"] * clouds_measured(spec) / 3
        seconds = self.factor * (_step_seconds(step, spec) * clouds_trained(spec) + forward)
        return Cost(seconds, (held + batch) / 2**30)

    def _cost_of_scenes(self, spec: SegmentSpec) -> Cost:
        """Rests on one measured scene, which no finished run calibrates."""
        from i2p_lib.runs import segment_cost as cost

        counts = cost.scene_counts(spec)
        step = self._measured(
            cost.setup_of(spec), lambda setup: cost.measure_scene(spec, torch.device(self.device))
        )
        gib = (_held(step, spec) + step["saved_per_scene"] * spec.batch_size) / 2**30
        return Cost(cost.seconds_of(spec, counts, step), gib)

    def _step(self, spec: RunSpec) -> dict:
        setup = {name: getattr(spec, name) for name in STEP_FIELDS}
        setup["data"] = spec.data if _present(spec.data) else STAND_IN
        setup["clouds"] = CPU_CLOUDS if self.device == "cpu" else spec.batch_size
        return self._measured(
            setup, lambda setup: measure_step(spec, setup, torch.device(self.device))
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
        groups = defaultdict(list)
        for spec, seconds in _finished(self.root, self.device):
            groups[tuple(getattr(spec, name) for name in STEP_FIELDS)].append((spec, seconds))
        ratios = []
        for runs in list(groups.values())[:CHECKED_SETUPS]:
            for spec, seconds in runs:
                step = self._step(spec)
                ratios.append(seconds / (_step_seconds(step, spec) * clouds_trained(spec)))
        if ratios:
            self.factor = statistics.median(ratios)
            self.low, self.high, self.checked = min(ratios), max(ratios), len(ratios)


def _held(step: dict, spec: AnySpec) -> int:
    """Return the bytes of weights, gradients and the optimizer's tensors."""
    slots = 2 + (spec.optimizer == "adamw")  # gradient, momentum, AdamW's second moment
    return step["parameter_bytes"]["all"] + slots * step["parameter_bytes"][spec.regime]


def clouds_trained(spec: RunSpec) -> int:
    """Return how many clouds a run passes forward and backward."""
    n_train, _ = _sizes(spec)
    return spec.epochs * n_train


def clouds_measured(spec: RunSpec) -> int:
    """Return how many clouds a run passes forward alone: to validate, and through its teacher."""
    n_train, n_measured = _sizes(spec)
    answers = n_train if spec.teacher is not None else 0
    every = 1 if spec.shots is not None and spec.rules.validate_on == "val" else spec.epochs
    return spec.epochs * answers + every * n_measured


def _step_seconds(step: dict, spec: RunSpec) -> float:
    """Return the seconds of a trained cloud; where layers are frozen, their share is less."""
    return step["seconds_per_cloud"] * (1 if spec.regime == "all" else FROZEN_SHARE)


def _sizes(spec: RunSpec) -> tuple[int, int]:
    """Return the clouds that a run trains on and those that it validates on."""
    sizes, classes = _counts(spec.data)
    n_train = sizes[spec.rules.train_on] if spec.shots is None else spec.shots * classes
    limit = spec.train_limit or n_train
    n_measured = sizes[spec.rules.validate_on]
    return min(n_train, limit), min(n_measured, spec.test_limit or n_measured)


@lru_cache(maxsize=16)
def _counts(data: str) -> tuple[dict[str, int], int]:
    """Return the clouds of each split, from the files or else from the card, and the classes."""
    if _present(data):
        parts = {name: load_dataset(data, name) for name in ("train", "val", "trainval", "test")}
        return {n: len(part.labels) for n, part in parts.items()}, len(parts["train"].class_names)
    card = dataset_card(data)
    whole = card.splits["train"] + card.splits["val"]
    val = card.splits["val"] or whole // 10
    sizes = {"train": whole - val, "val": val, "trainval": whole, "test": card.splits["test"]}
    return sizes, card.classes


def _present(data: str) -> bool:
    return dataset_root(data).is_dir()


def measure_step(spec: RunSpec, setup: dict, device: torch.device) -> dict:
    """Train one batch of `setup["clouds"]` clouds twice; return the second pass' cost.

    seconds_per_cloud (all layers trained), saved_per_cloud (bytes of activations), and
    parameter_bytes of what each regime trains.
    """
    data = load_dataset(setup["data"], "train")
    points = torch.tensor(data.points[: setup["clouds"], : spec.points]).to(device)
    changes = {"teacher": None, "distill": None, "temperature": None, "regime": "all"}
    plain = spec.but(weights="random", **changes)
    net = build_network(plain, _counts(spec.data)[1]).to(device).train()

    def loss() -> Tensor:
        return logits_of(net, net_input(net, points, plain, device), plain).logsumexp(1).sum()

    timed_pass(net, loss, device)  # the first pass compiles and warms up
    seconds, saved = timed_pass(net, loss, device)
    return {
        "seconds_per_cloud": seconds / len(points),
        "saved_per_cloud": saved / len(points),
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


def _finished(root: Path, device: str) -> list[tuple[RunSpec, float]]:
    """Return (spec, seconds of training) of the store's finished runs on a device, newest first."""
    found = []
    for folder, parts in store.stored_runs(root):
        state = store.read_json(folder / "state.json") or {}
        if state.get("state") != "done" or state.get("device") != device:
            continue
        if state.get("processes", 1) > 1:  # its seconds are those of several
            continue
        try:
            spec = RunSpec(**json.loads(parts["spec"]))
        except ValueError:
            continue  # a run of an older version, whose settings are no longer known
        metrics = store.read_json(folder / "metrics.json")
        found.append((state["finished"], spec, metrics["seconds_training"]))
    found.sort(key=lambda item: item[0], reverse=True)
    return [(spec, seconds) for _, spec, seconds in found if _present(spec.data)]


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a hash of the sources that decide how long a step takes."""
    parts = closure(["i2p_lib.train.loop", "i2p_lib.train.segment"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
