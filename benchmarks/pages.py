"""The book's pages of what was measured here: `python -m benchmarks.pages FOLDER` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.how_fast import how_fast
from benchmarks.networks import networks
from benchmarks.recorded import recorded
from i2p_lib.files import atomic_write


def main(folder: Path) -> None:
    """Write the pages into a folder, and their figures below it."""
    pages = {"how_fast": how_fast(folder / "figures"), "networks": networks(),
             "recorded": recorded()}  # fmt: skip
    for name, text in pages.items():
        with atomic_write(folder / f"{name}.md") as temp:
            temp.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.pages FOLDER")
    main(Path(sys.argv[1]))
