"""The run store on disk: keys, folders, checkpoints, and what makes a stored run trustworthy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor, nn

from i2p_lib.data.making import project_root
from i2p_lib.files import (
    atomic_write,
    digests,
    folder_lock,
    note,
    once,
    sha256,
    write_text,
)  # fmt: skip
from i2p_lib.runs.spec import AnySpec, spec_from
from i2p_lib.sources import closure
from i2p_lib.train.loop import State, learned_tensors

CHECKPOINT = "checkpoint.pt"
UNSTABLE = ("state.json", "log.txt", CHECKPOINT)  # what may change after a run is done
NOTES = ".verified.json"  # of `digests`
NEEDED = {"spec.json", "parts.json", "metrics.json", "history.csv", "model.safetensors"}


class DamagedRun(ValueError):
    """A stored result is not what was written."""

    @classmethod
    def file(cls, path: Path, text: str) -> DamagedRun:
        """Return the error of one file of a run."""
        what = f"the folder {path.parent}" if (path.parent / "parts.json").exists() else path
        return cls(f"{text}: restore it, or move {what} away, and it is made anew")


def store_root(store: str | Path | None = None) -> Path:
    """Return the store's folder: the argument, else $I2P_RUNS, else `_runs` in the project."""
    return Path(store or os.environ.get("I2P_RUNS") or project_root() / "_runs").resolve()


def key_parts(spec: AnySpec, known: dict | None = None) -> dict[str, str]:
    """Return everything a run's key covers: spec, protocol, hashes of data, weights and sources.

    known: keeps the hashes for other specs that are asked about at the same moment.
    Versions of torch and numpy are recorded with a run and are not part of its key.
    """
    rules, modules = spec.rules, spec.modules
    return {
        "spec": spec.key_fields(),
        "protocol": once(known, rules, lambda: json.dumps(asdict(rules), sort_keys=True)),
        **{part: once(known, ("hash", name), digest)
           for part, (name, digest) in spec.inputs().items()},
        **once(known, modules, lambda: {
            f"source {name}": value for name, value in closure(modules).items()}),
    }  # fmt: skip


def key_of(parts: Any) -> str:
    """Return the key of what has these parts (what JSON can write): 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One run's place in the store."""

    spec: AnySpec
    parts: dict[str, str]
    key: str
    folder: Path

    @classmethod
    def of(
        cls, spec: AnySpec, store: str | Path | None = None, known: dict | None = None
    ) -> Entry:
        """Find the place of a spec under today's data, weights and sources; see `key_parts`."""
        parts = key_parts(spec, known)
        key = key_of(parts)
        root = once(known, ("root", store), lambda: store_root(store))
        return cls(spec, parts, key, root / key[:16])

    @classmethod
    def at(cls, spec: AnySpec, folder: str | Path) -> Entry:
        """Give a run a folder of its own, outside of a store; find it there where it was begun.

        A finished run stays what it is when sources have changed since; one that was not finished
        then starts anew.
        Raises ValueError where the folder holds another run, or other files.
        """
        folder = Path(folder).expanduser().resolve()
        parts, before = key_parts(spec), read_json(folder / "parts.json")
        entry = cls(spec, parts, key_of(parts), folder)
        if before is None:
            if folder.is_dir() and any(folder.glob("[!.]*")):
                raise ValueError(f"{folder}: expected a new folder or one of a run, got other "
                                 "files: name another one")
            return entry
        known = cls(spec, before, key_of(before), folder)
        changed = [name for name in entry.changed(before).split(", ")
                   if name and not name.startswith("source ")]  # fmt: skip
        if changed:
            old, new = (json.loads(one["spec"]) for one in (before, parts))
            differs = [f"{key} {old.get(key)} there, {value} here" for key, value in new.items()
                       if old.get(key) != value] or changed  # fmt: skip
            raise ValueError(f"{folder} holds another run ({'; '.join(differs)}): name another "
                             "folder, or go on with that run's settings")
        if known.done():
            return known
        if known.key != entry.key:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return entry

    @classmethod
    def found(cls, folder: str | Path) -> Entry:
        """Open the run that a folder holds, as it was written.

        Raises FileNotFoundError where it holds none, DamagedRun where it was changed.
        """
        folder = Path(folder).expanduser().resolve()
        settings, parts = (read_json(folder / f"{name}.json") for name in ("spec", "parts"))
        if settings is None or parts is None:
            raise FileNotFoundError(f"{folder}: expected the folder of a run, with spec.json and "
                                    "parts.json: train one with i2p train --out FOLDER")
        return cls(spec_from(settings, str(folder / "spec.json")), parts, key_of(parts), folder)

    def teachers(self) -> list[Entry]:
        """Return the places of the run's teachers in the same store, its own the last."""
        return [Entry.of(spec, self.folder.parent) for spec in self.spec.chain()[:-1]]

    def changed(self, parts: dict[str, str]) -> str:
        """Return the names of the key's parts in which a run with other `parts` differs."""
        names = sorted(parts.keys() | self.parts.keys())
        return ", ".join(name for name in names if parts.get(name) != self.parts.get(name))

    def lock(self) -> FileLock:
        """Return the lock that the process training this run holds."""
        return folder_lock(self.folder)

    def locked(self) -> bool:
        """Tell whether some process is training this run now."""
        lock = self.lock()
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def state(self) -> dict[str, Any]:
        """Return state.json, or {} where the run was never begun."""
        return read_json(self.folder / "state.json") or {}

    def done(self, anew: bool = False) -> bool:
        """Tell whether this run is finished and whole.

        anew: see `digests`.  Raises DamagedRun where a file of it has changed since.
        """
        state, path = self.state(), self.folder / "state.json"
        if state.get("state") != "done":
            return False
        files, seal = state.get("files", {}), self.seal(state)
        if state.get("seal", seal) != seal or NEEDED - {*files}:  # older runs have no seal
            raise DamagedRun.file(path, f"{path} has changed since, or is of another run")
        for name, wanted in files.items():
            path, size = self.folder / name, wanted["size"]
            if not path.exists():
                raise DamagedRun.file(path, f"the stored run lost its file {path}")
            if (found := path.stat().st_size) != size:
                raise DamagedRun.file(path, f"{path} should hold {size} bytes, holds {found}")
        for name, found in digests(self.folder, files, self.folder / NOTES, anew).items():
            if found != files[name]["sha256"]:
                path = self.folder / name
                raise DamagedRun.file(path, f"{path} has changed since its run was finished")
        return True

    def seal(self, state: dict[str, Any]) -> str:
        """Return one digest of this run's key and of all that its state.json says."""
        return key_of([self.key, {name: state[name] for name in state if name != "seal"}])

    def log(self, text: str) -> None:
        """Append one line to the run's log, where it can be written."""
        log = self.folder / "log.txt"
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            file.write(f"{pd.Timestamp.now():%Y-%m-%d %H:%M:%S} {text}\n")


def read_json(path: Path) -> Any:
    """Return the object in a run's JSON file, or None where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedRun.file(path, f"{path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedRun.file(path, f"{path} is not JSON of a run: it holds no object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, rows: list[dict] | pd.DataFrame) -> None:
    """Write rows as CSV whole or not at all; floats keep all their digits."""
    with atomic_write(path) as temp:
        pd.DataFrame(rows).to_csv(temp, index=False)


def write_tensors(path: Path, tensors: dict[str, Tensor], note: dict | None = None) -> None:
    """Write tensors (and a JSON note in the header) whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temp:
        save_file(plain, temp, metadata={"note": json.dumps(note or {})})


def load_learned(net: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Put learned tensors into a freshly built network; both must name the same tensors."""
    if odd := learned_tensors(net).keys() ^ tensors.keys():
        odd = sorted(odd)[:3]
        raise DamagedRun(f"{origin} does not fit this network; they differ in {odd} ...")
    net.load_state_dict(tensors, strict=False)


def write_checkpoint(path: Path, state: State) -> None:
    """Write all that going on needs as one file, which ends with the SHA-256 of all before."""
    note = {name: getattr(state, name) for name in ("epoch", "history", "probes")}
    tensors = {"net": learned_tensors(state.net), "best": state.best}
    tensors["optimizer"] = state.optimizer.state_dict()
    with atomic_write(path) as temp:
        torch.save({"note": json.dumps(note)} | tensors, temp)
        digest = sha256(temp)
        with open(temp, "ab") as file:
            file.write(digest.encode())


def read_checkpoint(path: Path, state: State) -> None:
    """Bring a run that has just been started to where its checkpoint was written.

    Raises DamagedRun where the file is not what was written or belongs to another network.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as all_:
            told, found = all_[-64:], hashlib.sha256(memoryview(all_)[:-64]).hexdigest()
        if told != found.encode():
            raise DamagedRun(f"{path} is no whole checkpoint (its SHA-256 is not that at its end)")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        load_learned(state.net, saved["net"], path)
        state.optimizer.load_state_dict(saved["optimizer"])
        state.best, kept = saved["best"], json.loads(saved["note"])
        state.epoch, state.history, state.probes = map(kept.pop, ("epoch", "history", "probes"))
    except (OSError, MemoryError, torch.OutOfMemoryError, DamagedRun):
        raise
    except Exception as error:  # what is no checkpoint of this run fails in many ways
        raise DamagedRun(f"{path} is no whole checkpoint ({type(error).__name__})") from error


def last_line(text: str) -> str:
    """Return the last line of a traceback, which says what was wrong."""
    return (text.strip() or "no message").splitlines()[-1]


def stored_runs(store: str | Path | None = None) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield (folder, key parts) of every run folder in the store whose parts can be read."""
    for file in sorted(store_root(store).glob("*/parts.json")):
        try:
            parts = read_json(file) or {}
            yield file.parent, {"spec": parts["spec"]} | parts
        except (DamagedRun, KeyError) as error:
            note(f"left out: {file}: {error}")


def audit(folder: Path) -> bool:
    """Read all files of the run in a folder anew; see `Entry.done`."""
    parts = read_json(folder / "parts.json") or {}
    return Entry(None, parts, key_of(parts), folder).done(anew=True)
