"""Files: writing a result so that it is whole or absent, and fingerprints of what is on disk."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` only when the block ends well.

    The folder is made where it is missing.
    The temporary file is empty at first and keeps the suffix of `path`, because some writers
    choose their format by it.  If the block raises, the temporary file is removed and an older
    `path` stays as it was.

    >>> with atomic_write("result.json") as temp:      # doctest: +SKIP
    ...     temp.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    temp.touch(exist_ok=False)
    mode = temp.stat().st_mode
    try:
        yield temp
        temp.chmod(mode)  # some writers make the file anew, for its owner alone
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text so that the file is whole or as before, see `atomic_write`."""
    with atomic_write(path) as temp:
        temp.write_text(text, encoding="utf-8")


def folder_lock(folder: Path, timeout: float = -1) -> FileLock:
    """Return the lock that whoever fills a folder holds: a hidden file beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock", timeout=timeout)


def once(known: dict[Any, Any] | None, key: Any, make: Callable[[], Any]) -> Any:
    """Return what `known` has under a key, which `make` makes the first time; None keeps nothing.

    >>> once({"a": 1}, "a", lambda: 2)
    1
    """
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


@cache
def note(text: str) -> None:
    """Say once a process, on stderr, what was found in the user's files and is worked with."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises FileNotFoundError where there is no such file.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
