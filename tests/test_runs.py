"""The run store: trained once, found again, stale for a reason, safe against crashes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from safetensors.torch import load_file

from i2p_lib import runs
from i2p_lib.data import load_dataset
from i2p_lib.runs import (
    DamagedRun,
    RunError,
    RunResult,
    RunSpec,
    execute,
    pool,
    run,
    run_all,
    status,
    store,
)
from i2p_lib.runs.store import Entry
from i2p_lib.runs.tables import joined
from i2p_lib.train import classify, clouds

SPEC = RunSpec(
    points=128, epochs=3, batch_size=8, train_limit=32, test_limit=32, regime="io+bn",
    probe_epochs=(0, 3),
)  # fmt: skip
TIMES = ["seconds", "eval_seconds"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store that holds SPEC, trained in this process."""
    root = tmp_path_factory.mktemp("runs")
    run(SPEC, store=root, progress=False)
    return root


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that store, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def assert_same(a, b):
    """Same history and same tensors, bit for bit; only times may differ."""
    assert a.history.drop(columns=TIMES).equals(b.history.drop(columns=TIMES))
    assert a.probes().equals(b.probes())
    for name in ("model.safetensors", "features.safetensors"):
        left, right = (load_file(r.folder / name) for r in (a, b))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def no_training(*args, **kwargs):
    raise AssertionError("a stored run was trained again")


class Stop(BaseException):
    """Stands for a process that is interrupted."""


def stop_after(epoch):
    def hook(state):
        if state.epoch == epoch:
            raise Stop

    return hook


def python(code, *args):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], cwd=ROOT)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_a_finished_run_holds_its_numbers_and_files(finished):
    result = run(SPEC, store=finished)
    assert list(result.history["epoch"]) == [1, 2, 3]
    assert 0 <= result.metrics["top1"] <= 1 and result.metrics["n_test"] == 32
    assert result.metrics["parameters_trained"] < result.metrics["parameters"]
    probes = result.probes()
    assert set(probes["epoch"]) == {0, 3} and set(probes["split"]) == {"train", "test"}
    assert list(probes["layer"].unique())[-1] == "penultimate"
    assert {"cdnv", "nc1", "nc3", "nc4"} <= set(probes["metric"])
    features = result.features()
    assert len(features["train_features"]) == 32 and features["test_labels"].dtype == "int64"
    accuracy = (features["test_logits"].argmax(1) == features["test_labels"]).mean()
    assert accuracy == pytest.approx(result.metrics["top1"])
    assert not (result.folder / store.CHECKPOINT).exists()


def test_a_stored_run_is_found_without_training(finished, monkeypatch):
    monkeypatch.setattr(execute, "train", no_training)
    monkeypatch.setattr(pool, "work", no_training)
    assert run(SPEC, store=finished).spec == SPEC
    assert [r.key for r in run_all([SPEC, SPEC], store=finished)] == [Entry.of(SPEC).key] * 2


def test_the_stored_network_gives_the_stored_logits(finished):
    result = run(SPEC, store=finished)
    splits = execute.begin(SPEC).task.splits
    logits = clouds.evaluate(result.network(), splits["test"].points, SPEC)
    stored = torch.tensor(result.features()["test_logits"])
    assert torch.equal(logits.half().float(), stored)


def test_the_key_covers_spec_data_weights_and_sources():
    parts = store.key_parts(SPEC)
    sources = {"source train/loop.py", "source sparse/conv.py"}
    assert {"spec", "data", "weights"} | sources <= parts.keys()
    keys = {store.key_of(parts)}
    for name in parts:
        keys.add(store.key_of(parts | {name: "changed"}))
    assert len(keys) == len(parts) + 1


def test_status_tells_done_missing_and_stale_with_the_reason(copied, monkeypatch):
    table = status([SPEC, SPEC.but(seed=9)], store=copied)
    assert list(table["state"]) == ["done", "missing"]
    monkeypatch.setattr("i2p_lib.runs.spec.dataset_hash", lambda name: "other data")
    stale = status([SPEC], store=copied)
    assert list(stale["state"]) == ["stale"] and list(stale["why"]) == ["changed since: data"]


def test_status_of_a_run_without_its_data_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_DATA", str(tmp_path))
    table = status([SPEC.but(data="modelnet40")], store=tmp_path)
    assert table["state"][0] == "missing" and "modelnet40_ply_hdf5_2048" in table["why"][0]


def test_features_too_large_for_half_precision_are_kept_whole():
    assert classify._compact(torch.tensor([1.0, 2.0])).dtype == torch.float16
    assert classify._compact(torch.tensor([1.0, 1e6])).dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["spec.json", "parts.json", "history.csv", "metrics.json", "model.safetensors"]
)
def test_a_changed_result_file_is_refused_by_name(copied, name):
    path = Entry.of(SPEC, copied).folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedRun, match=f"{name} has changed .*move the folder"):
        run(SPEC, store=copied)
    assert status([SPEC], store=copied)["state"][0] == "failed"


def test_a_truncated_or_lost_result_file_is_refused(copied):
    path = Entry.of(SPEC, copied).folder / "metrics.json"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DamagedRun, match="metrics.json should hold .* bytes, holds 20"):
        run(SPEC, store=copied)
    path.unlink()
    with pytest.raises(RunError, match="lost its file .*metrics.json"):
        run_all([SPEC], store=copied)


def test_an_interrupted_run_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "CHECKPOINT_SECONDS", 0)
    entry = Entry.of(SPEC, tmp_path)
    with pytest.raises(Stop):
        execute.train_entry(entry, hooks=[stop_after(2)])
    assert status([SPEC], store=tmp_path)["state"][0] == "missing"
    assert "interrupted" in status([SPEC], store=tmp_path)["why"][0]
    result = run(SPEC, store=tmp_path, progress=False)
    assert "go on after epoch 2" in (entry.folder / "log.txt").read_text()
    assert_same(result, run(SPEC, store=finished))


def test_a_broken_checkpoint_means_starting_anew(finished, tmp_path):
    entry = Entry.of(SPEC, tmp_path)
    entry.folder.mkdir(parents=True)
    (entry.folder / store.CHECKPOINT).write_bytes(b"half a file")
    assert_same(run(SPEC, store=tmp_path, progress=False), run(SPEC, store=finished))


def epoch_of(checkpoint: Path) -> int:
    return json.loads(torch.load(checkpoint, weights_only=True)["note"])["epoch"]


def test_a_killed_process_leaves_a_run_that_ends_the_same(finished, tmp_path):
    code = (
        "import sys, time, i2p_lib.runs.execute as e; from i2p_lib.runs import RunSpec\n"
        "e.CHECKPOINT_SECONDS = 0\n"
        "entry = e.Entry.of(RunSpec.model_validate_json(sys.argv[1], strict=False), sys.argv[2])\n"
        "e.train_entry(entry, hooks=[lambda s: time.sleep(30 * (s.epoch == 2))])\n"
    )
    child = python(code, SPEC.key_fields(), tmp_path)
    entry = Entry.of(SPEC, tmp_path)
    checkpoint = entry.folder / store.CHECKPOINT
    wait_until(lambda: checkpoint.exists() and epoch_of(checkpoint) == 2)
    assert status([SPEC], store=tmp_path)["state"][0] == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    result = run(SPEC, store=tmp_path, progress=False)
    assert "go on after epoch 2" in (entry.folder / "log.txt").read_text()
    assert_same(result, run(SPEC, store=finished))


def test_workers_give_the_same_numbers_and_one_failure_stops_no_other(finished, tmp_path):
    bad = SPEC.but(points=99_999)
    with pytest.raises(RunError, match="1 of 2 runs failed") as error:
        run_all([bad, SPEC, SPEC], workers=2, store=tmp_path, progress=False)
    assert "clouds of home_objects hold" in str(error.value)
    assert [spec for spec, _ in error.value.failures] == [bad]
    table = status([bad, SPEC], store=tmp_path)
    assert list(table["state"]) == ["failed", "done"]
    assert "99999" in table["why"][0]
    assert_same(run(SPEC, store=tmp_path), run(SPEC, store=finished))


def test_fewer_than_one_worker_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="workers must be 1 or more, got -3"):
        run_all([SPEC], workers=-3, store=tmp_path, progress=False)
    assert not Entry.of(SPEC, tmp_path).folder.exists()


def test_a_run_that_another_process_trains_is_waited_for_and_found(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "train", no_training)
    entry, found = Entry.of(SPEC, tmp_path), []
    with entry.lock():
        waiting = threading.Thread(
            target=lambda: found.append(run(SPEC, store=tmp_path, progress=False))
        )
        waiting.start()
        assert status([SPEC], store=tmp_path)["state"][0] == "running"
        done = Entry.of(SPEC, finished).folder
        shutil.copytree(done, entry.folder, ignore=lambda *_: {"state.json"})
        shutil.copy(done / "state.json", entry.folder)  # a run's last file, which says "done"
    waiting.join(timeout=30)
    assert found[0].key == entry.key


def test_a_full_disk_leaves_earlier_runs_usable_and_is_retried(copied, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    other = SPEC.but(seed=1, epochs=1, probe_epochs=())
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            run(other, store=copied, progress=False)
    assert list(status([SPEC, other], store=copied)["state"]) == ["done", "failed"]
    assert "No space left" in Entry.of(other, copied).state()["traceback"]
    assert run(other, store=copied, progress=False).metrics["n_train"] == 32


def test_a_disk_too_full_for_the_failure_itself_still_raises_the_cause(copied, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execute, "train", full)
    monkeypatch.setattr(execute.Entry, "log", full)
    with pytest.raises(OSError, match="No space left"):
        run(SPEC.but(seed=1), store=copied, progress=False)


def test_a_run_uses_one_thread_and_gives_the_others_back(tmp_path):
    before = torch.get_num_threads()
    seen = []
    torch.set_num_threads(2)
    try:
        entry = Entry.of(SPEC.but(epochs=1, probe_epochs=()), tmp_path)
        execute.train_entry(entry, hooks=[lambda state: seen.append(torch.get_num_threads())])
        assert seen == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_sources_edited_under_a_running_python_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "_STARTED", 0.0)
    with pytest.raises(RuntimeError, match="edited after this Python started"):
        run(SPEC, store=tmp_path, progress=False)


def test_the_released_protocol_keeps_and_reports_its_best_test_epoch(tmp_path):
    spec = SPEC.but(protocol="released", recipe="paper", epochs=2, probe_epochs=(2,), test_limit=8)
    result = run(spec, store=tmp_path, progress=False)
    metrics, scores = result.metrics, result.history["test_top1"]
    assert metrics["top1"] == pytest.approx(scores.max()) == metrics["top1_best_test"]
    assert metrics["best_test_epoch"] == 1 + scores.argmax()
    assert metrics["top1_last"] == pytest.approx(scores.iloc[-1])


def test_tuning_never_reads_the_test_split(tmp_path, monkeypatch):
    def only_train_and_val(name, split):
        assert split in ("train", "val"), f"tuning read the {split} split"
        return load_dataset(name, split)

    monkeypatch.setattr(clouds, "load_dataset", only_train_and_val)
    spec = SPEC.but(protocol="tuning", probe_epochs=(), epochs=2)
    found = run(spec, store=tmp_path, progress=False)
    assert "top1" not in found.metrics and 0 <= found.metrics["val_top1"] <= 1
    assert not any(name.startswith("test") for name in [*found.features(), *found.history])
    with pytest.raises(ValueError, match="never does"):
        SPEC.but(protocol="tuning")


def test_tables_have_one_row_per_run_and_epoch(finished):
    stored = [run(SPEC, store=finished)]
    table, curves = runs.results(stored), joined(stored, lambda run: run.history)
    row = table.loc[0, ["regime", "augment", "probe_epochs"]].tolist()
    assert row == ["io+bn", "upright", "0,3"]
    assert len(curves) == 3 and set(curves["max_lr"]) == {0.001}
    assert {"layer", "metric", "value", "seed"} <= set(joined(stored, RunResult.probes).columns)


WORKER = """
import os, time
from filelock import Timeout
from i2p_lib.runs import worker

def serve(job, tell):
    open(job["file"], "w").write(str(os.getpid()))
    if job["do"] == "die":
        os._exit(3)
    if job["do"] == "sleep":
        time.sleep(60)
    if job["do"] == "taken" and job["patience"] == 0:
        raise Timeout("another process has it")

worker._serve = serve
worker.main()
"""


@pytest.fixture
def worker_module(tmp_path, monkeypatch):
    (tmp_path / "odd_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "odd_worker"


def test_a_run_that_another_process_has_is_passed_over_and_tried_again_at_the_end(
    worker_module, tmp_path
):
    done = []
    jobs = [{"do": name, "file": str(tmp_path / name), "patience": 0} for name in ("taken", "live")]
    pool.work(jobs, 1, lambda job, event: done.append((job["do"], event)), worker_module)
    assert done == [("live", {"event": "done"}), ("taken", {"event": "done"})]


def test_a_locked_run_is_not_waited_for_without_patience(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "train", no_training)
    entry = Entry.of(SPEC, tmp_path)
    with entry.lock(), pytest.raises(Timeout):
        execute.train_entry(entry, patience=0)


def test_a_worker_that_dies_fails_its_job_and_the_next_job_is_done(worker_module, tmp_path):
    events = {}
    jobs = [{"do": name, "file": str(tmp_path / name)} for name in ("die", "live")]
    pool.work(jobs, 1, lambda job, event: events.update({job["do"]: event}), worker_module)
    assert events["live"] == {"event": "done"}
    assert "ended with code 3" in events["die"]["traceback"]


def test_workers_end_when_their_parent_is_killed(worker_module, tmp_path):
    code = (
        "import sys, json; from i2p_lib.runs import pool\n"
        "pool.work(json.loads(sys.argv[1]), 1, print, sys.argv[2])\n"
    )
    file = tmp_path / "pid"
    parent = python(code, json.dumps([{"do": "sleep", "file": str(file)}]), worker_module)
    wait_until(lambda: file.exists() and file.read_text())
    child = int(file.read_text())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not alive(child), seconds=10)


def test_an_interrupt_ends_the_workers(worker_module, tmp_path):
    file = tmp_path / "pid"
    jobs = [{"do": "live", "file": str(tmp_path / "first")}, {"do": "sleep", "file": str(file)}]

    def interrupted(job, event):
        wait_until(lambda: file.exists() and file.read_text())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.work(jobs, 2, interrupted, worker_module)
    assert not alive(int(file.read_text()))
