"""Executing the chapters with papermill: a chapter is published whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from i2p_lib.files import atomic_write, sha256
from i2p_lib.machine import describe_machine, package_versions
from i2p_lib.runs.needs import available, lacking_text
from i2p_lib.runs.profiles import Profile, load_profile
from i2p_lib.runs.sources import PACKAGE, source_hash
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import Entry
from i2p_lib.train.settings import unknown_key

CELL_TIMEOUT = 3600
# modules that no chapter's output depends on
PAGE_SOURCES = ("book/", "cli.py", "doctor.py", "environment.py", )


class NotebookFailed(RuntimeError):
    """A chapter did not run whole; the message names the cell, the error and the kept copy."""


@dataclass(frozen=True)
class Project:
    """Where the sources lie (root) and where what is built goes (build)."""

    root: Path
    build: Path

    @classmethod
    def default(cls) -> Project:
        """Return the checkout of this package; $I2P_BUILD moves what is built (for tests)."""
        root = PACKAGE.parent
        return cls(root, Path(os.environ.get("I2P_BUILD") or root / "_build").resolve())

    def sources(self) -> dict[str, Path]:
        """Return {chapter: notebook}, in the order of their numbers."""
        return {path.stem: path for path in sorted((self.root / "notebooks").glob("[0-9]*.ipynb"))}

    def profile(self, name: str) -> Profile:
        """Load a profile of this project; FileNotFoundError names close ones."""
        own = self.root / "notebooks" / "profiles" / f"{name}.yml"
        return load_profile(own if own.is_file() else name)

    def chapters(self, wanted: list[str] | None = None) -> list[str]:
        """Return the chapters asked for: whole names, or just their numbers ("3", "03").

        Raises ValueError with close matches for an unknown one.
        """
        known = tuple(self.sources())
        if not wanted:
            return list(known)
        numbers = {str(int(stem.split("_")[0])): stem for stem in known}
        chosen = []
        for name in wanted:
            stem = numbers.get(str(int(name))) if name.isdecimal() else Path(name).stem
            if stem not in known:
                raise ValueError(unknown_key(name, known, "chapter"))
            chosen.append(stem)
        return sorted(set(chosen))


@dataclass(frozen=True)
class Chapter:
    """One notebook at one profile: its source, its executed copy and that copy's provenance."""

    name: str
    source: Path
    folder: Path
    items: Path
    profile: Profile

    @classmethod
    def of(cls, project: Project, name: str, profile: Profile) -> Chapter:
        folder = project.build / "notebooks" / profile.name
        items = project.build / "items" / profile.name
        return cls(name, project.sources()[name], folder, items, profile)

    @property
    def executed(self) -> Path:
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        return self.folder / f"{self.name}.failed.ipynb"

    def provenance(self) -> dict[str, Any] | None:
        """Return what was recorded with the executed copy, None where it is absent or damaged."""
        try:
            record = json.loads(self.executed.with_suffix(".json").read_text(encoding="utf-8"))
            whole = record["sha256"] == sha256(self.executed)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def entries(self) -> list[Entry]:
        """Return the store entries of the chapter's runs that can be trained here."""
        return available(self._specs())[0]

    def lacks(self) -> str | None:
        """Return why the chapter cannot be executed here: no run of it can be trained.

        A chapter without runs shows the profile's data, so it lacks what all runs lack.
        """
        return lacking_text(self._specs() or self.profile.all_specs())

    def _specs(self) -> list[AnySpec]:
        return self.profile.all_specs(self.name) if self.name in self.profile.chapters else []


def digest_parts(chapter: Chapter, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return everything an executed chapter depends on, by name, as hashes.

    The runs' keys cover the hashes of data and weights.
    """
    notebook = nbformat.read(chapter.source, as_version=4)
    cells = [[c.cell_type, c.source, c.metadata] for c in notebook.cells]
    parts = {
        "notebook": _hash(cells),
        "profile": sha256(chapter.profile.path),
        "parameters": _hash(dict(parameters)),
        "runs": _hash([entry.key for entry in chapter.entries()]),
    }
    for path in sorted([*PACKAGE.rglob("*.csv"), *PACKAGE.rglob("manifest*")]):
        parts[f"file {path.name}"] = sha256(path)
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(PAGE_SOURCES):
            parts[f"i2p_lib/{name}"] = source_hash(path.read_text(encoding="utf-8"))
    return parts


def chapter_state(chapter: Chapter, parameters: Mapping[str, Any]) -> tuple[str, str]:
    """Return (state, why): done, stale, missing or failed."""
    if why := chapter.lacks():
        return "missing", why
    record, parts = chapter.provenance(), digest_parts(chapter, parameters)
    if record is not None and record["parts"] == parts:
        gone = [name for name in record["items"] if not (chapter.items / name).is_file()]
        return ("stale", f"its results are gone: {', '.join(gone)}") if gone else ("done", "")
    if chapter.failed.is_file():
        return "failed", f"see {chapter.failed.name}"
    if record is None:
        return "missing", "never executed"
    before = record["parts"]
    changed = [k for k in sorted(before.keys() | parts) if before.get(k) != parts.get(k)]
    return "stale", f"changed since: {', '.join(changed)}"


def check_parameters(notebook: NotebookNode, parameters: Mapping[str, Any], where: Path) -> None:
    """Raise ValueError unless one tagged cell assigns every parameter that is passed."""
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{where}: expected one cell tagged 'parameters', got {len(tagged)}")
    known = tuple(re.findall(r"^(\w+)\s*(?::[^=]+)?=", tagged[0].source, flags=re.MULTILINE))
    for name in parameters:
        if name not in known:
            raise ValueError(f"{where}: {unknown_key(name, known, 'parameter')}")


def execute(
    chapter: Chapter, parameters: Mapping[str, Any], root: Path, timeout: int = CELL_TIMEOUT
) -> dict[str, Any]:
    """Execute a chapter and publish it; return its provenance.

    parameters: what papermill injects; an unknown one raises ValueError before any work.
    root: the working folder of the kernel.  timeout: seconds for one cell.
    Raises NotebookFailed where it did not run whole; an older executed copy then stays, and the
    copy that shows the error is kept as NN_name.failed.ipynb.
    """
    check_parameters(nbformat.read(chapter.source, as_version=4), parameters, chapter.source)
    parts = digest_parts(chapter, parameters)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        running = Path(work) / "running.ipynb"  # papermill writes in place after each cell
        with _environment(I2P_BUILD=work):  # where the chapter records its items
            problem = _papermill(chapter.source, running, parameters, root, timeout)
        notebook = nbformat.read(running, as_version=4)
        problem = problem or incomplete(notebook)
        clean(notebook, root)
        if problem:
            _write(notebook, chapter.failed)
            raise NotebookFailed(f"{chapter.name}: {problem}; see {chapter.failed}")
        items = sorted((Path(work) / "items" / chapter.profile.name).glob("*.json"))
        for item in items:
            with atomic_write(chapter.items / item.name) as temp:
                shutil.copyfile(item, temp)
    _write(notebook, chapter.executed)
    record = {
        "chapter": chapter.name,
        "profile": chapter.profile.name,
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(),
        "versions": package_versions(),
        "items": [item.name for item in items],
        "sha256": sha256(chapter.executed),
        "parts": parts,
    }
    with atomic_write(chapter.executed.with_suffix(".json")) as temp:
        temp.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    chapter.failed.unlink(missing_ok=True)
    return record


def incomplete(notebook: NotebookNode) -> str | None:
    """Return why an executed notebook may not be published, None where it ran whole.

    Every code cell must have run, once, in order, and without error; `sys.exit` is an error.
    """
    expected = 0
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                return f"cell {number} raised {output.ename}: {output.evalue[:500]}"
        expected += 1
        if cell.execution_count != expected:
            return f"cell {number} did not run in order (execution count {cell.execution_count})"
    return None


def clean(notebook: NotebookNode, root: Path) -> None:
    """Take out, in place, what tells of the machine: times, paths, papermill's own metadata."""
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    )
    for number, cell in enumerate(notebook.cells):
        kept = {key: cell.metadata[key] for key in ("tags", "mystnb") if key in cell.metadata}
        cell.metadata = NotebookNode(kept)
        cell.id = f"cell-{number:03d}"
        for output in cell.get("outputs", []):
            _without_paths(output, root)


def _without_paths(node: Any, root: Path) -> None:
    for key, value in node.items():
        if isinstance(value, str) and not key.startswith("image/png"):
            node[key] = _scrub(value, root)
        elif isinstance(value, list):
            node[key] = [_scrub(v, root) if isinstance(v, str) else v for v in value]
        elif isinstance(value, dict):
            _without_paths(value, root)


def _scrub(text: str, root: Path) -> str:
    text = text.replace(f"{sys.prefix}/", "").replace(f"{root}/", "").replace(str(root), ".")
    text = text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text
    return re.sub(r"/tmp/ipykernel_\d+/", "", text)


def _papermill(
    source: Path, target: Path, parameters: Mapping[str, Any], root: Path, timeout: int
) -> str | None:
    """Execute into `target` with this very Python; return what went wrong outside the cells."""
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # no folders: only the native kernel is left, which is sys.executable
    native = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=native)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(
                str(source), str(target), dict(parameters), kernel_name="python3",
                language="python", cwd=str(root), progress_bar=False, km=manager,
                execution_timeout=timeout, start_timeout=120,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )  # fmt: skip
        except PapermillExecutionError as error:
            return f"cell {error.cell_index} raised {error.ename}: {error.evalue[:500]}"
        except CellTimeoutError:
            return f"a cell took more than {timeout} s"
        except DeadKernelError:
            return "the kernel died (out of memory?)"
        finally:
            if manager.has_kernel:
                run_sync(manager.shutdown_kernel)(now=True)
    return None


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for the kernels that start in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    with atomic_write(path) as temp:
        nbformat.write(copy.deepcopy(notebook), temp)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
