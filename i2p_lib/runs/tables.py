"""Runs as tables: what the store holds of one run, and tidy frames of many."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import nn

from i2p_lib.analysis.answers import Answered, Answers
from i2p_lib.data.registry import DatasetCard, cloud_names, dataset_card, know
from i2p_lib.data.scenes import SceneCard, scene_card
from i2p_lib.runs.needs import status
from i2p_lib.runs.spec import AnySpec, RunSpec
from i2p_lib.runs.store import Entry, load_learned, read_json
from i2p_lib.train.labelling import ReadsScenes
from i2p_lib.train.reading import Reads
from i2p_lib.train.segment import build_encoding


@dataclass(frozen=True)
class RunResult(Answered):
    """A finished run.  Accuracies are fractions in 0..1, times are seconds.

    history: one row per epoch.  metrics: one number per name.  folder: where its files lie.
    """

    spec: AnySpec
    key: str
    history: pd.DataFrame
    metrics: dict[str, float]
    folder: Path

    @classmethod
    def load(cls, entry: Entry) -> RunResult:
        """Read a finished run; raises DamagedRun where its files are not as they were written."""
        if not entry.done(every_byte=True):
            raise FileNotFoundError(f"no finished run in {entry.folder}: call run(spec)")
        history = pd.read_csv(entry.folder / "history.csv")
        metrics = read_json(entry.folder / "metrics.json")
        return cls(entry.spec, entry.key, history, metrics, entry.folder)

    @classmethod
    def at(cls, folder: str | Path) -> RunResult:
        """Open the finished run of a folder, whatever trained it and whatever changed since.

        Raises FileNotFoundError where there is none, DamagedRun where its files were changed.
        """
        result = cls.load(Entry.found(folder))
        kind = DatasetCard if isinstance(result.spec, RunSpec) else SceneCard
        know(kind.model_validate_json(json.dumps(result.about["card"])))
        return result

    @cached_property
    def about(self) -> dict[str, Any]:
        """What state.json says: machine, versions, dates, classes, card of the data."""
        return read_json(self.folder / "state.json")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return tuple(self.about["class_names"])

    @cached_property
    def net(self) -> nn.Module:
        """The trained network on the CPU, in eval mode; `predict` takes it."""
        net = self.network()
        if isinstance(self.spec, RunSpec):
            card = dataset_card(self.spec.data)
            net.i2p_reads = Reads(card, self.spec, self.class_names, self.spec.points)
        else:
            card, encoding = scene_card(self.spec.scenes), build_encoding(self.spec)
            net.i2p_reads = ReadsScenes(encoding, card, self.class_names)
        return net

    @cached_property
    def answers(self) -> Answers:
        """Return what the network said of the test clouds when the run was finished."""
        kept = self.features()
        if "test_logits" not in kept:
            raise ValueError(f"{self.spec.label()}: this run has not read the test split")
        names = cloud_names(self.spec.data, "test")
        return Answers(kept["test_logits"], kept["test_labels"], self.class_names,
                       names if len(names) == len(kept["test_labels"]) else ())  # fmt: skip

    def probes(self) -> pd.DataFrame:
        """Return the probes: one row per epoch, split, layer and metric."""
        return pd.read_csv(self.folder / "probes.csv")

    def features(self) -> dict[str, np.ndarray]:
        """Return {train,test}_{features,logits} as float32 and {train,test}_labels as int64."""
        tensors = load_file(self.folder / "features.safetensors")
        return {k: (t if "labels" in k else t.float()).numpy() for k, t in tensors.items()}

    def confusion(self) -> pd.DataFrame:
        """Return counts of test clouds (or points): a row per label, a column per answer."""
        if isinstance(self.spec, RunSpec):
            return super().confusion()
        counts = pd.read_csv(self.folder / "confusion.csv")
        return counts.set_axis(counts.columns, axis=0)

    def confusions(self) -> np.ndarray:
        """Return a segmentation's counts of each test scene, [scenes, labels, predictions]."""
        return load_file(self.folder / "confusions.safetensors")["counts"].numpy()

    def scenes(self) -> dict[str, dict[str, np.ndarray]]:
        """Return a few segmented scenes: name -> points [P, 3], labels and predictions [P]."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for key, tensor in load_file(self.folder / "scenes.safetensors").items():
            name, _, what = key.rpartition("/")
            found.setdefault(name, {})[what] = tensor.numpy()
        return found

    def network(self) -> nn.Module:
        """Rebuild the trained network on the CPU, in eval mode."""
        tensors = load_file(self.folder / "model.safetensors")
        net = self.spec.module.build_network(self.spec, self.metrics["classes"])
        load_learned(net, tensors, self.folder / "model.safetensors")
        return net.eval()


def load_run(folder: str | Path) -> RunResult:
    """Return the finished run of a folder: one of yours, or one of the book's; see `RunResult.at`.

    >>> i2p.load_run("runs/mine").confusion()  # doctest: +SKIP
    """
    return RunResult.at(folder)


def results(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run: its settings and its metrics; of no runs, the settings' columns."""
    if not runs:
        return pd.DataFrame(columns=[*RunSpec.model_fields, "key"])
    return pd.DataFrame([r.spec.row() | r.metrics | {"key": r.key[:16]} for r in runs])


def joined(
    runs: Sequence[RunResult], table_of: Callable[[RunResult], pd.DataFrame]
) -> pd.DataFrame:
    """Return a table of each run below each other, with what it lacks of the run's settings."""
    parts = []
    for run in runs:
        table, row = table_of(run), run.spec.row() | {"key": run.key[:16]}
        row["max_lr"] = row.pop("lr")
        parts.append(table.assign(**{n: v for n, v in row.items() if n not in table.columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def finished(specs: Sequence[AnySpec]) -> pd.DataFrame:
    """Return `results` of the runs that are done, and on what, with what and when they ended."""
    states = status(specs)["state"]
    entries = [Entry.of(spec) for spec, state in zip(specs, states, strict=True) if state == "done"]
    about = [entry.state() for entry in entries]
    return results([RunResult.load(entry) for entry in entries]).assign(
        hardware=[_hardware(state) for state in about],
        backend=[state.get("backend", "torch") for state in about],
        torch=[state["versions"]["torch"] for state in about],
        finished=[state["finished"][:10] for state in about],
    )


def _hardware(state: dict) -> str:
    """Return what a run was trained on, as its record says; older records say less."""
    machine, processes = state["machine"], state.get("processes", 1)
    name = machine.get("gpu" if state["device"] == "cuda" else "processor") or state["device"]
    together = "" if processes == 1 else f"{processes} processes, the first on "
    return f"{together}{name}, {machine['cores']} cores"
