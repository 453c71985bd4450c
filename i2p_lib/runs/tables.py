"""Finished runs as tables: what the store holds of one run, and tidy frames of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import nn

from i2p_lib.runs import store
from i2p_lib.runs.spec import AnySpec, RunSpec
from i2p_lib.runs.store import Entry
from i2p_lib.train.settings import PROTOCOLS


@dataclass(frozen=True)
class RunResult:
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
        if not entry.done():
            raise FileNotFoundError(f"no finished run in {entry.folder}: call run(spec)")
        history = pd.read_csv(entry.folder / "history.csv")
        metrics = store.read_json(entry.folder / "metrics.json")
        return cls(entry.spec, entry.key, history, metrics, entry.folder)

    def probes(self) -> pd.DataFrame:
        """Return the probes: one row per epoch, split, layer and metric."""
        return pd.read_csv(self.folder / "probes.csv")

    def features(self) -> dict[str, np.ndarray]:
        """Return {train,test}_{features,logits} as float32 and {train,test}_labels as int64."""
        tensors = load_file(self.folder / "features.safetensors")
        return {k: (t if "labels" in k else t.float()).numpy() for k, t in tensors.items()}

    def confusion(self) -> pd.DataFrame:
        """Return a segmentation's counts of points: a row per label, a column per prediction."""
        counts = pd.read_csv(self.folder / "confusion.csv")
        return counts.set_axis(counts.columns, axis=0)

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
        store.load_learned(net, tensors, self.folder / "model.safetensors")
        return net.eval()


def protocols() -> pd.DataFrame:
    """Return what each protocol decides: one row per decision, one column per protocol."""
    return pd.DataFrame({name: asdict(rules) for name, rules in PROTOCOLS.items()})


def results(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run: its settings and its metrics; of no runs, the settings' columns."""
    if not runs:
        return pd.DataFrame(columns=[*RunSpec.model_fields, "key"])
    return pd.DataFrame([r.spec.row() | r.metrics | {"key": r.key[:16]} for r in runs])


def histories(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run and epoch: the run's settings beside its history."""
    return _joined([(r, r.history) for r in runs])


def probes(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run, epoch, split, layer and metric, beside the run's settings."""
    return _joined([(r, r.probes()) for r in runs])


def _joined(tables: Sequence[tuple[RunResult, pd.DataFrame]]) -> pd.DataFrame:
    parts = [table.assign(**_settings(r, table)) for r, table in tables]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _settings(result: RunResult, table: pd.DataFrame) -> dict:
    row = result.spec.row() | {"key": result.key[:16]}
    row["max_lr"] = row.pop("lr")
    return {name: value for name, value in row.items() if name not in table.columns}
