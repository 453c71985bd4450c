"""Part `pipeline`: what comes before a step, its share of the step, and a whole epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks import timing
from benchmarks.cases import Case, Scale
from benchmarks.goals import INPUT_STAGES
from benchmarks.inputs import demo_spec, fresh
from benchmarks.steps import SECONDS, Step, batch
from i2p_lib.data import augment
from i2p_lib.runs.execute import begin
from i2p_lib.sparse import Sites, SparseConv3d, SparseTensor
from i2p_lib.train.classify import build_network
from i2p_lib.train.clouds import load_splits, net_input
from i2p_lib.train.loop import train
from i2p_lib.train.task import generator

OWN = "efficientnet_lite0"  # the demo's own network
NARROW = 16  # channels of the layers that ask for maps


def cases(device: torch.device, scale: Scale) -> Iterator[Case]:
    """Yield the stages of each network's step, then the epochs."""
    for model in scale.networks:
        def stages(model: str = model) -> list[dict]:
            return measure_stages(model, device, scale)
        yield Case(f"stages of {model}", SECONDS[model], stages)
    for amp in ("off", "bf16"):
        if amp == "off" or timing.fast_bf16(device):
            def epoch(amp: str = amp) -> list[dict]:
                return [measure_epoch(OWN, amp, device, scale)]
            yield Case(f"epoch of {OWN}, amp {amp}", 2 * SECONDS[OWN], epoch)


def measure_stages(model: str, device: torch.device, scale: Scale) -> list[dict]:
    """Return the seconds of each stage of a step; they take turns with the step itself."""
    spec = demo_spec(model, batch_size=scale.batch)
    splits = load_splits(spec, device)
    x, labels = batch(spec, splits, device)
    net = build_network(spec, len(splits.class_names)).to(device)
    points = splits.train.points[: scale.batch]
    random = generator(0, "augment")
    asking = MapsOnly(net, x)
    step = Step(net, spec, x, labels)
    step()  # compiles
    seconds = timing.take_turns({
        "step": step,
        "augmentation": timing.timed(lambda: augment(points, random, spec.augment), device),
        "voxelisation": timing.timed(lambda: net_input(net, points, spec), device),
        "fresh": asking.contender(renewed=True),
        "warm": asking.contender(renewed=False),
    }, scale.budget * SECONDS[model] / 2, least=3, most=15)  # fmt: skip
    seconds["maps"] = seconds["fresh"] - seconds["warm"]
    whole = sum(seconds[name] for name in (*INPUT_STAGES, "step"))
    about = {"network": model, "amp": "off", "batch": scale.batch, "voxels": len(x.sites)}
    return [about | {"stage": name, "seconds": np.median(seconds[name]),
                     "share": timing.ratio(seconds[name][:, 0], whole[:, 0]),
                     "rounds": len(whole)}
            for name in (*INPUT_STAGES, "step")]  # fmt: skip


class MapsOnly:
    """Narrow layers that ask for the same maps, in the same forms, as a network's layers.

    The time of both passes over a batch without maps, less that of a batch with them, is the cost
    of the maps and of everything that the layers derive from them.
    """

    def __init__(self, net: nn.Module, x: SparseTensor):
        self.x, self.layers = x, {}
        handles = [layer.register_forward_hook(self._note) for layer in net.modules()
                   if isinstance(layer, SparseConv3d) and max(*layer.kernel_size, layer.stride) > 1]
        with torch.no_grad():
            net(x)
        for handle in handles:
            handle.remove()

    def _note(self, layer: SparseConv3d, inputs: tuple[SparseTensor], _) -> None:
        groups = NARROW if layer.depthwise else 1
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups)
        key = (inputs[0].stride, *geometry)
        if key not in self.layers:
            made = SparseConv3d(NARROW, NARROW, *geometry, bias=False,
                                generator=torch.Generator().manual_seed(0))
            self.layers[key] = made.to(inputs[0].device)

    def contender(self, renewed: bool) -> timing.Contender:
        """Return both passes over all layers, on new sites each time or on the same ones."""
        device = self.x.device
        same = self._features(self.x)

        def call() -> list[float]:
            x = self._features(fresh(self.x)) if renewed else same
            began = timing.now(device)
            for (stride, *_), layer in self.layers.items():
                layer(x(stride)).feats.sum().backward()
            return [timing.now(device) - began]

        return call

    @staticmethod
    def _features(x: SparseTensor):
        """Return what makes the input of a level: zeros, made once for as many rows."""
        known: dict[int, torch.Tensor] = {}

        def level(stride: int) -> SparseTensor:
            sites: Sites = x.sites if stride == 1 else x.sites.downsample(stride)
            if stride not in known:
                known[stride] = x.feats.new_zeros(len(sites), NARROW).requires_grad_()
            return SparseTensor(known[stride], sites)

        return level


def measure_epoch(model: str, amp: str, device: torch.device, scale: Scale) -> dict:
    """Return the row of one epoch of the demo, its validation included."""
    limit = None if scale.batch == Scale.batch else 2 * scale.batch
    spec = demo_spec(model, amp=amp, epochs=1, batch_size=scale.batch, train_limit=limit,
                     test_limit=limit)
    state = begin(spec, device)
    began = timing.now(device)
    train(state)
    seconds = timing.now(device) - began
    clouds = sum(len(state.task.splits[name]) for name in ("train", "val"))
    return {
        "network": model, "amp": amp, "batch": scale.batch,
        "voxels": round(scale.batch * state.history[-1]["voxels"]), "stage": "epoch",
        "seconds": seconds, "clouds": clouds, "rounds": 1,
    }  # fmt: skip
