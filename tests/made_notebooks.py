"""Small notebooks and contents that tests make, and the functions of a chapter's own cells."""

import ast
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from i2p_lib.book.chapters import Project

ROOT = Path(__file__).resolve().parents[1]


def write_notebook(path: Path, *cells: str, parameters: str = 'profile = "smoke"') -> None:
    """Write a small chapter: a title, the tagged parameters cell, then code or "# " text cells."""
    new = nbformat.v4
    first = new.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    prose = ("# ", "## ", "(")
    made = [
        new.new_markdown_cell(text) if text.startswith(prose) else new.new_code_cell(text)
        for text in cells
    ]
    notebook = new.new_notebook(cells=[new.new_markdown_cell("# A chapter"), first, *made])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def write_contents(root: Path, *chapters: str) -> None:
    """Write a table of contents of these chapters in the project's root."""
    files = [{"file": f"chapters/{name}"} for name in chapters]
    toc = {"format": "jb-book", "root": "index", "chapters": files}
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")


def tiny_project(folder: Path, patch: pytest.MonkeyPatch) -> Project:
    """Make a project of the book's own prose and one empty profile in a folder."""
    root = folder / "project"
    shutil.copytree(ROOT / "book", root / "book")
    shutil.copy(ROOT / "_config.yml", root / "_config.yml")
    profiles = root / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "tiny.yml").write_text("description: nothing to train\nexperiments: {}\n")
    patch.setattr("i2p_lib.runs.profiles.profiles_folder", lambda: profiles)
    return Project(root, folder / "build")


def chapter_functions(path: Path) -> SimpleNamespace:
    """Run a chapter's imports, CONSTANTS, classes and functions; return the names they make."""
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    wanted = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    body = [node for node in ast.parse("\n".join(cells)).body if isinstance(node, wanted)
            or isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()]
    names: dict = {}
    exec(compile(ast.Module(body, type_ignores=[]), path.name, "exec"), names)
    return SimpleNamespace(**names)
