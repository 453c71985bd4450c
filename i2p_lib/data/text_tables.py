"""Reading a text file of numbers, whatever stands between them."""

import codecs
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

DECIMAL_COMMAS = re.compile(r"\s*-?\d+,\d+\s*[;\s]\s*-?\d+,\d+")


class BadCloud(ValueError):
    """A file that is no cloud; the message says what was expected and what was got."""


def read_table(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the numbers [N, C] of a text file, and the names of its columns or None.

    Between the numbers stand blanks, commas or semicolons; lines that begin with # or // are left
    out.  Raises BadCloud with the line that is wrong.
    """
    with open(path, encoding=_encoding(path), errors="replace") as file:
        head = list(islice(file, 50))
    skipped, names = 0, None
    for line in head:
        words = _words(line)
        if words and all(map(_number, words)) and len(words) > 1:
            break
        if words and len(words) >= 3 and {"x", "y", "z"} <= {word.lower() for word in words}:
            names = words
        elif words and not line.lstrip().startswith(("#", "//")) and len(words) > 1:
            raise BadCloud(f"line {skipped + 1}: expected numbers, got {line.strip()[:40]!r}")
        skipped += 1
    else:
        raise BadCloud("expected lines of x, y and z, got none")
    if DECIMAL_COMMAS.match(head[skipped]):
        raise BadCloud(f"line {skipped + 1}: expected decimal points, got decimal commas, "
                         f"{head[skipped].strip()[:40]!r}")  # fmt: skip
    mark = next((mark for mark in ",;" if mark in head[skipped]), r"\s+")
    width = len(_words(head[skipped]))
    try:
        rows = pd.read_csv(path, sep=mark, header=None, skiprows=skipped, dtype=float, comment="#",
                           usecols=range(width), encoding=_encoding(path),
                           encoding_errors="replace")
    except (ValueError, pd.errors.ParserError):
        rows = None
    if rows is None or rows.isna().to_numpy().any():
        if fault := _fault(path, skipped, width):
            raise BadCloud(fault)
    if rows is None:  # marks that differ from line to line
        rows = pd.DataFrame([words for _, words in _lines(path, skipped)], dtype=float)
    if names and len(names) != width:
        raise BadCloud(f"the header names {len(names)} columns, the rows have {width}")
    return rows.to_numpy(), names


def _fault(path: Path, skipped: int, width: int) -> str:
    """What is wrong with the first bad line of a table."""
    for number, words in _lines(path, skipped):
        if len(words) != width or not all(map(_number, words)):
            return f"line {number}: expected {width} numbers, got {' '.join(words)[:40]!r}"
    return ""


def _lines(path: Path, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The number and the words of each line behind the header."""
    with open(path, encoding=_encoding(path), errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if number > skipped and (words := _words(line.partition("#")[0])):
                yield number, words


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 where a file begins with its mark, as some spreadsheets write it."""
    with open(path, "rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if marked else "utf-8-sig"


def _words(line: str) -> list[str]:
    return re.split(r"[,;\s]+", line.strip().lstrip("#/ ").rstrip(",;")) if line.strip() else []


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


