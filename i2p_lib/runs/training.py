"""Training each run once: find it in the store by its key, or train it, alone or many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from i2p_lib.files import note
from i2p_lib.machine import cores
from i2p_lib.runs import cluster, pool
from i2p_lib.runs.cost import CostModel
from i2p_lib.runs.execute import mark_failed, train_entry
from i2p_lib.runs.needs import prepare
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import DamagedRun, Entry, last_line
from i2p_lib.runs.tables import RunResult
from i2p_lib.train import team as distributed
from i2p_lib.train.loop import State


class RunError(RuntimeError):
    """Some runs failed; the others are stored.  `failures` is [(spec, traceback text)]."""

    def __init__(self, failures: list[tuple[AnySpec, str]], total: int) -> None:
        self.failures = failures
        lines = [f"- {spec.label()}\n    {last_line(text)}" for spec, text in failures]
        first = f"{len(failures)} of {total} runs failed (the others are stored):"
        super().__init__("\n".join([first, *lines]))


def run(
    spec: AnySpec,
    store: str | Path | None = None,
    progress: bool = True,
    device: str = "cpu",
    folder: str | Path | None = None,
) -> RunResult:
    """Return the result of a spec: found in the store, or trained here and stored.

    store: folder of the runs (default $I2P_RUNS, else `_runs` in the project).
    folder: a folder for this run alone, instead of a place in the store, see `Entry.at`.
    device: "cpu", "cuda" or "auto"; not part of the key, since it does not describe the run.
    An interrupted run goes on from its checkpoint and ends as if it had never stopped.
    Simulated scenes are made where they are not here.
    Raises DamagedRun where the stored files were changed.
    """
    prepare([spec], progress)
    entry = Entry.of(spec, store) if folder is None else Entry.at(spec, folder)
    if not entry.done():
        _train_here([entry], progress, device)
    return RunResult.load(entry)


def run_all(
    specs: Sequence[AnySpec],
    workers: int | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> list[RunResult]:
    """Return the results of many specs, in their order; what is missing trains in parallel.

    Equal specs train once.  Each run uses one thread in its own process, so its numbers do not
    depend on `workers` (default: one per core, at most four where a GPU is used).
    A failed run, or a damaged one, does not stop the others: RunError lists them at the end.
    """
    prepare(specs, progress)
    entries = [Entry.of(spec, store) for spec in specs]
    train_missing(entries, workers, progress, device)
    return [RunResult.load(entry) for entry in entries]


def train_missing(
    entries: Sequence[Entry],
    workers: int | None,
    progress: bool,
    device: str,
    scheduler: str | None = None,
) -> int:
    """Train what is not in the store, teachers first and then longest first; return how many.

    A student whose teacher failed is not tried.
    scheduler: address of a Dask scheduler whose workers train instead of processes here; `device`
    is then theirs.  Processes that torchrun joined train one run after another together instead.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    unique = {one.key: one for entry in entries for one in (*entry.teachers(), entry)}
    missing, failures = undone(unique.values())
    trained = len(missing)
    if distributed.size() > 1:
        if scheduler is not None:
            raise ValueError("torchrun and --scheduler exclude each other: use one of them")
        trained = _train_together(unique, missing, progress, device)
    elif missing:
        with cluster.connected(scheduler) if scheduler else nullcontext() as client:
            costs = CostModel.of("auto" if scheduler else device, entries[0].folder.parent, False)
            cost = {key: costs.cost(entry.spec).seconds for key, entry in missing.items()}
            most = workers or (cores() if costs.device == "cpu" else min(4, cores()))
            work = partial(cluster.work, client) if scheduler else partial(pool.work, workers=most)
            with _bar(sum(cost.values()), progress) as bar:
                _train_apart(missing, failures, cost, device, work, bar)
    if failures:
        raise RunError([(unique[key].spec, text) for key, text in failures.items()], len(unique))
    return trained


def undone(entries: Iterable[Entry]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return {key: entry} of the runs that are not done, and {key: why} of damaged ones."""
    missing, damaged = {}, {}
    for entry in entries:
        try:
            if not entry.done():
                missing[entry.key] = entry
        except DamagedRun as error:
            damaged[entry.key] = str(error)
    return missing, damaged


def _train_together(
    unique: dict[str, Entry], missing: dict[str, Entry], progress: bool, device: str
) -> int:
    """Train the runs that the main process lacks in all processes; the first failure ends it."""
    keys = distributed.agreed(list(missing))
    if not unique.keys() >= set(keys):
        raise RuntimeError(
            f"process {distributed.rank()} would train other runs than process 0: give all "
            "machines the same version of the project, the data and the weights"
        )
    todo = [unique[key] for key in keys]
    distributed.refuse_small_batches([entry.spec for entry in todo], distributed.size())
    _train_here(todo, progress and distributed.rank() == 0, device)
    return len(todo)


def _train_here(todo: Sequence[Entry], progress: bool, device: str) -> None:
    """Train runs in this process one after another, with a bar of their epochs."""
    with _bar(sum(entry.spec.epochs for entry in todo), progress) as bar:

        def show(state: State) -> None:
            bar.update(before + state.epoch - bar.n)
            score, row = state.task.score, state.history[-1] if state.history else {}
            if (value := row.get(f"val_{score}")) is not None:  # not every epoch is validated
                bar.set_postfix_str(f"val {score} {value:.3f}", refresh=False)

        for number, entry in enumerate(todo):
            if len(todo) > 1:
                bar.set_description_str(f"{number}/{len(todo)} runs")
            before = bar.n
            train_entry(entry, device, [show])
            bar.update(before + entry.spec.epochs - bar.n)


def _train_apart(
    missing: dict[str, Entry], failures: dict[str, str], cost: dict[str, float], device: str,
    work: Callable, bar: tqdm,
) -> None:  # fmt: skip
    """Let `work` train runs, each teacher before its students; why one failed goes to `failures`.

    work(jobs, on_event=...) as `pool.work` does it.  cost: seconds, by which the bar weighs runs.
    """
    depth = {key: len(entry.spec.chain()) for key, entry in missing.items()}
    keys = sorted(missing, key=lambda key: (depth[key], -cost[key]))
    reached = dict.fromkeys(keys, 0.0)
    bar.set_description_str(f"0/{len(keys)} runs")

    def reach(entry: Entry, epoch: int) -> None:
        reached[entry.key] = epoch / entry.spec.epochs
        ended = sum(share == 1 for share in reached.values())
        bar.set_description_str(f"{ended}/{len(keys)} runs", refresh=False)
        now = sum(cost[key] * share for key, share in reached.items())
        bar.update(min(now, bar.total) - bar.n)  # sums of floats overshoot

    def on_event(job: pool.Job, event: pool.Event) -> None:
        entry = missing[job["key"]]
        if event["event"] == "note":
            return note(event["text"])
        if event["event"] == "failed":
            failures[entry.key] = event["traceback"]
            mark_failed(entry, event["traceback"])  # where its worker could not
        reach(entry, event.get("epoch", entry.spec.epochs))

    for _, group in groupby(keys, depth.get):
        jobs = []
        for entry in map(missing.get, group):
            if failed := [one for one in entry.teachers() if one.key in failures]:
                failures[entry.key] = f"not tried: its teacher failed ({failed[-1].spec.label()})"
                reach(entry, entry.spec.epochs)
            else:
                jobs.append(_job(entry, device))
        work(jobs, on_event=on_event)


def _job(entry: Entry, device: str) -> pool.Job:
    return {
        "key": entry.key,
        "parts": entry.parts,
        "spec": entry.spec.model_dump(mode="json"),
        "store": str(entry.folder.parent),
        "device": device,
        "patience": 0,
    }


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
