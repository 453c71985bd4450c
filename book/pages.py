"""The page of commands and functions, from the code: `python -m book.pages FOLDER` writes it."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import i2p_lib as i2p
from i2p_lib.cli import build_parser
from i2p_lib.files import write_text

HEAD = """# Commands and functions

What stands here is made from the code: the help of each command, and the names of
`import i2p_lib as i2p` with their shapes, units and errors.

## At the shell

Each command ends with 0 when it did its work, 1 when it could not, 2 when it was used wrongly.
It ends with 130 when it was interrupted; the same command then goes on.
"""


def main(folder: Path) -> None:
    """Write the page into a folder."""
    os.environ["COLUMNS"] = "80"  # argparse's text then fits the page
    parts = [HEAD, *commands(), "\n## In Python\n", *functions()]
    write_text(folder / "commands.md", "\n".join(parts))


def commands() -> Iterator[str]:
    """Yield each command with its help."""
    parser = build_parser()
    groups = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    for name, sub in groups[0].choices.items():
        yield f"### i2p {name}\n\n{fenced(sub.format_help())}\n"


def functions() -> Iterator[str]:
    """Yield each public name with its signature, its docstring and those of its own methods."""
    for name in i2p.__all__:
        found = getattr(i2p, name)
        if not callable(found):
            continue
        yield f"### i2p.{name}\n\n{fenced(about(f'i2p.{name}', found))}\n"
        if inspect.isclass(found):
            for method, value in vars(found).items():
                plain = inspect.unwrap(getattr(value, "__func__", value))
                shown = isinstance(value, property | classmethod) or inspect.isfunction(value)
                if not method.startswith("_") and shown and (plain.__doc__ or "").strip():
                    yield fenced(about(f"i2p.{name}.{method}", plain)) + "\n"


def about(name: str, found: object) -> str:
    """Return the signature and the docstring of a function, class or property."""
    try:
        shape = str(inspect.signature(found))
    except (TypeError, ValueError):
        shape = ""
    lines = f"{name}{shape}".replace(", ", ",\n    ") if len(name + shape) > 88 else name + shape
    return f"{lines}\n\n{inspect.cleandoc(inspect.getdoc(found) or '')}"


def fenced(text: str) -> str:
    """Return text as a block that MyST leaves as it is."""
    return f"``````text\n{text.rstrip()}\n``````"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m book.pages FOLDER")
    main(Path(sys.argv[1]))
