"""Manifests: reading the record of a set's files, holding the files against it, and one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from i2p_lib.files import sha256

MANIFEST = "manifest.json"


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


def stamps(folder: Path, files: Mapping[str, str]) -> dict[str, list]:
    """Return what tells without reading that files are those hashed: {name: hash, size, time}.

    Raises FileNotFoundError for a file that is gone.
    """
    found = {}
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but {MANIFEST} names it")
        facts = path.stat()
        found[name] = [digest, facts.st_size, facts.st_mtime_ns]
    return found


def check_files(
    folder: Path, files: Mapping[str, str], known: Mapping[str, list] | None = None
) -> dict[str, list]:
    """Hold files against their SHA-256 and return their stamps.

    known: stamps of an earlier check; only files whose stamps differ are read.
    Raises FileNotFoundError for a file that is gone, ValueError for one whose bytes differ.
    """
    now = stamps(folder, files)
    for name, digest in files.items():
        if known and known.get(name) == now[name]:
            continue
        if (got := sha256(folder / name)) != digest:
            raise ValueError(
                f"{folder / name}: expected SHA-256 {digest}, got {got}; the file was changed "
                "after the set was made: restore it or make the set again"
            )
    return now


def combined_hash(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and hashes of files, whatever their order."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
