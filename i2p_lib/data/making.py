"""Sets that a script of data_scripts makes: run as a process of its own, whole or not there."""

import ast
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from i2p_lib.files import folder_lock, sha256, write_text
from i2p_lib.sources import PACKAGE, imports, reached

NOTE = "made_by.json"
"""What a made set rests on: its command, and the hash of the command's sources."""


def project_root() -> Path:
    """Return the checkout this package lies in, or the working folder where it is installed."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_folder(name: str) -> Path:
    """Return `$I2P_DATA/<name>` or, without I2P_DATA, `<project root>/data_cache/<name>`."""
    given = os.environ.get("I2P_DATA")
    return (Path(given).expanduser().resolve() if given else project_root() / "data_cache") / name


def built(name: str, mark: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of a set, see `data_folder`; where `mark` is not in it, `build` fills one.

    Of processes that ask at once one works; the set has its name only when it is whole.
    """
    folder = data_folder(name)
    with folder_lock(folder):
        if not (folder / mark).is_file():
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temp:
                (whole := Path(temp) / name).mkdir()
                build(whole)
                whole.rename(folder)
    return folder


def made(name: str, command: str, inputs: Sequence[str] = (), progress: bool = True) -> Path:
    """Return the folder of a set that a script makes from nothing; made where it is not there.

    name     of the folder, see `data_folder`
    command  script and settings, such as "data_scripts/simulate_rooms.py --seed 0"; it gets
             `--output FOLDER`, and may go on with what an interrupted call left there
    inputs   hashes of other sets that the script reads

    Of processes that ask at once one works and the others wait.  The set has its name only when it
    is whole, and is made anew where command, sources or inputs changed; then NOTE says which.
    Where the script is not here a set that it made is taken as it is.

    Raises FileNotFoundError where neither is here, and RuntimeError as `run_script` does.
    """
    folder, script = data_folder(name), project_root() / command.split()[0]
    with folder_lock(folder):
        note = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            note = dict(json.loads((folder / NOTE).read_text(encoding="utf-8")))
        if note and not script.is_file():
            return folder
        sources = sources_hash(script, command, *inputs)
        if note.get("sources") == sources:
            return folder
        work = folder.parent / f".{folder.name}-{sources[:16]}"
        for old in folder.parent.glob(f".{folder.name}-*"):
            if old != work:
                shutil.rmtree(old)
        run_script(command, ["--output", str(work)], progress)
        note = {"command": command, "sources": sources}
        write_text(work / NOTE, json.dumps(note, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(work, folder)
    return folder


def sources_hash(script: Path, *more: str) -> str:
    """Return a SHA-256 over a script, what it imports from its own folder, and the texts `more`.

    Raises FileNotFoundError, with what to do, where there is no such script.
    """
    if not script.is_file():
        raise FileNotFoundError(f"{script} is not there, and nothing that it made: work in a "
                                "checkout of the book, which has the folder data_scripts, or copy "
                                "a made set into the data folder")
    home = script.parent

    def imported(file: Path) -> Iterator[Path]:
        for name in imports(ast.parse(file.read_bytes()), typing=True):
            place = home.joinpath(*name.split("."))
            yield from (one.with_suffix(".py") for one in (place, place.parent) if one != home)

    files = reached([script], imported)
    lines = sorted(f"{file.relative_to(home).as_posix()} {sha256(file)}" for file in files)
    return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()


def run_script(command: str, words: Sequence[str], progress: bool = True) -> None:
    """Run a script of the project from its root, in this Python; its progress is shown here.

    Raises RuntimeError with the script's own message where it fails, KeyboardInterrupt where it
    was stopped, and FileNotFoundError where it is not there.
    """
    root, (script, *settings) = project_root(), command.split()
    sources_hash(root / script)  # says what to do where it is not there
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if not progress:
        environment["TQDM_DISABLE"] = "1"
    process = subprocess.Popen([sys.executable, script, *settings, *words], cwd=root,
                               env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)  # fmt: skip
    said = []
    try:  # lines end with \n, or with \r where a progress bar is drawn anew
        for line in io.TextIOWrapper(process.stderr, "utf-8", "replace", newline=""):
            said = [*said[-20:], line.strip()]
            if progress and not line.startswith("error: "):
                sys.stderr.write(line)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status == 130:
        raise KeyboardInterrupt
    if status:
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise RuntimeError(errors[-1] if errors else f"{script} failed: " + "\n".join(said[-5:]))
