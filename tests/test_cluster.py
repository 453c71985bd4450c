"""Runs on a Dask cluster: the same results as here, whatever happens to a worker."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from i2p_lib import cli
from i2p_lib.runs import RunError, RunSpec, cluster, execute, run, store, training
from i2p_lib.runs.store import DamagedRun, Entry

ROOT = Path(__file__).parents[1]
SPEC = RunSpec(
    model="test_resnet", weights="random", recipe="paper", points=128, epochs=3, batch_size=8,
    train_limit=16, test_limit=8,
)  # fmt: skip
TIMES = ["seconds", "eval_seconds"]


@pytest.fixture(scope="session")
def dask():
    return pytest.importorskip("distributed", reason="needs Dask: pip install 'distributed>=2026'")


def interrupt(state):
    if state.epoch == 1:
        raise KeyboardInterrupt


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def process(log, *words, **variables):
    """Start a command of Dask with its output in a file, in a session of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    with open(log, "w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words], env=env, stdout=out, stderr=out
        )


@pytest.fixture(scope="module")
def address(dask, tmp_path_factory):
    """The address of a scheduler process."""
    folder = tmp_path_factory.mktemp("scheduler")
    file = folder / "scheduler.json"
    child = process(
        folder / "log", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(file),
    )  # fmt: skip
    try:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        yield pd.read_json(file, typ="series")["address"]
    finally:
        child.kill()
        child.wait()


@contextmanager
def worker(folder, address, root):
    """Yield a worker process whose store is `root`."""
    child = process(
        folder / f"{root.name}.log", "worker", address, "--nthreads", "1", "--no-nanny",
        "--no-dashboard", "--local-directory", str(folder), I2P_RUNS=str(root),
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def assert_same(one, other):
    """Same history and same tensors, bit for bit; only times may differ."""
    assert one.history.drop(columns=TIMES).equals(other.history.drop(columns=TIMES))
    for name in ("model.safetensors", "features.safetensors"):
        left, right = (load_file(r.folder / name) for r in (one, other))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store that holds SPEC, trained here."""
    root = tmp_path_factory.mktemp("here")
    run(SPEC, store=root, progress=False)
    return root


@pytest.mark.slow
def test_a_scheduler_without_workers_is_an_error_within_seconds(address, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 2)
    with pytest.raises(ConnectionError, match="has no workers: start some with `dask worker tcp:"):
        training.train_missing([Entry.of(SPEC, tmp_path)], None, False, "cpu", address)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_all_runs_end_as_here(
    address, finished, tmp_path, monkeypatch
):
    """Both workers have stores of their own, so that results come back through Dask."""
    specs = [SPEC.but(epochs=40, seed=seed) for seed in (0, 1)]
    caller, killed = tmp_path / "caller", []
    entries = [Entry.of(spec, caller) for spec in specs]
    work = cluster.work

    def kill_a_worker(client, jobs, on_event):
        def killing(job, event):
            if not killed:
                name = next(n for n in workers if (tmp_path / n / job["key"][:16]).exists())
                os.kill(workers[name].pid, signal.SIGKILL)
                killed.append(job["key"])
            on_event(job, event)

        work(client, jobs, killing)

    monkeypatch.setattr(cluster, "work", kill_a_worker)
    with worker(tmp_path, address, tmp_path / "a") as a, worker(
        tmp_path, address, tmp_path / "b"
    ) as b:
        workers = {"a": a, "b": b}
        monkeypatch.setattr(cluster, "PATIENCE", 120)
        assert training.train_missing(entries, None, False, "cpu", address) == 2
    states = [store.read_json(tmp_path / n / killed[0][:16] / "state.json") for n in workers]
    assert sorted(state["state"] for state in states) == ["done", "running"]
    assert not list(caller.glob(".i2p-*"))
    for spec in specs:
        assert_same(run(spec, store=caller), run(spec, store=finished, progress=False))


@pytest.mark.slow
def test_workers_of_a_shared_store_and_of_another_version(address, finished, tmp_path, monkeypatch):
    """A run that goes on and that nobody sends back, one that fails, one that a worker refuses."""
    shared = tmp_path / "shared"
    entry = Entry.of(SPEC, shared)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(execute, "CHECKPOINT_SECONDS", 0)
        execute.train_entry(entry, hooks=[interrupt])
    monkeypatch.setattr(cluster, "PATIENCE", 120)
    with worker(tmp_path, address, shared), monkeypatch.context() as patch:
        patch.setattr(cluster, "unpack", None)  # the worker's files are the caller's
        entries = [Entry.of(spec, shared) for spec in (SPEC, SPEC.but(points=99_999))]
        with pytest.raises(RunError, match="1 of 2 runs failed") as error:
            training.train_missing(entries, None, False, "cpu", address)
        assert "clouds of home_objects hold" in str(error.value)
        patch.setattr("i2p_lib.runs.spec.dataset_hash", lambda name: "other data")
        with pytest.raises(RunError, match="another run than the one planned; other are: data"):
            training.train_missing([Entry.of(SPEC, shared)], None, False, "cpu", address)
    assert "go on after epoch 1" in (entry.folder / "log.txt").read_text()
    assert_same(run(SPEC, store=shared), run(SPEC, store=finished))


def test_a_scheduler_that_does_not_answer_is_an_error_within_seconds(dask, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    began = time.monotonic()
    words = ["run", "--profile", "smoke", "--scheduler", "tcp://127.0.0.1:9"]
    assert cli.main(words) == 1
    assert time.monotonic() - began < 60
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_without_dask_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["run", "--profile", "smoke", "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "pip install 'distributed>=2026'" in capsys.readouterr().err


def test_a_run_that_comes_back_is_whole_or_refused(finished, tmp_path):
    entry = Entry.of(SPEC, tmp_path)
    files = cluster.packed(Entry.of(SPEC, finished).folder)
    with pytest.raises(DamagedRun, match="metrics.json has changed"):
        cluster.unpack(entry, files | {"metrics.json": files["metrics.json"].swapcase()})
    shutil.rmtree(entry.folder)
    cluster.unpack(entry, files)
    assert_same(run(SPEC, store=tmp_path), run(SPEC, store=finished))
