"""Manifests: the record of a set's files, holding the files against it, and one hash."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from i2p_lib.files import digests, write_text

MANIFEST = "manifest.json"
_NOTES = ".verified.json"  # of `digests`


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
    """Write the manifest of a set of scenes that is whole; its keys are those of `scenes`."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))


def files_folder(folder: Path, manifest: dict) -> Path:
    """Return the folder that holds the files of a manifest."""
    return (folder / manifest.get("scenes_in", ".")).resolve()


def check_files(
    folder: Path, files: Mapping[str, str], notes: Path | None = None, anew: bool = False
) -> None:
    """Hold files against their SHA-256.

    notes, anew: as of `digests`.
    Raises FileNotFoundError for a file that is gone, ValueError for one whose bytes differ.
    """
    for name in files:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, but {MANIFEST} names it")
    for name, got in digests(folder, files, notes, anew).items():
        if got != files[name]:
            raise ValueError(
                f"{folder / name}: expected SHA-256 {files[name]}, got {got}; the file was changed "
                "after the set was made: restore it or make the set again"
            )


def content_hash(folder: Path, manifest: dict) -> str:
    """Return one SHA-256 over the names and contents of a set's files; files that changed are read.

    Raises as `check_files` does.
    """
    check_files(files_folder(folder, manifest), manifest["files"], folder / _NOTES)
    return combined_hash(manifest["files"])


def audit(folder: Path) -> None:
    """Read all files of a set again; raises as `read_manifest` and `check_files` do."""
    manifest = read_manifest(folder)
    notes = folder / _NOTES if "scenes" in manifest else None
    check_files(files_folder(folder, manifest), manifest["files"], notes, anew=True)


def combined_hash(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and hashes of files, whatever their order."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
