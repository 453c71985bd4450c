"""What a notebook's code says: the modules it rests on, and the functions it uses."""

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

from i2p_lib import PUBLIC
from i2p_lib.sources import PACKAGE, modules_named


def code_tree(notebook: Mapping[str, Any]) -> ast.Module:
    """Return the syntax tree of a notebook's code cells, magics and shell lines as IPython calls.

    A cell that is no Python is left out: executing it says so.
    """
    tree = ast.Module(body=[], type_ignores=[])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            with contextlib.suppress(SyntaxError):
                tree.body += _parsed("".join(cell["source"])).body
    return tree


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # a magic, perhaps
        from IPython.core.inputtransformer2 import TransformerManager

        return ast.parse(TransformerManager().transform_cell(source))


def functions_used(tree: ast.AST) -> list[str]:
    """Return the names of `i2p_lib` that code imports and uses, or calls, sorted."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{aliases.get(node.value.id)}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            used.add(aliases.get(node.func.id, ""))
    return sorted(name for name in used if name.startswith(f"{PACKAGE.name}."))


def modules_used(tree: ast.AST) -> set[str]:
    """Return the modules of the package that code imports, or reaches by a public name (i2p.NAME).

    Names of members are among them; `closure` passes over what is no module.
    """
    names = (name.removeprefix(f"{PACKAGE.name}.") for name in functions_used(tree))
    return modules_named(tree) | {PUBLIC[name] for name in names if name in PUBLIC}
