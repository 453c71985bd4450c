"""Carrying out one run in this process: resume, train, keep the results, or keep the failure."""

from __future__ import annotations

import contextlib
import platform
import time
import traceback
from collections.abc import Iterator, Sequence

import numba
import numpy as np
import pandas as pd
import torch

from i2p_lib.files import sha256
from i2p_lib.machine import describe_machine
from i2p_lib.runs import store
from i2p_lib.runs.segment_spec import SegmentSpec
from i2p_lib.runs.sources import PACKAGE
from i2p_lib.runs.store import DamagedRun, Entry
from i2p_lib.runs.tables import RunResult
from i2p_lib.sparse import use_backend
from i2p_lib.train import team as distributed
from i2p_lib.train.loop import Hook, State, start, train
from i2p_lib.train.probe import ProbeHook, final_features

CHECKPOINT_SECONDS = 20.0
HISTORY_COLUMNS = [
    *("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "test_loss", "test_top1"),
    *("val_miou", "val_accuracy", "lr", "seconds", "eval_seconds", "voxels", "points"),
]
PROBE_COLUMNS = ["epoch", "split", "layer", "metric", "value"]
_STARTED = time.time()


def train_entry(entry: Entry, device: str = "cpu", hooks: Sequence[Hook] = ()) -> None:
    """Train one run into its folder in this process, on one thread, unless it is done.

    Its teacher is trained first where it is not done.  Waits where another process trains the same
    run.  A failure is kept in state.json with its traceback, and raised.
    Processes that train together all call this; the main one alone locks and writes.
    """
    if entry.spec.teacher is not None:
        train_entry(entry.teacher(), device)
    device, main = resolve_device(device), distributed.rank() == 0
    with entry.lock() if main else contextlib.nullcontext():
        if distributed.agreed(entry.done()):
            return
        _refuse_edited_sources(entry)
        about = {"state": "running", "started": _now(), "device": device} | _versions()
        if main:
            store.write_json(entry.folder / "spec.json", entry.spec.model_dump(mode="json"))
            store.write_json(entry.folder / "parts.json", entry.parts)
            store.write_json(entry.folder / "state.json", about)
        try:
            with one_thread(), use_backend() as backend:
                state = _resume_together(entry, torch.device(device))
                writing = [_history_hook(entry), _checkpoint_hook(entry)] if main else []
                metrics = _carry_out(entry, state, [*writing, *hooks])
                if main:
                    _finish(entry, state, metrics, about | backend.record())
        except Exception:
            text = traceback.format_exc()
            if main:
                mark_failed(entry, text)
            raise


def _resume_together(entry: Entry, device: torch.device) -> State:
    """Resume or start in every process, the main one first, which drops a broken checkpoint."""
    with distributed.main_first():
        state = _resume_or_start(entry, device)
    if state.epoch != (epoch := distributed.agreed(state.epoch)):
        raise RuntimeError(
            f"process {distributed.rank()} found epoch {state.epoch} in {entry.folder}, the main "
            f"process {epoch}: set I2P_RUNS to one folder that all machines share"
        )
    return state


def _resume_or_start(entry: Entry, device: torch.device) -> State:
    checkpoint = entry.folder / "checkpoint.safetensors"
    state = _start(entry, device)
    if not checkpoint.exists():
        _log(entry, "start")
        return state
    try:
        store.read_checkpoint(checkpoint, state)
    except DamagedRun as error:
        _log(entry, f"start anew: {error}")
        checkpoint.unlink()
        return _start(entry, device)
    _log(entry, f"go on after epoch {state.epoch}")
    return state


def _log(entry: Entry, text: str) -> None:
    if distributed.rank() == 0:
        entry.log(text)


def _start(entry: Entry, device: torch.device) -> State:
    """Start a run; a student begins as a copy of its teacher."""
    if isinstance(entry.spec, SegmentSpec):
        from i2p_lib.train import segment as segment

        return segment.start(entry.spec, device)
    state = start(entry.spec, device)
    if entry.spec.teacher is not None:
        state.teacher = RunResult.load(entry.teacher()).network().to(device)
        state.net.load_state_dict(state.teacher.state_dict())
    return state


def _history_hook(entry: Entry) -> Hook:
    def hook(state: State) -> None:
        if state.history:
            columns = [name for name in HISTORY_COLUMNS if name in state.history[0]]
            store.write_csv(entry.folder / "history.csv", state.history, columns)

    return hook


def _checkpoint_hook(entry: Entry) -> Hook:
    """Write a checkpoint after an epoch once CHECKPOINT_SECONDS have passed since the last one."""
    last = time.monotonic()

    def hook(state: State) -> None:
        nonlocal last
        if 0 < state.epoch < state.spec.epochs and time.monotonic() - last >= CHECKPOINT_SECONDS:
            store.write_checkpoint(entry.folder / "checkpoint.safetensors", state)
            last = time.monotonic()

    return hook


def _carry_out(entry: Entry, state: State, hooks: Sequence[Hook]) -> dict[str, float]:
    """Train to the end, measure what the protocol reads, and return the metrics.

    The main process writes what was measured beside them: probes and features, or the confusion
    matrix and a few scenes.
    """
    folder, main = entry.folder, distributed.rank() == 0
    if isinstance(entry.spec, SegmentSpec):
        from i2p_lib.train import segment as segment

        metrics, kept = segment.finish(segment.train(state, hooks))
        counts = pd.DataFrame(kept["confusion"], columns=state.class_names)
        store.write_csv(folder / "confusion.csv", counts)
        store.write_tensors(folder / "scenes.safetensors", kept["scenes"])
        return metrics
    train(state, [ProbeHook(), *hooks])
    kept = final_features(state)
    metrics = _metrics(state, kept)
    if main:
        kept = {name: _compact(values) for name, values in kept.items()}
        store.write_csv(folder / "probes.csv", state.probes, PROBE_COLUMNS)
        store.write_tensors(folder / "features.safetensors", kept)
    return metrics


def _finish(entry: Entry, state: State, metrics: dict[str, float], about: dict) -> None:
    """Write metrics and network, and last of all say that the run is done."""
    folder = entry.folder
    store.write_json(folder / "metrics.json", metrics)
    store.write_tensors(folder / "model.safetensors", store.learned_tensors(state.net))
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in store.results_of(entry.spec)
    }
    about = about | {"state": "done", "finished": _now(), "files": files}
    store.write_json(folder / "state.json", about)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    scores = {name: metrics[name] for name in ("val_top1", "val_miou") if name in metrics}
    entry.log("done: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def _compact(values: torch.Tensor) -> torch.Tensor:
    """Return floats as float16, or as they are where one is too large for it."""
    if not values.is_floating_point():
        return values
    half = values.half()
    return half if torch.isfinite(half).all() else values


def _metrics(state: State, kept: dict[str, torch.Tensor]) -> dict[str, float]:
    spec, last = state.spec, state.history[-1]
    train_right = kept["train_logits"].argmax(1) == kept["train_labels"]
    sizes = [(p.numel(), p.requires_grad) for p in state.net.parameters()]
    metrics = {
        "val_top1": last["val_top1"],
        "train_top1": float(train_right.double().mean()),
        "train_loss": last["train_loss"],
        "seconds_total": sum(row["seconds"] + row["eval_seconds"] for row in state.history),
        "seconds_training": sum(row["seconds"] for row in state.history),
        "parameters": sum(n for n, _ in sizes),
        "parameters_trained": sum(n for n, trained in sizes if trained),
        "classes": len(state.splits.class_names),
        "n_train": len(state.splits.train),
        "n_val": len(state.splits.val),
    }
    if state.splits.test is not None:
        metrics |= _test_metrics(kept["test_logits"], kept["test_labels"])
    if spec.rules.checkpoint == "best on test":
        best = max(state.history, key=lambda row: row["test_top1"])
        metrics |= {
            "top1_last": last["test_top1"],
            "top1_best_test": best["test_top1"],
            "best_test_epoch": best["epoch"],
        }
    return metrics


def _test_metrics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    right = (logits.argmax(1) == labels).double()
    per_class = [right[labels == c].mean() for c in labels.unique()]
    return {
        "top1": float(right.mean()),
        "mean_class_accuracy": float(torch.stack(per_class).mean()),
        "n_test": len(labels),
    }


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
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU here: use cpu or auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def mark_failed(entry: Entry, text: str) -> None:
    """Keep a failure's traceback; where the disk takes no more, the caller still raises it."""
    with contextlib.suppress(OSError):
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


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _now() -> str:
    return pd.Timestamp.now(tz="UTC").isoformat(timespec="seconds")


def _versions() -> dict:
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
        "machine": describe_machine(),
        "processes": distributed.size(),
    }
