"""What sets of scenes share: the manifest, written last, its hash, work on many files, counts.

`manifest.json` of a set:

    layout        whose files these are, such as "s3dis"
    scenes_in     the folder of the files; "." is the manifest's own
    scenes        points of each scene by its name
    class_points  labelled points of each class, and of none as the last number
    repairs       lines that were repaired: file, line, what it was, what was read
    settings      what a generator was asked for; empty for a real set
    files         SHA-256 of each file by its name in `scenes_in`
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from i2p_lib.files import atomic_write, sha256

IGNORED = -1  # the label of points that are not counted
MANIFEST = "manifest.json"
_STAMPS = ".verified.json"
_KEYS = {"layout", "scenes_in", "scenes", "class_points", "repairs", "settings", "files"}


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest of a set that is whole, and note that its files were just hashed."""
    if set(manifest) != _KEYS:
        raise ValueError(f"a manifest has the keys {sorted(_KEYS)}, got {sorted(manifest)}")
    with atomic_write(folder / MANIFEST) as temp:
        temp.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    _write_stamps(folder, _stamps(folder, manifest))


def read_manifest(folder: Path, layout: str) -> dict:
    """Return the manifest of a set.

    Raises FileNotFoundError where there is none, so the set was never made or not to its end,
    and ValueError where it is damaged or of another layout.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: this set of scenes is not here, or not whole")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): make the set again") from error
    if not isinstance(manifest, dict) or set(manifest) != _KEYS:
        raise ValueError(f"{path}: expected the keys {sorted(_KEYS)}: make the set again")
    if manifest["layout"] != layout:
        raise ValueError(f"{path}: expected the layout {layout}, got {manifest['layout']}")
    return manifest


def scenes_folder(folder: Path, manifest: dict) -> Path:
    """Return the folder that holds the files of a manifest."""
    return (folder / manifest["scenes_in"]).resolve()


def content_hash(folder: Path, manifest: dict) -> str:
    """Return one SHA-256 over the names and contents of a set's files.

    A file is read where its size or time differ from those at its last check; the times of the
    checks are kept beside the manifest where the folder can be written.
    Raises FileNotFoundError for a file that is gone, ValueError for one whose bytes differ.
    """
    now, known = _stamps(folder, manifest), _read_stamps(folder)
    where = scenes_folder(folder, manifest)
    changed = [name for name, stamp in now.items() if known.get(name) != stamp]
    for name in changed:
        if (got := sha256(where / name)) != manifest["files"][name]:
            raise ValueError(
                f"{where / name}: expected SHA-256 {manifest['files'][name]}, got {got}; "
                "the file was changed after the set was made: restore it or make the set again"
            )
    if changed:
        try:
            _write_stamps(folder, now)
        except OSError:
            pass  # a folder that cannot be written is checked anew by the next process
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(manifest["files"].items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _stamps(folder: Path, manifest: dict) -> dict[str, list]:
    """Return what tells without reading that a file is the one that was hashed."""
    where = scenes_folder(folder, manifest)
    stamps = {}
    for name, digest in manifest["files"].items():
        try:
            found = (where / name).stat()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{where / name} is missing, but {folder / MANIFEST} names it"
            ) from None
        stamps[name] = [digest, found.st_size, found.st_mtime_ns]
    return stamps


def _read_stamps(folder: Path) -> dict[str, list]:
    try:
        return dict(json.loads((folder / _STAMPS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_stamps(folder: Path, stamps: dict[str, list]) -> None:
    with atomic_write(folder / _STAMPS) as temp:
        temp.write_text(json.dumps(stamps), encoding="utf-8")


def do_all(
    work: Callable[[Any], Any], items: Sequence, workers: int, progress: bool, unit: str
) -> list:
    """Return `work(item)` of all items, in order, with a bar that shows the time left.

    With more than one worker `work` runs in processes and must be picklable.  At the first error,
    or when interrupted, what has not begun is dropped.
    """
    bar = partial(tqdm, total=len(items), unit=unit, disable=not progress)
    if workers <= 1:
        return [work(item) for item in bar(items)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            return list(bar(pool.map(work, items)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def histogram(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the points of each class and, last, of none: [classes + 1] int64."""
    counts = np.bincount(labels.astype(np.int64) - IGNORED, minlength=classes + 1)
    return np.roll(counts, -1)


def unlike_published(
    source: Path, names: Sequence[str], found: Sequence[int], published: Sequence[float],
    factor: float,
) -> None:  # fmt: skip
    """Raise ValueError where a class's share of the labelled points is far from a published one.

    found: points of each class (one more, of no class, is not counted); factor: how far.
    """
    found, published = np.array(found[: len(names)], float), np.array(published, float)
    found, published = found / found.sum(), published / published.sum()
    off = (found > factor * published) | (published > factor * found)
    if off.any():
        which = ", ".join(
            f"{names[i]} {found[i]:.3g} (published {published[i]:.3g})" for i in np.flatnonzero(off)
        )
        raise ValueError(
            f"{source}: shares of points that are more than {factor} times off: {which}; the set "
            "is not the published one (--part takes others)"
        )
