"""Finished runs, opened: what their networks compute of clouds, and of pictures before them.

One way in: `each_run` opens runs side by side and gives each of them, as an `Opened`, to a
function that sends clouds through its networks.  What comes out is measured in `analysis`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from i2p_lib.analysis.methods import method_label
from i2p_lib.analysis.taps import stage_names, taps
from i2p_lib.runs.execute import one_thread, resolve_device
from i2p_lib.runs.spec import RunSpec
from i2p_lib.runs.tables import RunResult
from i2p_lib.sparse import SparseTensor
from i2p_lib.train import clouds
from i2p_lib.train.loop import batches
from i2p_lib.weights import image_model

WORKERS = 2  # runs looked at side by side, each on one thread
_BUILDING = threading.Lock()  # random networks are drawn from torch's one global generator
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Opened:
    """A finished run on a device: its clouds, and its networks in eval mode, from any thread."""

    result: RunResult
    place: torch.device

    @property
    def spec(self) -> RunSpec:
        """The settings of the run."""
        return self.result.spec

    @cached_property
    def splits(self) -> clouds.Splits:
        """The clouds of the run, on the device."""
        return clouds.load_splits(self.spec, self.place)

    def network(self, trained: bool = True) -> nn.Module:
        """Return the run's network after training, or before it."""
        with _BUILDING:
            if trained:
                return self.result.network().to(self.place)
            net = self.spec.module.build_network(self.spec, self.result.metrics["classes"])
        return net.eval().to(self.place)

    def image_network(self) -> nn.Module:
        """Return the image network that the run's network was inflated from.

        Its weights lie in memory channels last, which a CPU convolves faster.
        """
        with _BUILDING:
            spec = self.spec
            model = image_model(spec.model, spec.weights, spec.seed,
                                weights_except=spec.weights_except)
        return model.eval().to(self.place, memory_format=torch.channels_last)

    def inputs(self, net: nn.Module, points: torch.Tensor) -> Iterator[SparseTensor]:
        """Yield clouds [N, P, 3] as the network takes them, a batch at a time."""
        for part in batches(torch.arange(len(points)), self.spec.batch_size):
            yield clouds.net_input(net, points[part], self.spec)

    def precision(self) -> torch.autocast:
        """Compute in the block as the run did."""
        return torch.autocast(self.place.type, torch.bfloat16, enabled=self.spec.amp == "bf16")

    def layers(
        self, net: nn.Module, split: clouds.Split
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return ({layer: [N, C]}, logits [N, K]) of clouds: the stages, then the penultimate."""
        with taps(net, stage_names(net)) as seen:
            logits = clouds.evaluate(net, split.points, self.spec).numpy()
        return {name: torch.cat(parts).numpy() for name, parts in seen.items()}, logits

    def about(self) -> dict:
        """Return the columns that name the run in a table."""
        names = ("model", "weights", "regime", "seed")
        return {"key": self.result.key[:16],
                "method": method_label(self.spec.weights, self.spec.regime),
                "whole": self.result.metrics["top1"],
                **{name: getattr(self.spec, name) for name in names}}


def each_run(
    found: Sequence[RunResult], work: Callable[[Opened], _Found], device: str = "cpu"
) -> list[_Found]:
    """Return `work` of each run, in their order; some run side by side, each on one thread."""
    place = torch.device(resolve_device(device))
    with one_thread(), ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda result: work(Opened(result, place)), found))


def run_rows(
    found: Sequence[RunResult], work: Callable[[Opened], list[dict]], device: str
) -> pd.DataFrame:
    """Return the rows that `work` gives of each run as one table, each beside its run's name."""
    parts = each_run(found, lambda run: [run.about() | row for row in work(run)], device)
    return pd.DataFrame([row for part in parts for row in part])
