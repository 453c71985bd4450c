"""Training each run once: find it in the store by its key, or train it, alone or many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from i2p_lib.data import load_dataset
from i2p_lib.runs import pool
from i2p_lib.runs.execute import last_line, mark_failed, resolve_device, train_entry
from i2p_lib.runs.spec import RunSpec
from i2p_lib.runs.store import DamagedRun, Entry, stored_runs
from i2p_lib.runs.tables import RunResult
from i2p_lib.runs.train import Hook, State


class RunError(RuntimeError):
    """Some runs failed; the others are stored.  `failures` is [(spec, traceback text)]."""

    def __init__(self, failures: list[tuple[RunSpec, str]], total: int) -> None:
        self.failures = failures
        lines = [f"{len(failures)} of {total} runs failed (the others are stored):"]
        for spec, text in failures:
            lines.append(f"- {spec.label()}\n    {last_line(text)}")
        super().__init__("\n".join(lines))


def run(
    spec: RunSpec,
    store: str | Path | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> RunResult:
    """Return the result of a spec: found in the store, or trained here and stored.

    store: folder of the runs (default $I2P_RUNS, else `_runs` in the project).
    device: "cpu", "cuda" or "auto"; not part of the key, since it does not describe the run.
    An interrupted run goes on from its checkpoint and ends as if it had never stopped.
    Raises DamagedRun where the stored files were changed.
    """
    entry = Entry.of(spec, store)
    if not entry.done():
        with _bar(spec.epochs, progress) as bar:
            train_entry(entry, device, [_epoch_bar(bar)])
    return RunResult.load(entry)


def run_all(
    specs: Sequence[RunSpec],
    workers: int | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> list[RunResult]:
    """Return the results of many specs, in their order; what is missing trains in parallel.

    Equal specs train once.  Each run uses one thread in its own process, so its numbers do not
    depend on `workers` (default: one per core, at most four where a GPU is used).
    One failed run does not stop the others: RunError lists the failures at the end.
    """
    entries = [Entry.of(spec, store) for spec in specs]
    train_missing(entries, workers, progress, device)
    return [RunResult.load(entry) for entry in entries]


def train_missing(
    entries: Sequence[Entry], workers: int | None, progress: bool, device: str
) -> int:
    """Train what is not in the store, longest first; return how many runs that were."""
    unique = {entry.key: entry for entry in entries}
    missing = {key: entry for key, entry in unique.items() if not entry.done()}
    if not missing:
        return 0
    device = resolve_device(device)
    cost = {key: _cost(entry.spec) for key, entry in missing.items()}
    order = sorted(missing, key=lambda key: -cost[key])
    most = pool.cores() if device == "cpu" else min(4, pool.cores())
    jobs = [_job(missing[key], device) for key in order]
    failures: list[tuple[RunSpec, str]] = []
    ended = 0
    with _bar(sum(cost.values()), progress) as bar:
        done = dict.fromkeys(missing, 0)

        def advance(key: str, epoch: int) -> None:
            reached = cost[key] * epoch // missing[key].spec.epochs
            bar.update(reached - done[key])
            done[key] = reached

        def on_event(job: pool.Job, event: pool.Event) -> None:
            nonlocal ended
            key = job["key"]
            if event["event"] == "epoch":
                advance(key, event["epoch"])
                return
            if event["event"] == "failed":
                failures.append((missing[key].spec, event["traceback"]))
                if missing[key].state().get("state") != "failed":  # its worker died
                    mark_failed(missing[key], event["traceback"])
            ended += 1
            advance(key, missing[key].spec.epochs)
            bar.set_description_str(f"{ended}/{len(missing)} runs", refresh=False)

        bar.set_description_str(f"0/{len(missing)} runs")
        pool.work(jobs, min(workers or most, len(jobs)), on_event)
    if failures:
        raise RunError(failures, len(unique))
    return len(missing)


def status(specs: Sequence[RunSpec], store: str | Path | None = None) -> pd.DataFrame:
    """Return one row per spec: run, state (done, running, failed, stale or missing), why, key.

    A run whose data or weights are not on this machine is missing; why says how to get them.
    """
    older = _older_runs(store)
    rows = []
    for spec in specs:
        try:
            entry = Entry.of(spec, store)
        except FileNotFoundError as error:
            key, state, why = "", "missing", str(error)
        else:
            key, (state, why) = entry.key[:16], _state_of(entry, older)
        rows.append({"run": spec.label(), "state": state, "why": why, "key": key})
    return pd.DataFrame(rows, columns=["run", "state", "why", "key"])


def _older_runs(root: str | Path | None) -> dict[str, dict[str, str]]:
    """Return {spec text: key parts} of the stored runs, the newest of each spec."""
    found = sorted(stored_runs(root), key=lambda item: item[0].stat().st_mtime)
    return {parts["spec"]: parts for folder, parts in found}


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
    names = sorted(before.keys() | entry.parts.keys())
    changed = [name for name in names if before.get(name) != entry.parts.get(name)]
    return "stale", f"changed since: {', '.join(changed)}"


def _job(entry: Entry, device: str) -> pool.Job:
    return {
        "key": entry.key,
        "spec": entry.spec.model_dump(mode="json"),
        "store": str(entry.folder.parent),
        "device": device,
    }


@lru_cache(maxsize=16)
def _sizes(data: str) -> tuple[int, int, int]:
    train_set, val_set = load_dataset(data, "train"), load_dataset(data, "val")
    return len(train_set.labels), len(val_set.labels), len(train_set.class_names)


def _cost(spec: RunSpec) -> int:
    """Return a run's length in points passed forward and backward (forward is a third of it)."""
    n_train, n_val, classes = _sizes(spec.data)
    if spec.shots is not None:
        n_train = spec.shots * classes
    n_train = min(n_train, spec.train_limit or n_train)
    n_val = min(n_val, spec.test_limit or n_val)
    return spec.epochs * (3 * n_train + n_val) * spec.points


def _bar(total: float, progress: bool) -> tqdm:
    return tqdm(
        total=total,
        disable=not progress,
        leave=False,
        mininterval=1.0,  # every drawing is an output in an executed notebook
        miniters=0,
        smoothing=0,
        bar_format="{desc} {percentage:3.0f}% |{bar:30}| {elapsed}, {remaining} left{postfix}",
    )


def _epoch_bar(bar: tqdm) -> Hook:
    def hook(state: State) -> None:
        bar.update(state.epoch - bar.n)
        if state.history:
            bar.set_postfix_str(f"val top1 {state.history[-1]['val_top1']:.3f}", refresh=False)

    return hook
