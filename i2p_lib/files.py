"""Files: writing a result so that it is whole or absent, and fingerprints of what is on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` only when the block ends well.

    The folder is made where it is missing.  What a link names is replaced, not the link; a pipe or
    a device is written to.
    The temporary file is empty at first and keeps the suffix of `path`, because some writers
    choose their format by it.  If the block raises, the temporary file is removed and an older
    `path` stays as it was; if not, all bytes are on the disk before the file has its name.

    >>> with atomic_write("result.json") as temp:      # doctest: +SKIP
    ...     temp.write_text("{}")
    """
    path = Path(path)
    if path.exists() and not path.is_file() or str(path).startswith(("/dev/", "/proc/")):
        with tempfile.TemporaryDirectory() as folder:
            (temp := Path(folder, path.name)).touch()
            yield temp
            with open(temp, "rb") as source, open(path, "ab") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    temp.touch(exist_ok=False)
    mode = temp.stat().st_mode
    try:
        yield temp
        temp.chmod(mode)  # some writers make the file anew, for its owner alone
        _to_disk(temp)
        os.replace(temp, path)
        with suppress(OSError):  # not every system opens folders
            _to_disk(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    with ExitStack() as stack:
        stack.callback(os.close, number := os.open(path, os.O_RDONLY))
        os.fsync(number)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder that is locked."""
    for path in folder.glob(".*"):
        if re.search(r"^\..+-[0-9a-f]{32}(\.\w+)?$", path.name):
            path.unlink(missing_ok=True)


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


_NOTED: dict[Path, dict[str, str]] = {}  # what this process knows of the files of `digests`
SETTLED = 2e9  # ns after which a clock tells a file's next change from its last one


def digests(
    folder: Path, names: Iterable[str], notes: Path | None = None, anew: bool = False
) -> dict[str, str]:
    """Return {name: SHA-256} of files in a folder, which the file `notes` keeps between processes.

    A file is read again where its inode, size or times differ from those kept (nobody can set the
    time of its last change); `anew` reads all.  Raises FileNotFoundError for one that is gone.
    """
    with suppress(OSError, ValueError, TypeError):
        if notes and notes not in _NOTED:
            _NOTED[notes] = dict(json.loads(notes.read_text(encoding="utf-8")))
    known, now, found = _NOTED.get(notes, {}), {}, {}
    for name in names:
        facts = (folder / name).stat()
        stamp = " ".join(map(str, (name, facts.st_ino, facts.st_size, facts.st_mtime_ns,
                                   facts.st_ctime_ns)))  # fmt: skip
        found[name] = not anew and known.get(stamp) or sha256(folder / name)
        if time.time_ns() - facts.st_ctime_ns > SETTLED:
            now[stamp] = found[name]
    if notes and now != known:
        _NOTED[notes] = now
        with suppress(OSError):  # else the next process reads them again
            write_text(notes, json.dumps(now, indent=0))
    return found
