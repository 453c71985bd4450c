"""What a run will cost: one measured training step, times items and epochs, checked by past runs.

A step is measured on this machine's device with random weights, on items of the run's own data
or, where those are absent, on stand-ins.  It is kept in the store, so a setup is
measured once.  Ratios of past runs to their steps calibrate the estimate and give its error.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from i2p_lib.data import dataset_card, load_dataset
from i2p_lib.data.modelnet import SPLITS
from i2p_lib.data.scenes import Scene, load_scenes, scene_card, scene_names
from i2p_lib.files import note
from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.machine import cpu_name, gpu_names
from i2p_lib.runs import store
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.runs.spec import OWN, AnySpec, RunSpec, SegmentSpec, spec_from
from i2p_lib.sources import closure
from i2p_lib.train.segment import Segment, build_encoding
from i2p_lib.train.task import Task, generator

CHECKED_SETUPS = 3
# A pass is a third forward, a third for the gradients of activations, a third for those of weights.
FROZEN_SHARE = 2 / 3
STEPS = "steps.json"
SETUP = ("data", "scenes", "model", "recipe", "protocol", "voxel_size", "points", "amp",
         *sum(OWN.values(), ()))  # fmt: skip
"""The settings that the time of a step depends on."""

STAND_IN = "home_objects"  # for clouds that are not here


class Cost(NamedTuple):
    """seconds: training and validation of the whole run.  gib: memory of one process.

    Memory counts weights, gradients, the optimizer's tensors and the activations that a batch
    saves; buffers that come and go are not in it.
    """

    seconds: float
    gib: float


@dataclass
class CostModel:
    """Estimates for one device.  ratios: what past runs took, over what their steps said."""

    device: str
    root: Path
    ratios: list[float] = field(default_factory=list)
    _steps: dict[str, dict] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, device: str, root: str | Path | None = None, calibrate: bool = True) -> CostModel:
        """Open the model of a device ("cpu", "cuda" or "auto"), checked against the store."""
        model = cls(resolve_device(device), store.store_root(root))
        with suppress(ValueError, TypeError, AttributeError):  # what is damaged is measured again
            kept = store.read_json(model.root / STEPS) or {}
            model._steps |= {key: step for key, step in kept.items() if "parameter_bytes" in step}
        if calibrate:
            model._calibrate()
        return model

    @property
    def factor(self) -> float:
        """What estimates are multiplied by."""
        return statistics.median(self.ratios or [1.0])

    def machine(self) -> str:
        """Return the name of the processor or GPU that the estimates are for."""
        return gpu_names()[0] if self.device == "cuda" else f"{cpu_name()} (one free core, no GPU)"

    def error(self) -> str:
        """Say in one sentence how far the estimates may be off."""
        if not self.ratios:
            return ("no finished run in the store to check against; it rests on one measured step "
                    "of each network, so take it as an order of magnitude")
        low, high = min(self.ratios), max(self.ratios)
        return (f"{len(self.ratios)} finished runs took {self.factor:.2f} times what their steps "
                f"said ({low:.2f} to {high:.2f}), and the estimates are multiplied by that")

    def cost(self, spec: AnySpec) -> Cost:
        """Return what a run will cost; NaN where its network or its size is unknown."""
        try:
            step, training = self._step(spec), sizes(spec)["train"]
        except ValueError:
            return Cost(math.nan, math.nan)
        answers = training * spec.epochs if spec.teacher is not None else 0
        forward = step["seconds_to_measure"] * (items_measured(spec) + answers)
        seconds = self.factor * (_training_seconds(step, spec) + forward)
        weights, slots = step["parameter_bytes"], 3 if spec.optimizer == "adamw" else 2
        held = weights["all"] + slots * weights[spec.regime]  # gradients, one or two moments
        return Cost(seconds, (held + step["saved_per_item"] * spec.batch_size) / 2**30)

    def _step(self, spec: AnySpec) -> dict:
        """Return what a step of a run's setup costs on this machine, measured now or before."""
        most = spec.batch_size if self.device == "cuda" else 2  # a CPU's time grows with them
        plain = simplified(spec, min(most, spec.batch_size))
        about = {"spec": plain.key_fields(), "here": bool(_counted(spec.on)),
                 "machine": self.machine(), "torch": torch.__version__,
                 "code": store.key_of(closure([RunSpec.TASK, SegmentSpec.TASK]))}  # fmt: skip
        key = store.key_of(about)[:16]
        if key not in self._steps:
            self._steps[key] = about | measure_step(plain, torch.device(self.device))
            store.write_json(self.root / STEPS, self._steps)
        return self._steps[key]

    def _calibrate(self) -> None:
        """Compare the newest finished runs of this device, of a few setups, with their steps."""
        done, setups = [], []
        for folder, parts in store.stored_runs(self.root):
            try:
                state = store.read_json(folder / "state.json") or {}
                about = state.get("state"), state.get("device"), state.get("processes", 1)
                if about == ("done", self.device, 1):  # seconds of several tell nothing of one
                    seconds = store.read_json(folder / "metrics.json")["seconds_training"]
                    done.append((str(state["finished"]), str(folder), parts["spec"], seconds))
            except (store.DamagedRun, KeyError, TypeError) as error:
                note(f"not in the forecast: {folder.name}: {error}")
        for _, folder, text, seconds in sorted(done, reverse=True):
            with suppress(ValueError, TypeError):  # settings or data that are no longer known here
                spec = spec_from(json.loads(text), folder)
                plain = simplified(spec, 2)
                if sizes(spec) and plain not in setups and len(setups) < CHECKED_SETUPS:
                    setups.append(plain)
                if plain in setups:
                    self.ratios.append(seconds / _training_seconds(self._step(spec), spec))


def _training_seconds(step: dict, spec: AnySpec) -> float:
    """Return the seconds of all training steps; where layers are frozen, an item's are less."""
    share = 1 if spec.regime == "all" else FROZEN_SHARE
    return step["seconds_per_item"] * share * spec.epochs * sizes(spec)["train"]


def simplified(spec: AnySpec, items: int) -> AnySpec:
    """Return a run with the same step on so many items, whose random weights all train."""
    kept = {name: value for name, value in spec if name in SETUP}
    return type(spec)(**kept, weights="random", augment="none",
                      batch_size=items, train_limit=items, test_limit=1)  # fmt: skip


def _counted(data: str) -> dict[str, int]:
    """Return how many clouds or scenes each split of the files has; {} where they are not here."""
    scenes = data in scene_names()
    try:
        found = {name: len(load_scenes(data, name) if scenes else load_dataset(data, name).labels)
                 for name in SPLITS}  # fmt: skip
    except FileNotFoundError:
        return {}
    return found if found["train"] else {}


def sizes(spec: AnySpec) -> dict[str, int]:
    """Return how many clouds or scenes a run trains on, validates on and is tested on.

    Of data that are not here, the published numbers; ValueError where there are none.
    """
    if not (files := _counted(data := spec.on)):
        scenes = data in scene_names()
        known = scene_card(data).sizes if scenes else dataset_card(data).splits
        if not known:
            raise ValueError(f"{data} is not here, so its size is not known")
        whole = known["train"] + known["val"]
        val = known["val"] or whole // 10
        files = known | {"trainval": whole, "train": whole - val, "val": val}
    limits = {"train": spec.train_limit, "val": spec.test_limit, "test": spec.test_limit}
    splits = spec.rules.splits().items()
    used = {name: min(files[file], limits[name] or files[file]) for name, file in splits}
    if shots := getattr(spec, "shots", None):
        used["train"] = shots * dataset_card(data).classes
    return {"test": 0} | used


def _example(spec: AnySpec, device: torch.device) -> Task:
    """Return the task of a run on items of its data or, where those are not here, on others."""
    here = bool(_counted(spec.on))
    if spec.on not in scene_names():
        card = dataset_card(spec.on if here else STAND_IN)
        spec = spec.but(data=card.name, points=min(spec.points, card.points))
    elif not here:
        scenes, names = [stand_in(spec.on)] * spec.batch_size, scene_card(spec.on).class_names
        return Segment(spec, {"train": scenes}, names, build_encoding(spec), None, device)
    return spec.module.task_of(spec, device)


def stand_in(name: str) -> Scene:
    """Return a scene of about the extent of those of a set that is not here, to time a step on.

    The six faces of a box or, around a sensor, ground whose density falls with the distance.
    """
    card, random = scene_card(name), np.random.default_rng(0)
    count = card.typical_points
    if card.around_sensor:
        points = random.normal((0, 0, -1.7), (15, 15, 0.05), (count, 3))
    else:
        points = random.uniform(-1, 1, (count, 3))
        points *= np.array((3.5, 3.0, 1.5)) / np.abs(points).max(1, keepdims=True)
    features = random.uniform(0, 1, (count, len(card.feature_names)))
    labels = random.integers(0, len(card.class_names), count)
    return Scene("stand-in", *(a.astype(np.float32) for a in (points, features)), labels)


def items_measured(spec: AnySpec) -> int:
    """Return how many clouds or scenes a run passes forward alone, to validate and to test."""
    count = sizes(spec)
    epochs = sum(spec.validated(epoch) for epoch in range(1, spec.epochs + 1))
    return epochs * count["val"] + count["test"]


def measure_step(spec: AnySpec, device: torch.device) -> dict:
    """Train one batch of a `simplified` run twice; return the second pass' cost.

    seconds_per_item (all layers trained), seconds_to_measure (forward alone), saved_per_item
    (bytes of activations), and parameter_bytes of what each regime trains.
    On a CPU the processor's own time is taken, so that other programs do not count.
    """
    task = _example(spec, device)
    items = len(task.splits["train"])
    net = spec.module.build_network(spec, len(task.class_names)).to(device).train()
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
                loss, *_ = task.loss(net, x, targets)
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
