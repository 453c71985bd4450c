"""Executing the chapters with papermill: a chapter is published whole or not at all."""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from i2p_lib.book.chapters import Chapter, digest_parts
from i2p_lib.files import atomic_write, sha256
from i2p_lib.machine import describe_machine, package_versions
from i2p_lib.paper import attached
from i2p_lib.train.settings import unknown_key

CELL_TIMEOUT = 3600


class NotebookFailed(RuntimeError):
    """A chapter did not run whole; the message names the cell, the error and the kept copy."""


def check_parameters(
    notebook: Mapping[str, Any], parameters: Mapping[str, Any], where: Path
) -> None:
    """Raise ValueError unless one tagged cell assigns every parameter that is passed."""
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{where}: expected one cell tagged 'parameters', got {len(tagged)}")
    text = "".join(tagged[0]["source"])
    known = tuple(re.findall(r"^(\w+)\s*(?::[^=]+)?=", text, flags=re.MULTILINE))
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
    check_parameters(chapter.notebook, parameters, chapter.source)
    parts = digest_parts(chapter, parameters)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        running = Path(work) / "running.ipynb"  # papermill writes in place after each cell
        problem = _papermill(chapter.source, running, parameters, root, timeout)
        notebook = nbformat.read(running, as_version=4)
        problem = problem or incomplete(notebook)
    clean(notebook, root)
    try:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        attached(outputs, chapter.profile.name)
    except ValueError as error:
        problem = problem or str(error)
    if problem:
        _write(notebook, chapter.failed)
        raise NotebookFailed(f"{chapter.name}: {problem}; see {chapter.failed}")
    _write(notebook, chapter.executed)
    record = {
        "chapter": chapter.name,
        "profile": chapter.profile.name,
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(),
        "versions": package_versions(),
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


def _write(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    with atomic_write(path) as temp:
        nbformat.write(copy.deepcopy(notebook), temp)
