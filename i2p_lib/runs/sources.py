"""Which sources a result rests on: the import closure of a module, and hashes of what it says."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


def source_hash(text: str) -> str:
    """Return a hash of Python source that ignores comments, docstrings and layout.

    Walks the syntax tree itself, because `ast.dump` differs between Python versions.
    """
    digest = hashlib.sha256()
    _feed(ast.parse(text), digest)
    return digest.hexdigest()


def _feed(node: Any, digest: Any) -> None:
    if isinstance(node, ast.AST):
        digest.update(f"({type(node).__name__}".encode())
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in ("type_comment", "kind"):
                continue
            digest.update(f" {name}=".encode())
            _feed(_without_docstring(node, value) if name == "body" else value, digest)
        digest.update(b")")
    elif isinstance(node, list):
        for item in node:
            _feed(item, digest)
            digest.update(b",")
    else:
        digest.update(repr(node).encode())


def _without_docstring(node: ast.AST, body: Any) -> Any:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        return body[1:]
    return body


def closure(modules: Iterable[str], package: Path = PACKAGE) -> dict[str, str]:
    """Return {file: hash of its source} of modules and of all that they import in the package.

    modules: dotted names such as "i2p_lib.train.loop".  Imports inside functions count, and so
    does a text that is the name of a module, which is how modules are named that are imported on
    demand.  The package's own `__init__` is left out: it only says where public names lie.
    Files are relative to the package, with forward slashes.
    """
    waiting, found = [_file_of(name, package) for name in modules], {}
    while waiting:
        file = waiting.pop()
        if file is None or file.as_posix() in found:
            continue
        stat = (package / file).stat()
        digest, imported = _read(package / file, package, stat.st_mtime_ns, stat.st_size)
        found[file.as_posix()] = digest
        waiting += imported
    return dict(sorted(found.items()))


def imports_of(tree: ast.AST, module: str, package: str = PACKAGE.name) -> set[str]:
    """Return the names in the package that source mentions as imports, of modules or of members.

    What is imported for type checkers alone does not count.
    """
    names = set()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if all(part.isidentifier() for part in node.value.split(".")):
                names.add(node.value)
    return {name for name in names if name.startswith(f"{package}.")}


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of a tree but those in the body of `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def _file_of(module: str, package: Path) -> Path | None:
    """Return the file of a module relative to the package; None for what is no module in it."""
    inside = Path(*module.split(".")[1:])
    files = (inside.with_suffix(".py"), inside / "__init__.py") if inside.parts else ()
    return next((file for file in files if (package / file).is_file()), None)


@lru_cache(maxsize=1024)
def _read(file: Path, package: Path, mtime_ns: int, size: int) -> tuple[str, set[Path | None]]:
    """Return a file's source hash and the files that it imports, its parent packages included."""
    text = file.read_text(encoding="utf-8")
    module = ".".join([PACKAGE.name, *file.relative_to(package).with_suffix("").parts])
    names = {module} | imports_of(ast.parse(text), module)
    for name in list(names):
        parts = name.split(".")
        names |= {".".join(parts[:depth]) for depth in range(2, len(parts))}
    return source_hash(text), {_file_of(name, package) for name in names}
