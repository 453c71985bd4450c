"""What a file of Python imports, read from its syntax tree, for the tests of the structure."""

import ast
from collections.abc import Iterator

_CALLS = ("import_module", "find_spec", "importorskip")


def imports(tree: ast.AST, module: str = "", typing: bool = True) -> Iterator[str]:
    """Dotted names that a tree imports, in functions too; `a.b` for `from a import b`.

    importlib's functions and pytest.importorskip count where they get a text.
    module: the dotted name of the file, against which relative imports are resolved ("pkg.__init__"
    for a package).  typing: whether blocks under `if TYPE_CHECKING` count.
    """
    if isinstance(tree, ast.If) and not typing and "TYPE_CHECKING" in ast.unparse(tree.test):
        children = tree.orelse
    else:
        children = ast.iter_child_nodes(tree)
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        parents = module.split(".")[: -tree.level] if tree.level else []
        base = [*parents, *([tree.module] if tree.module else [])]
        yield from (".".join([*base, alias.name]) for alias in tree.names)
    elif isinstance(tree, ast.Call) and tree.args and isinstance(tree.args[0], ast.Constant):
        if getattr(tree.func, "attr", getattr(tree.func, "id", "")) in _CALLS:
            yield str(tree.args[0].value)
    for child in children:
        yield from imports(child, module, typing)
