"""Manifests: the record of a set's files, holding the files against it, and one hash."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from i2p_lib.files import sha256, write_text

MANIFEST = "manifest.json"
_STAMPS = ".verified.json"


def read_manifest(folder: Path, keys: Collection[str] = ("files",)) -> dict:
    """Return the manifest of a set, which has `files`, {name: SHA-256}, among its keys.

    Raises FileNotFoundError where there is none, and ValueError where it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: this set is not here, or not whole")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): make the set again") from error
    whole = isinstance(manifest, dict) and set(keys) <= set(manifest)
    if not whole or not isinstance(manifest["files"], dict):
        raise ValueError(f"{path}: expected the keys {sorted(keys)}: make the set again")
    return manifest


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest of a set of scenes that is whole, and note that its files were just
    hashed.  Its keys are those of `scenes`.
    """
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
    place = files_folder(folder, manifest)
    known = {name: _stamp(place / name, digest) for name, digest in manifest["files"].items()}
    write_text(folder / _STAMPS, json.dumps(known))


def files_folder(folder: Path, manifest: dict) -> Path:
    """Return the folder that holds the files of a manifest."""
    return (folder / manifest.get("scenes_in", ".")).resolve()


def check_files(folder: Path, files: Mapping[str, str],
                known: Mapping[str, list] | None = None) -> dict[str, list]:
    """Hold files against their SHA-256; return {name: hash, size, time}, which tells without
    reading that files are those hashed.

    known: what an earlier check returned; only files that changed since are read.
    Raises FileNotFoundError for a file that is gone, ValueError for one whose bytes differ.
    """
    now = {name: _stamp(folder / name, digest) for name, digest in files.items()}
    for name, digest in files.items():
        if known and known.get(name) == now[name]:
            continue
        if (got := sha256(folder / name)) != digest:
            raise ValueError(f"{folder / name}: expected SHA-256 {digest}, got {got}; the file was "
                             "changed after the set was made: restore it or make the set again")
    return now


def content_hash(folder: Path, manifest: dict) -> str:
    """Return one SHA-256 over the names and contents of a set's files.

    A file is read where its size or time differ from those at its last check, which are kept beside
    the manifest where the folder can be written.  Raises as `check_files` does.
    """
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads((folder / _STAMPS).read_text(encoding="utf-8")))
    now = check_files(files_folder(folder, manifest), manifest["files"], known)
    if now != known:
        with contextlib.suppress(OSError):  # else the next process checks anew
            write_text(folder / _STAMPS, json.dumps(now))
    return combined_hash(manifest["files"])


def combined_hash(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and hashes of files, whatever their order."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _stamp(path: Path, digest: str) -> list:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but {MANIFEST} names it")
    facts = path.stat()
    return [digest, facts.st_size, facts.st_mtime_ns]
