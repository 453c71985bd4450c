"""One annotation text of S3DIS, `x y z red green blue` a line: read fast, repaired or refused."""

from __future__ import annotations

import codecs
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

_PLAIN = b"0123456789+-.eE \t\r\n"  # what a sound file is made of
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_STRAY = re.compile(rb"[^\x20-\x7e\t\r]")
_LOST_SPACE = re.compile(rb"(?<=[\d.])[^\x20-\x7e\t\r](?=[\d.-])")  # between two numbers
_LOST_BIT = 0x20
_FAR = 1e6  # no coordinate in metres is so large


def read_annotation(path: Path) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Return points [N, 3] float32, colours [N, 3] uint8 and the repairs of one file.

    A line with bytes that are no text is repaired where one of two readings makes it six numbers:
    these bytes with bit 0x20 set (a digit that lost it), or as spaces between numbers.  They
    differ in the number of columns, so both cannot fit.  A repair is {"line", "was", "read"}.

    Raises ValueError, naming file and line, for any other line that is not six numbers with
    colours 0 to 255, and for a file without points.
    """
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    table, repairs = _parse(data), []
    if table is None:
        lines, repairs = _careful(path, data)
        table = _parse(b"\n".join(lines))
    if table is None:
        raise ValueError(f"{path}: expected at least one line `x y z red green blue`, got none")
    return np.ascontiguousarray(table[:, :3]), table[:, 3:].astype(np.uint8), repairs


def _parse(data: bytes) -> np.ndarray | None:
    """Return the table [N, 6] float32 of a sound file, None where a line needs a closer look."""
    if data.translate(None, _PLAIN):
        return None
    try:
        with np.errstate(over="ignore"):  # it becomes infinite, which is refused below
            frame = pd.read_csv(io.BytesIO(data), sep=" ", header=None, dtype=np.float32,
                                engine="c", na_filter=False)  # fmt: skip
    except ValueError:  # pandas' own errors are of this kind
        return None
    table = frame.to_numpy()
    if table.shape[1] != 6 or not np.isfinite(table).all():
        return None
    colours = table[:, 3:]
    whole = (colours == np.rint(colours)).all()
    return table if whole and colours.min() >= 0 and colours.max() <= 255 else None


def _careful(path: Path, data: bytes) -> tuple[list[bytes], list[dict]]:
    """Return the lines with single spaces between six sound numbers, and what was repaired."""
    lines, repairs = [], []
    for number, line in enumerate(data.split(b"\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if _STRAY.search(line) or not _sound(fields):
            fields = _repaired(line)
            if fields is None:
                raise ValueError(
                    f"{path}:{number}: expected six numbers `x y z red green blue` with colours "
                    f"0 to 255, got {_text(line)}"
                )
            repairs.append(
                {"line": number, "was": _text(line), "read": b" ".join(fields).decode("ascii")}
            )
        lines.append(b" ".join(fields))
    return lines, repairs


def _repaired(line: bytes) -> list[bytes] | None:
    restored = _STRAY.sub(lambda stray: bytes([stray[0][0] | _LOST_BIT]), line)
    for reading in (restored, _LOST_SPACE.sub(b" ", line)):
        if _STRAY.search(line) and _sound(fields := reading.split()):
            return fields
    return None


def _sound(fields: list[bytes]) -> bool:
    if len(fields) != 6 or not all(map(_NUMBER.fullmatch, fields)):
        return False
    values = [float(field) for field in fields]
    return all(abs(v) < _FAR for v in values) and all(v in range(256) for v in values[3:])


def _text(line: bytes) -> str:
    """Return a line as printable text of bounded length; other bytes as \\x.. ."""
    shown = line[:120].decode("latin-1").rstrip("\r")
    return "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in shown)
