"""Python sources: what a file imports, all that it rests on, and hashes of what files say."""

import ast
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
_CALLS = ("import_module", "importorskip")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def imports(tree: ast.AST, module: str = "", typing: bool = False) -> Iterator[str]:
    """Yield the dotted names that a tree imports, in functions too; `a.b` for `from a import b`.

    importlib.import_module and pytest.importorskip count where they get a text.
    module: the dotted name of the file, against which relative imports are resolved ("pkg.__init__"
    for a package).  typing: whether blocks under `if TYPE_CHECKING` count.
    """
    children = ast.iter_child_nodes(tree)
    if isinstance(tree, ast.If) and not typing and "TYPE_CHECKING" in ast.unparse(tree.test):
        children = tree.orelse
    elif isinstance(tree, ast.Import):
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


def reached(files: Iterable[Path], imported: Callable[[Path], Iterable[Path]]) -> list[Path]:
    """Return files and all that they import, directly or not; those that do not exist are none."""
    waiting, found = list(files), {}
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found[file] = None
            waiting += imported(file)
    return sorted(found)


def modules_named(tree: ast.AST, module: str = "", package: str = PACKAGE.name) -> set[str]:
    """Return the names in a package that source mentions: imports, and texts that name one.

    By texts modules are named that are imported on demand.  Members of modules are among them.
    """
    names = {*imports(tree, module), *texts(tree)}
    return {name for name in names if name.startswith(f"{package}.")}


def texts(tree: ast.AST) -> set[str]:
    """Return the texts that stand in code as constants."""
    return {node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip


def closure(modules: Iterable[str], package: Path = PACKAGE) -> dict[str, str]:
    """Return {file: hash of its source} of modules and of all that they import in the package.

    modules: dotted names such as "i2p_lib.train.loop"; see `modules_named`.  A module rests on
    the packages around it, but the package's own `__init__` is left out: it only says where public
    names lie.  Files are relative to the package, with forward slashes.
    """
    return dict(_closure(frozenset(modules), package, tuple(_stamps(str(package)))))


def _stamps(folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield the path, time of change and size of each source under a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _stamps(entry.path)
            elif entry.name.endswith(".py"):
                stat = entry.stat()
                yield entry.path, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _closure(modules: frozenset[str], package: Path, stamps: tuple) -> dict[str, str]:
    """Find the closure of modules in a package whose files have these stamps."""

    def files_of(names: Iterable[str]) -> Iterator[Path]:
        for inside in (name.split(".")[1:] for name in names):
            for place in (package.joinpath(*inside[: n + 1]) for n in range(len(inside))):
                yield from (place.with_suffix(".py"), place / "__init__.py")

    def read(file: Path) -> tuple[str, frozenset[str]]:
        stat, inside = file.stat(), file.relative_to(package).with_suffix("").parts
        return _read(file, ".".join([PACKAGE.name, *inside]), stat.st_mtime_ns, stat.st_size)

    files = reached(files_of(modules), lambda file: files_of(read(file)[1]))
    return {file.relative_to(package).as_posix(): read(file)[0] for file in files}


@lru_cache(maxsize=1024)
def _read(file: Path, module: str, mtime_ns: int, size: int) -> tuple[str, frozenset[str]]:
    """Return a file's source hash and the modules that it names, itself included."""
    text = file.read_text(encoding="utf-8")
    return source_hash(text), frozenset(modules_named(ast.parse(text), module) | {module})


def source_hash(text: str) -> str:
    """Return a hash of Python source that ignores comments, docstrings and layout.

    Walks the syntax tree itself, because `ast.dump` differs between Python versions.
    """
    return hashlib.sha256(repr(_plain(ast.parse(text))).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """Return a syntax tree as tuples and lists, without docstrings and what is not given."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node)
              if value not in (None, []) and name not in ("type_comment", "kind")}  # fmt: skip
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return type(node).__name__, [(name, _plain(value)) for name, value in fields.items()]
