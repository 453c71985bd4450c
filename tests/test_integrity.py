"""What is read is what was written, and what is finished stays finished."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from i2p_lib import cli, files
from i2p_lib.runs import DamagedRun, RunError, RunSpec, execute, run, run_all, status, store
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.store import Entry

SPEC = RunSpec(
    model="mobilenetv3_small_050", weights="random", points=64, epochs=3, batch_size=8,
    train_limit=16, test_limit=8, probe_epochs=(),
)  # fmt: skip
ROOT = Path(__file__).parent.parent


class Stop(BaseException):
    """Stands for a process that is interrupted."""


def stop_after(epoch):
    def hook(state):
        if state.epoch == epoch:
            raise Stop

    return hook


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store that holds SPEC, and another one where it was stopped after its second epoch."""
    roots = [tmp_path_factory.mktemp(name) for name in ("finished", "halted")]
    run(SPEC, store=roots[0], progress=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(execute, "CHECKPOINT_SECONDS", 0)
        execute.train_entry(Entry.of(SPEC, roots[1]), hooks=[stop_after(2)])
    return roots


@pytest.fixture
def copied(kept, tmp_path):
    """A copy of the finished store, to be damaged."""
    return Path(shutil.copytree(kept[0], tmp_path / "copied"))


def folder_of(root):
    return Entry.of(SPEC, root).folder


def flipped(data, place):
    """Bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def saved_anew(change):
    """A damage that a program makes which reads a checkpoint and writes it again."""

    def damage(path):
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return damage


def other_epoch(saved):
    saved["note"] = saved["note"].replace('"epoch": 2', '"epoch": 1', 1)


def other_moment(saved):
    next(iter(saved["optimizer"]["state"].values()))["exp_avg"].add_(1)


def as_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGE = {
    "a flipped bit": as_bytes(lambda data: flipped(data, len(data) // 2)),
    "a flipped bit of the digest": as_bytes(lambda data: flipped(data, len(data) - 5)),
    "truncated": as_bytes(lambda data: data[:-1000]),
    "empty": as_bytes(lambda data: b""),
    "another epoch": saved_anew(other_epoch),
    "another weight": saved_anew(lambda saved: next(iter(saved["net"].values())).add_(1)),
    "another optimizer": saved_anew(other_moment),
    "no note": saved_anew(lambda saved: saved.pop("note")),
    "no optimizer": saved_anew(lambda saved: saved.pop("optimizer")),
    "of another type": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_is_read_as_it_was_written_or_not_at_all(kept, tmp_path, damage):
    path = Path(shutil.copy(folder_of(kept[1]) / store.CHECKPOINT, tmp_path))
    store.read_checkpoint(path, state := execute.begin(SPEC))
    assert state.epoch == 2
    damage(path)
    with pytest.raises(DamagedRun, match="is no whole checkpoint"):
        store.read_checkpoint(path, execute.begin(SPEC))


def test_a_damaged_checkpoint_starts_anew_and_says_so(kept, tmp_path, capsys):
    root = Path(shutil.copytree(kept[1], tmp_path / "halted"))
    DAMAGE["another weight"](folder_of(root) / store.CHECKPOINT)
    (result,) = run_all([SPEC], workers=1, store=root, progress=False)  # in a process of its own
    assert result.history["train_loss"].equals(run(SPEC, store=kept[0]).history["train_loss"])
    for said in ((result.folder / "log.txt").read_text(), capsys.readouterr().err):
        assert f"start anew: {result.folder / store.CHECKPOINT} is no whole checkpoint" in said


def test_a_whole_checkpoint_with_other_content_than_a_run_needs_starts_anew(kept, tmp_path):
    """Promise: a key that is missing under a right digest is no crash either."""
    state = execute.begin(SPEC)
    for lacking in ({}, {"net": {}}, {"note": 3, "net": {}, "best": {}, "optimizer": {}}):
        torch.save(lacking, path := tmp_path / "checkpoint.pt")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.write_bytes(path.read_bytes() + digest.encode())
        with pytest.raises(DamagedRun, match="is no whole checkpoint|does not fit this network"):
            store.read_checkpoint(path, state)


def edited(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=1) + "\n")


def forged(folder, entry=False):
    """Make a better score of a run's metrics, and its table of files to match."""
    path = folder / "metrics.json"
    edited(path, lambda metrics: metrics.update(top1=1.0))
    facts = {"size": path.stat().st_size, "sha256": files.sha256(path)}
    edited(folder / "state.json", lambda state: state["files"].update({path.name: facts}))


FORGED = {
    "metrics and its line of the table": forged,
    "an empty table": lambda folder: edited(
        folder / "state.json", lambda state: state.update(files={})),
    "no table": lambda folder: edited(folder / "state.json", lambda state: state.pop("files")),
    "a line less": lambda folder: edited(
        folder / "state.json", lambda state: state["files"].pop("metrics.json")),
    "other classes": lambda folder: edited(
        folder / "state.json", lambda state: state["class_names"].reverse()),
    "no seal and no table": lambda folder: edited(
        folder / "state.json", lambda state: (state.pop("seal"), state.update(files={}))),
}  # fmt: skip


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_finished_run_is_sealed_with_its_table_of_files(copied, forge):
    forge(folder_of(copied))
    with pytest.raises(DamagedRun, match="state.json .*move the folder .* away"):
        run(SPEC, store=copied)
    assert list(status([SPEC], store=copied)["state"]) == ["failed"]


def test_the_files_of_another_run_are_not_taken_for_this_one(copied):
    other = Entry.of(SPEC.but(seed=1), copied)
    shutil.copytree(folder_of(copied), other.folder)
    with pytest.raises(DamagedRun, match="state.json .* is of another run"):
        run(SPEC.but(seed=1), store=copied)


def test_a_run_that_was_finished_before_there_were_seals_is_read(copied):
    edited(folder_of(copied) / "state.json", lambda state: state.pop("seal"))
    assert run(SPEC, store=copied).metrics["classes"] > 1


def test_a_finished_file_is_read_once_and_again_where_it_was_written(tmp_path, monkeypatch):
    """Promise: neither its size nor a time set back hides a change; notes outlive the process."""
    monkeypatch.setattr(files, "SETTLED", -1)
    read, real = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or real(path))
    (path := tmp_path / "room.h5").write_bytes(b"points")
    look = lambda **how: files.digests(tmp_path, ["room.h5"], tmp_path / ".notes", **how)  # noqa: E731
    first, times = look(), path.stat()
    assert look() == first and read == ["room.h5"]
    monkeypatch.setattr(files, "_NOTED", {})  # as in another process
    assert look() == first and read == ["room.h5"]
    time.sleep(0.02)
    path.write_bytes(b"pointz")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert look() != first and read == ["room.h5"] * 2
    assert look(anew=True) and len(read) == 3
    (tmp_path / ".notes").write_text("[1")
    monkeypatch.setattr(files, "_NOTED", {})
    assert look() != first and len(read) == 4


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, monkeypatch):
    """Promise: two changes within one tick of the clock are told apart."""
    (path := tmp_path / "room.h5").write_bytes(b"points")
    first, facts = files.digests(tmp_path, [path.name], tmp_path / ".notes"), path.stat()
    path.write_bytes(b"pointz")
    monkeypatch.setattr(Path, "stat", lambda *args, **how: facts)
    assert files.digests(tmp_path, [path.name], tmp_path / ".notes") != first


def test_a_log_that_cannot_be_written_undoes_no_run(tmp_path):
    entry = Entry.of(SPEC, tmp_path)
    (entry.folder / "log.txt").mkdir(parents=True)  # every line of it is an OSError
    assert run(SPEC, store=tmp_path, progress=False).metrics["classes"] > 1
    assert entry.done()


def test_a_finished_run_never_becomes_a_failed_one(copied):
    entry = Entry.of(SPEC, copied)
    before = (entry.folder / "state.json").read_bytes()
    execute.mark_failed(entry, "Traceback\nthe worker died")
    assert (entry.folder / "state.json").read_bytes() == before


def test_a_run_that_another_process_trains_is_not_marked_as_failed(kept, tmp_path):
    entry = Entry.of(SPEC, Path(shutil.copytree(kept[1], tmp_path / "halted")))
    with entry.lock():
        execute.mark_failed(entry, "the worker died")
        assert entry.state()["state"] == "running"
    execute.mark_failed(entry, "the worker died")
    assert entry.state()["state"] == "failed"
    execute.mark_failed(Entry.of(SPEC, tmp_path / "new"), "it died before it began")
    assert Entry.of(SPEC, tmp_path / "new").state()["traceback"] == "it died before it began"


def test_what_killed_processes_left_is_swept_when_the_run_goes_on(kept, tmp_path):
    root = Path(shutil.copytree(kept[1], tmp_path / "halted"))
    left = folder_of(root) / f".checkpoint-{'0123456789abcdef' * 2}.pt"
    mine = [folder_of(root) / name for name in (".notes-of-mine.txt", "plan-0123.txt")]
    for path in (left, *mine):
        path.write_bytes(b"half")
    run(SPEC, store=root, progress=False)
    assert not left.exists() and all(path.exists() for path in mine)


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append("fsync"))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or real(*paths))
    store.write_json(tmp_path / "state.json", {})
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (target := tmp_path / "there" / "table.csv").write_text("old")
    (link := tmp_path / "table.csv").symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    target.unlink()
    files.write_text(link, "made")
    assert link.is_symlink() and target.read_text() == "made"
    assert [path.name for path in target.parent.iterdir()] == ["table.csv"]


def test_a_pipe_or_a_device_is_written_through(tmp_path):
    code = "import sys; from i2p_lib.files import write_text; write_text('/dev/stdout', 'a,b\\n')"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "a,b\n"
    (path := tmp_path / "all.csv").write_text("first\n")
    with open(path, "a") as file:
        subprocess.run(command, cwd=ROOT, stdout=file, check=True)
    assert path.read_text() == "first\na,b\n"
    os.mkfifo(pipe := tmp_path / "pipe")
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        files.write_text(pipe, "through")
        assert reader.communicate(timeout=30)[0] == b"through"
    assert not pipe.is_file() and pipe.exists()


TERM = """
import os, sys, time
from i2p_lib import cli
from i2p_lib.runs import pool
def act(options):
    job = {"do": "sleep", "file": sys.argv[1]}
    pool.work([job], 1, print, "odd_worker")
cli._doctor = act
sys.exit(cli.main(["doctor"]))
"""
WORKER = """
import os, time
from i2p_lib.runs import worker
def serve(job, tell):
    open(job["file"], "w").write(str(os.getpid()))
    time.sleep(60)
worker._serve = serve
worker.main()
"""


def test_being_told_to_end_is_like_being_stopped_by_hand(tmp_path, monkeypatch):
    """Promise: SIGTERM ends a command with 130 and a line; its workers end, too."""
    (tmp_path / "odd_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    file = tmp_path / "pid"
    command = [sys.executable, "-c", TERM, str(file)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        end = time.monotonic() + 120
        while not (file.exists() and file.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        parent.send_signal(signal.SIGTERM)
        assert "goes on from here" in parent.communicate(timeout=60)[1]
    assert parent.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_the_second_book_says_who_builds_the_first(tiny):
    from i2p_lib.book.build import alone

    with alone(tiny), pytest.raises(RuntimeError, match=f"process {os.getpid()} on .* builds"):
        with alone(tiny):
            raise AssertionError("two at once")
    with alone(tiny):
        pass


BAD_FILES = {
    "state.json": [b"{", b"[1]", b"\xff\xfe"],
    "metrics.json": [b"", b"[]"],
    "parts.json": [b"[]", b"{", b"{}"],
    "history.csv": [b"\x00"],
}
BAD = [(name, content) for name, contents in BAD_FILES.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), BAD)
def test_one_bad_file_of_one_run_is_listed_and_stops_nothing_else(copied, capsys, name, content):
    """Promise: status names the run and why, a forecast goes on, other runs are found; nobody is
    told to delete a store."""
    from i2p_lib.runs.cost import CostModel
    from i2p_lib.runs.training import undone

    files.note.cache_clear()
    (folder_of(copied) / name).write_bytes(content)
    table = status([SPEC, SPEC.but(seed=1)], store=copied)
    assert list(table["state"]) == ["failed", "missing"] and name in table["why"][0]
    assert CostModel.of("cpu", copied).factor > 0
    missing, damaged = undone([Entry.of(spec, copied) for spec in (SPEC, SPEC.but(seed=1))])
    assert len(missing) == 1 and name in "".join(damaged.values())
    said = capsys.readouterr().err + table["why"][0]
    assert "delete" not in said and f"{copied} " not in said


def test_the_runs_that_are_whole_are_trained_beside_a_damaged_one(copied):
    other = SPEC.but(seed=1, epochs=1)
    (folder_of(copied) / "history.csv").write_text("")
    with pytest.raises(RunError, match=r"1 of 2 runs failed(.|\n)*history.csv should hold"):
        run_all([SPEC, other], workers=1, store=copied, progress=False)
    assert run(other, store=copied).metrics["classes"] > 1


def test_a_chapter_that_reads_no_failed_run_is_executed(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yml"
    path.write_text("experiments: {good: [{seed: 0, lr: 0.1}], bad: [{seed: 1, lr: 0.1}]}\n"
                    "chapters: {00_method: [good], 01_transfer: [bad]}\n")  # fmt: skip
    (bad,) = load_profile(path).experiment("bad")

    def failing(specs, *_):
        raise RunError([(bad, "history.csv should hold 3 bytes")], len(specs))

    done = []
    monkeypatch.setenv("I2P_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(cli, "_train", failing)
    monkeypatch.setattr("i2p_lib.book.notebooks.execute", lambda chapter, *_: done.append(
        chapter.name) or {"chapter": chapter.name, "seconds": 0.0})  # fmt: skip
    assert cli.main(["run", "0", "1", "--profile", str(path)]) == 1
    said = capsys.readouterr()
    assert done == ["00_method"] and "01_transfer: not executed, a run of it failed" in said.out
    assert "history.csv should hold 3 bytes" in said.err


def test_check_reads_all_again_and_lists_what_is_damaged(copied, capsys, monkeypatch):
    """Promise: it finds a bit that flipped on the disk, where no time of a file tells of it."""
    monkeypatch.setenv("I2P_RUNS", str(copied))
    monkeypatch.setenv("I2P_DATA", str(copied / "data"))
    monkeypatch.setattr(files, "SETTLED", -1)
    assert cli.main(["check"]) == 0
    assert "1 runs and 1 sets read: 0 damaged" in capsys.readouterr().out
    path = folder_of(copied) / "model.safetensors"
    path.write_bytes(flipped(path.read_bytes(), 1000))
    stamps = folder_of(copied) / ".verified.json"
    known, facts = json.loads(stamps.read_text()), path.stat()
    stamp = f"{path.name} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    known[stamp] = next(value for key, value in known.items() if key.startswith(path.name))
    stamps.write_text(json.dumps(known))
    monkeypatch.setattr(files, "_NOTED", {})
    assert Entry.of(SPEC, copied).done()
    assert cli.main(["check"]) == 1
    assert f"damaged: {path} has changed" in capsys.readouterr().out
    assert cli.main(["check", str(path.parent)]) == 1
    assert not status([SPEC], store=copied)["why"].eq("").any()  # and it is known from then on
