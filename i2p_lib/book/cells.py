"""What a notebook's code says: the modules it rests on, the functions it uses, its texts."""

from __future__ import annotations

import ast
import contextlib

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

import i2p_lib
from i2p_lib.runs.sources import imports_of


def code_tree(notebook: NotebookNode) -> ast.Module:
    """Return the syntax tree of a notebook's code cells, magics and shell lines as IPython calls.

    A cell that is no Python is left out: executing it says so.
    """
    manager = TransformerManager()
    tree = ast.Module(body=[], type_ignores=[])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            with contextlib.suppress(SyntaxError):
                tree.body += ast.parse(manager.transform_cell(cell.source)).body
    return tree


def functions_used(tree: ast.AST) -> list[str]:
    """Return the names of `i2p_lib` that code imports and uses, or calls, sorted."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name: a.name for a in node.names if _ours(a.name)}
        elif isinstance(node, ast.ImportFrom) and _ours(node.module or ""):
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in aliases:
                used.add(f"{aliases[node.value.id]}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in aliases:
                used.add(aliases[node.func.id])
    return sorted(used)


def modules_used(tree: ast.AST) -> set[str]:
    """Return the modules of the package that code imports, or reaches by a public name (i2p.NAME).

    Names of members are among them; `closure` passes over what is no module.
    """
    public = {f"{i2p_lib.__name__}.{name}": module for name, module in i2p_lib._PUBLIC.items()}
    reached = {public[name] for name in functions_used(tree) if name in public}
    return imports_of(tree, "") | reached


def texts(tree: ast.AST) -> set[str]:
    """Return the texts that stand in code as constants."""
    return {node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip


def _ours(module: str) -> bool:
    return module.split(".")[0] == i2p_lib.__name__
