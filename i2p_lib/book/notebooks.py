"""Executing the chapters with papermill: a chapter is published whole or not at all."""

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from i2p_lib.book.chapters import Chapter, digest_parts
from i2p_lib.files import sha256, write_text
from i2p_lib.machine import cores, describe_machine, package_versions
from i2p_lib.paper import attached

CELL_TIMEOUT = 3600


class NotebookFailed(RuntimeError):
    """A chapter did not run whole; the message names the cell, the error and the kept copy."""


def execute_all(chapters: Sequence[Chapter], timeout: int = CELL_TIMEOUT,
                workers: int | None = None,
                report: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
    """Execute chapters side by side, `workers` at a time (default: one per core).

    Those that read the most runs come first, since they are likely the longest.
    report gets the provenance of each chapter when it is published.  Where some fail, the others
    are executed all the same, and the first failure is raised then.  An interrupt ends all kernels.
    """
    kernels: list = []
    workers = min(workers or cores(), len(chapters)) or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
    with ThreadPoolExecutor(workers) as pool:
        longest = sorted(chapters, key=lambda chapter: -len(chapter.specs()))
        running = [pool.submit(execute, chapter, timeout, kernels, threads) for chapter in longest]
        failures = []
        try:
            for ended in as_completed(running):
                if error := ended.exception():
                    failures.append(error)
                else:
                    report(ended.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(chapter.done() for chapter in running):  # a kernel may be starting now
                for manager in kernels:
                    with contextlib.suppress(AttributeError, OSError):  # none runs in it
                        manager.provisioner.process.kill()
                time.sleep(0.1)
            raise
    for error in failures[:1]:
        raise error


def execute(chapter: Chapter, timeout: int = CELL_TIMEOUT, kernels: list | None = None,
            settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Execute a chapter in the project's root and publish it; return its provenance.

    timeout: seconds for one cell.  kernels: gets the manager of the kernel, to end it from outside.
    settings: environment variables of the kernel, where the user's own environment lacks them.
    Raises ValueError, before any work, where no cell tagged "parameters" takes the profile, and
    NotebookFailed where the chapter did not run whole; an older executed copy then stays, and the
    copy that shows the error is kept as NN_name.failed.ipynb.
    """
    tagged = ["".join(cell["source"]) for cell in chapter.notebook["cells"]
              if "parameters" in cell["metadata"].get("tags", [])]  # fmt: skip
    if len(tagged) != 1 or not re.search(r"^profile\s*(:[^=]+)?=", tagged[0], re.MULTILINE):
        raise ValueError(f"{chapter.source}: expected one cell tagged 'parameters', which says "
                         f'`profile = "demo"`, got {tagged}')  # fmt: skip
    parts = digest_parts(chapter)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        running = Path(work) / "running.ipynb"  # papermill writes in place after each cell
        manager = _kernel_manager(settings or {})
        (kernels if kernels is not None else []).append(manager)
        problem = _papermill(chapter, running, timeout, manager)
        notebook = nbformat.read(running, as_version=4)
    problem = problem or incomplete(notebook)
    clean(notebook, chapter.project.root)
    try:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        attached(outputs, chapter.profile.name)
    except ValueError as error:
        problem = problem or str(error)
    nbformat.validate(notebook)
    write_text(chapter.failed if problem else chapter.executed, nbformat.writes(notebook) + "\n")
    if problem:
        raise NotebookFailed(f"{chapter.name}: {problem}; see {chapter.failed}")
    record = {"chapter": chapter.name,
              "profile": chapter.profile.name,
              "seconds": round(time.perf_counter() - began, 1),
              "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
              "machine": describe_machine(),
              "versions": package_versions(),
              "sha256": sha256(chapter.executed),
              "parts": parts}
    text = json.dumps(record, indent=1, sort_keys=True)
    write_text(chapter.executed.with_suffix(".json"), text)
    chapter.failed.unlink(missing_ok=True)
    return record


def incomplete(notebook: NotebookNode) -> str | None:
    """Return why an executed notebook may not be published, None where it ran whole.

    Every code cell must have run, once, in order, and without error; `sys.exit` is an error.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(code, start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                return f"code cell {number} raised {output.ename}: {output.evalue[:500]}"
        if cell.execution_count != number:
            return f"code cell {number} did not run in order (its count: {cell.execution_count})"
    return None


def clean(notebook: NotebookNode, root: Path) -> None:
    """Take out, in place, what tells of the machine: times, paths, papermill's own metadata."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    for number, cell in enumerate(notebook.cells):
        kept = {key: cell.metadata[key] for key in ("tags", "mystnb") if key in cell.metadata}
        cell.metadata = NotebookNode(kept)
        cell.id = f"cell-{number:03d}"
        if "outputs" in cell:
            cell.outputs = _without_paths(cell.outputs, root)


def _without_paths(value: Any, root: Path) -> Any:
    """Return a part of an output with paths as a reader knows them; pictures stay as they are."""
    if isinstance(value, list):
        return [_without_paths(part, root) for part in value]
    if isinstance(value, dict):
        return NotebookNode({key: part if key.startswith("image/png") else
                             _without_paths(part, root) for key, part in value.items()})
    if not isinstance(value, str):
        return value
    text = value.replace(f"{sys.prefix}/", "").replace(f"{root}/", "").replace(str(root), ".")
    text = text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text
    return re.sub(r"/tmp/ipykernel_\d+/", "", text)


def _kernel_manager(settings: Mapping[str, str]) -> Any:
    """Return the manager of a kernel of this very Python, with these environment variables."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    # no folders: only the native kernel is left, which is sys.executable
    native = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=native)
    manager.start_kernel = partial(manager.start_kernel, env={**settings, **os.environ})
    return manager


def _papermill(chapter: Chapter, target: Path, timeout: int, manager: Any) -> str | None:
    """Execute into `target` in a manager's kernel; return what went wrong, if anything."""
    import papermill
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(str(chapter.source), str(target), chapter.parameters,
                                       kernel_name="python3", language="python",
                                       cwd=str(chapter.project.root), progress_bar=False,
                                       km=manager, execution_timeout=timeout, start_timeout=120,
                                       extra_arguments=["--IPKernelApp.log_level=40"])
        except PapermillExecutionError as error:
            return f"code cell {error.exec_count} raised {error.ename}: {error.evalue[:500]}"
        except CellTimeoutError:
            return f"a cell took more than {timeout} s"
        except DeadKernelError:
            return "the kernel died (out of memory?)"
        finally:
            if manager.has_kernel:
                run_sync(manager.shutdown_kernel)(now=True)
    return None
