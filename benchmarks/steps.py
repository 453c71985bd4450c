"""Part `steps`: whole training steps at the demo's setting, and the memory that they take."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import timing
from benchmarks.cases import Case, Scale
from benchmarks.goals import HALF, OURS
from benchmarks.inputs import demo_spec, fresh
from benchmarks.peers import ENGINES, Unsupported, hand_over, must_run
from i2p_lib.data import augment
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sparse import SparseTensor
from i2p_lib.train.classify import build_network
from i2p_lib.train.clouds import Splits, load_splits, logits_of, net_input
from i2p_lib.train.optimise import build_optimizer
from i2p_lib.train.task import generator

SECONDS = {"resnet18": 8.0, "resnet50": 16.0, "efficientnet_lite0": 5.0}
"""About the time of three rounds of all engines."""


def cases(device: torch.device, scale: Scale) -> Iterator[Case]:
    """Yield a case for each network."""
    for model in scale.networks:
        def measure(model: str = model) -> list[dict]:
            return measure_network(model, device, scale)
        yield Case(model, 3 * SECONDS[model], measure)


class Step:
    """A training step of one network on one batch, whose maps are there already."""

    def __init__(self, net: nn.Module, spec: RunSpec, x: SparseTensor, labels: torch.Tensor):
        self.net, self.spec, self.labels = net.train(), spec, labels
        self.x = x.to(torch.bfloat16) if spec.amp == "bf16" else x
        self.optimizer = build_optimizer(net, spec)

    def loss(self, x: SparseTensor) -> torch.Tensor:
        """Return the loss of the batch."""
        return cross_entropy(logits_of(self.net, x, self.spec), self.labels)

    def run(self, x: SparseTensor) -> None:
        """Train once on the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x).backward()
        self.optimizer.step()

    def __call__(self) -> list[float]:
        """Return the seconds of a step with the maps that are there."""
        start = timing.now(self.x.device)
        self.run(self.x)
        return [timing.now(self.x.device) - start]

    def memory(self) -> dict[str, int]:
        """Return the bytes of what is saved for the backward pass, and of the step's peak.

        The step builds its maps anew.  Parameters, gradients and the optimizer's state, which
        outlive it, do not count.
        """
        saved = timing.saved_bytes(lambda: self.loss(fresh(self.x)), self.net)
        self.optimizer.zero_grad(set_to_none=True)

        def step() -> None:
            self.loss(fresh(self.x)).backward()

        return {"saved_bytes": saved, "peak_bytes": timing.peak_bytes(step, self.x.device)}


def batch(spec: RunSpec, splits: Splits, device: torch.device) -> tuple[SparseTensor, torch.Tensor]:
    """Return an augmented batch of the training clouds as voxels, and its labels."""
    part = torch.randperm(len(splits.train), generator=generator(0, "epoch"))[: spec.batch_size]
    points = augment(splits.train.points[part], generator(0, "augment"), spec.augment)
    return net_input(nn.Identity(), points, spec), splits.train.labels[part].to(device)


def measure_network(model: str, device: torch.device, scale: Scale) -> list[dict]:
    """Return a row for each engine that can run the network, and one for each that cannot."""
    spec = demo_spec(model, batch_size=scale.batch)
    splits = load_splits(spec, device)
    x, labels = batch(spec, splits, device)
    net = build_network(spec, len(splits.class_names)).to(device)
    steps = {OURS: Step(net, spec, x, labels)}
    if timing.fast_bf16(device):
        steps[HALF] = Step(net, spec.but(amp="bf16"), x, labels)
    notes = {}
    for peer in ENGINES:
        try:
            must_run(peer, device)
            steps[peer] = Step(hand_over(copy.deepcopy(net), peer), spec, x, labels)
        except Unsupported as reason:
            notes[peer] = str(reason)
    _must_equal(steps)
    steps[OURS]()  # compiles
    seconds = timing.take_turns(steps, scale.budget * SECONDS[model], least=3, most=9)
    about = {"network": model, "batch": scale.batch, "voxels": len(x.sites)}
    rows = []
    for name, step in steps.items():
        rows.append(about | {
            "engine": name,
            "step_s": np.median(seconds[name]),
            "times_ours": timing.ratio(seconds[name][:, 0], seconds[OURS][:, 0]),
            "rounds": len(seconds[name]),
            **(step.memory() if name == OURS else {}),
            "note": "",
        })  # fmt: skip
    return rows + [about | {"engine": name, "note": note} for name, note in notes.items()]


def _must_equal(steps: dict[str, Step]) -> None:
    """Raise ValueError where an engine's network has another loss; all have the same weights."""
    with torch.no_grad():
        losses = {name: float(step.loss(step.x)) for name, step in steps.items()}
    for name, loss in losses.items():
        if abs(loss - losses[OURS]) > (0.05 if name == HALF else 1e-3) * losses[OURS]:
            raise ValueError(f"{name}: the loss is {loss}, ours is {losses[OURS]}")
