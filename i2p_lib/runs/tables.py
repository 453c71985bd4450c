"""Runs as tables: what the store holds of one run, tidy frames of many, and their states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import nn

from i2p_lib.analysis.methods import method_label
from i2p_lib.analysis.segmentation import class_iou
from i2p_lib.runs.needs import missing_inputs, reason
from i2p_lib.runs.spec import AnySpec, RunSpec
from i2p_lib.runs.store import DamagedRun, Entry, last_line, load_learned, read_json, stored_runs
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
        metrics = read_json(entry.folder / "metrics.json")
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
        load_learned(net, tensors, self.folder / "model.safetensors")
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
    return _joined(runs, lambda run: run.history)


def probes(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per run, epoch, split, layer and metric, beside the run's settings."""
    return _joined(runs, RunResult.probes)


def _joined(
    runs: Sequence[RunResult], table_of: Callable[[RunResult], pd.DataFrame]
) -> pd.DataFrame:
    """Return the runs' tables below each other, with what the table itself lacks of settings."""
    parts = []
    for run in runs:
        table, row = table_of(run), run.spec.row() | {"key": run.key[:16]}
        row["max_lr"] = row.pop("lr")
        parts.append(table.assign(**{n: v for n, v in row.items() if n not in table.columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def class_table(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row per segmentation run and class: settings, method, class, iou and points.

    iou is NaN for a class that no point of the measured scenes has; points counts its points.
    """
    about, parts = ["scenes", "model", "weights", "seed"], []
    for run in runs:
        counts = run.confusion()
        values = {"class": counts.columns, "iou": class_iou(counts.to_numpy()),
                  "points": counts.sum(axis=1).to_numpy()}  # fmt: skip
        row = {name: getattr(run.spec, name) for name in about}
        row["method"] = method_label(run.spec.weights, run.spec.regime)
        parts.append(pd.DataFrame(row | values))
    empty = pd.DataFrame(columns=[*about, "method", "class", "iou", "points"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def status(specs: Sequence[AnySpec], store: str | Path | None = None) -> pd.DataFrame:
    """Return one row per spec: run, state (done, running, failed, stale or missing), why, key.

    A run whose data or weights are not on this machine is missing; why says how to get them.
    """
    found = sorted(stored_runs(store), key=lambda item: item[0].stat().st_mtime)
    older = {parts["spec"]: parts for _, parts in found}  # the newest of each spec
    rows = []
    for spec in specs:
        if needs := missing_inputs(spec):
            key, state, why = "", "missing", reason(needs)
        else:
            entry = Entry.of(spec, store)
            key, (state, why) = entry.key[:16], _state_of(entry, older)
        rows.append({"run": spec.label(), "state": state, "why": why, "key": key})
    return pd.DataFrame(rows, columns=["run", "state", "why", "key"])


def _state_of(entry: Entry, older: dict[str, dict[str, str]]) -> tuple[str, str]:
    try:
        if entry.done():
            return "done", ""
    except DamagedRun as error:
        return "failed", str(error)
    if entry.locked():
        return "running", ""
    state = entry.state()
    if state.get("state") == "failed":
        return "failed", last_line(state["traceback"])
    if state:
        return "missing", "interrupted; goes on from its checkpoint where there is one"
    before = older.get(entry.parts["spec"])
    if before is None:
        return "missing", "never run"
    return "stale", f"changed since: {entry.changed(before)}"


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
