"""Carrying out one run in this process: resume, train, keep the results, or keep the failure."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator, Sequence

import numba
import pandas as pd
import torch
from torch import nn

from i2p_lib.files import folder_lock, note, sha256, sweep
from i2p_lib.machine import describe_machine, package_versions
from i2p_lib.runs import store
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import DamagedRun, Entry, last_line
from i2p_lib.runs.tables import RunResult
from i2p_lib.sources import PACKAGE
from i2p_lib.sparse import use_backend
from i2p_lib.train import team as distributed
from i2p_lib.train.loop import Hook, State, finish, learned_tensors, start, train
from i2p_lib.train.task import Kept

CHECKPOINT_SECONDS = 20.0
CPU = torch.device("cpu")
_STARTED = time.time()


def train_entry(
    entry: Entry, device: str = "cpu", hooks: Sequence[Hook] = (), patience: float = -1
) -> None:
    """Train one run into its folder in this process, on one thread, unless it is done.

    Its teachers are trained first where they are not done.  Waits where another process trains the
    same run, for `patience` seconds (-1: till it ends), then raises filelock.Timeout.
    A failure is kept in state.json with its traceback, and raised.
    Processes that train together all call this; the main one alone locks and writes.
    """
    for teacher in entry.teachers():
        train_entry(teacher, device, patience=patience)
    device, main = resolve_device(device), distributed.rank() == 0
    with entry.lock().acquire(patience) if main else contextlib.nullcontext():
        if distributed.agreed(entry.done()):
            return
        _refuse_edited_sources(entry)
        about = {"state": "running", "started": _now(), "device": device} | _versions()
        if main:
            sweep(entry.folder)
            store.write_json(entry.folder / "spec.json", entry.spec.model_dump(mode="json"))
            store.write_json(entry.folder / "parts.json", entry.parts)
            store.write_json(entry.folder / "state.json", about)
        try:
            with one_thread(), use_backend() as backend:
                state = _resume_or_start(entry, torch.device(device))
                writing = [_writing_hook(entry)] if main else []
                kept = finish(train(state, [*writing, *hooks]))
                if main:
                    about |= backend.record() | entry.spec.reading(state.task)
                    _finish(entry, kept, state.net, about)
        except Exception:
            if main:
                _keep_failure(entry, traceback.format_exc())
            raise


def _resume_or_start(entry: Entry, device: torch.device) -> State:
    """Go on or start in every process, the main one first, which drops a broken checkpoint."""
    checkpoint = entry.folder / store.CHECKPOINT
    with distributed.main_first():
        state, text = _start(entry, device), "start"
        if checkpoint.exists():
            try:
                store.read_checkpoint(checkpoint, state)
                text = f"go on after epoch {state.epoch}"
            except DamagedRun as error:
                checkpoint.unlink()
                state, text = _start(entry, device), f"start anew: {error}"
                note(f"{entry.spec.label()}: {text}")
    if distributed.rank() == 0:
        entry.log(text)
    if state.epoch != (epoch := distributed.agreed(state.epoch)):
        raise RuntimeError(
            f"process {distributed.rank()} found epoch {state.epoch} in {entry.folder}, the main "
            f"process {epoch}: set I2P_RUNS to one folder that all machines share"
        )
    return state


def begin(spec: AnySpec, device: torch.device = CPU) -> State:
    """Load the data and build the network and optimizer of a run that begins."""
    task = spec.module.task_of(spec, device)
    return start(task, spec.module.build_network(spec, len(task.class_names)).to(device))


def _start(entry: Entry, device: torch.device) -> State:
    """Start a run; a student begins as a copy of its teacher."""
    state = begin(entry.spec, device)
    if teachers := entry.teachers():
        state.task.teacher = RunResult.load(teachers[-1]).network().to(device)
        state.net.load_state_dict(state.task.teacher.state_dict())
    return state


def _writing_hook(entry: Entry) -> Hook:
    """Write the history after an epoch; a checkpoint at first, then every CHECKPOINT_SECONDS."""
    last = -CHECKPOINT_SECONDS

    def hook(state: State) -> None:
        nonlocal last
        if state.epoch == 0:
            return
        store.write_csv(entry.folder / "history.csv", state.history)
        ended = state.epoch == state.task.settings.epochs
        if not ended and time.monotonic() - last >= CHECKPOINT_SECONDS:
            store.write_checkpoint(entry.folder / store.CHECKPOINT, state)
            last = time.monotonic()

    return hook


def _finish(entry: Entry, kept: Kept, net: nn.Module, about: dict) -> None:
    """Write what a run keeps and its network, and last of all say that the run is done."""
    folder = entry.folder
    store.write_json(folder / "metrics.json", kept.metrics)
    for name, table in kept.tables.items():
        store.write_csv(folder / f"{name}.csv", table)
    for name, named in (kept.tensors | {"model": learned_tensors(net)}).items():
        store.write_tensors(folder / f"{name}.safetensors", named)
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.glob("[!.]*"))  # without what a killed process was writing
        if path.is_file() and path.name not in store.UNSTABLE
    }
    about = about | {"state": "done", "finished": _now(), "files": files}
    store.write_json(folder / "state.json", about | {"seal": entry.seal(about)})
    with contextlib.suppress(OSError):
        (folder / store.CHECKPOINT).unlink(missing_ok=True)
    scores = {name: value for name, value in kept.metrics.items() if name.startswith("val_")}
    entry.log("done: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch and one numba thread in the block, so that numbers do not depend on cores."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda" for a device's name; raises ValueError where there is no such one."""
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device must be cpu, cuda or auto, got {device!r}")
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise ValueError("device is cuda, but torch sees no GPU here: use cpu or auto")
    return ("cuda" if gpu else "cpu") if device == "auto" else device


def mark_failed(entry: Entry, text: str) -> None:
    """Keep why a process that trained a run died, unless another one trains it now."""
    with contextlib.suppress(OSError), folder_lock(entry.folder, timeout=0):
        _keep_failure(entry, text)


def _keep_failure(entry: Entry, text: str) -> None:
    """Keep a failure's traceback, where the disk takes it and the run is not done meanwhile."""
    with contextlib.suppress(OSError, DamagedRun):
        if entry.state().get("state") in ("done", "failed"):
            return
        about = {"state": "failed", "finished": _now(), "traceback": text} | _versions()
        store.write_json(entry.folder / "state.json", about)
        entry.log(f"failed: {last_line(text)}")


def _refuse_edited_sources(entry: Entry) -> None:
    """Raise where a source file is newer than this process, whose code is then not its hash."""
    for name in entry.parts:
        file = PACKAGE / name.removeprefix("source ")
        if name.startswith("source ") and _STARTED < file.stat().st_mtime <= time.time():
            raise RuntimeError(
                f"{file} was edited after this Python started: restart it (or the kernel); "
                "run_all trains in fresh processes"
            )


def _now() -> str:
    return pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds")


def _versions() -> dict:
    return {"versions": package_versions(), "machine": describe_machine(),
            "processes": distributed.size()}  # fmt: skip
