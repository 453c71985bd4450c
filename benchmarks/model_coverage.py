"""Which image classifiers of torchvision or timm can be inflated, with the proof for each."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from time import process_time

import torch
from torch import nn

from benchmarks.coverage import REFUSED, examine, family, torchvision_classifiers, without_data
from i2p_lib.files import atomic_write

EXAMPLE = """example:
  python benchmarks/model_coverage.py torchvision \\
      --output benchmarks/results/model_coverage-torchvision.csv
  python benchmarks/model_coverage.py timm --models dla34 hrnet_w18_small

The weights are random; nothing is downloaded. Without names, every classifier of torchvision is
examined, or the smallest member of each of timm's modules. One thread, about ten minutes and 8 GB
of memory for each library. The file is written after each network. One that it holds already,
measured with the installed version of the library, is not measured again.
"""


def main() -> None:
    """Examine the models, print each, and write the table where ``--output`` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=("torchvision", "timm"))
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: see below")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write a CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = arguments.library
    rows = _known(arguments.output, library)
    for group, name in wanted(library, arguments.models, {row["family"] for row in rows}):
        if name in {row["model"] for row in rows}:
            continue
        rows.append(covered(library, group, name))
        print(*rows[-1].values(), sep=" | ", flush=True)
        if arguments.output is not None:
            _write(arguments.output, sorted(rows, key=lambda row: (row["family"], row["model"])))
    counts = Counter(row["verdict"] for row in rows)
    print(*(f"{count} {verdict}" for verdict, count in counts.items()), sep=", ")


def covered(library: str, group: str, name: str) -> dict:
    """The row of one model: without data first, which is enough for one that is refused."""
    started = process_time()
    found = examine(empty(library, name), library, group, name)
    if found.verdict != REFUSED:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            found = examine(create(library, name), library, group, name)
    row = found.row() | {"seconds": f"{process_time() - started:.1f}", "version": version(library)}
    for figure in ("deviation", "gradient"):
        row[figure] = "" if row[figure] is None else f"{row[figure]:.1e}"
    return row


def wanted(library: str, names: list[str] | None, done: set[str]) -> Iterator[tuple[str, str]]:
    """Family and name of each model to examine; timm's families in ``done`` are left out."""
    if library == "torchvision":
        yield from ((family(name), name) for name in names or torchvision_classifiers())
        return
    import timm

    members = {module: [name for name in timm.list_models(module=module)
                        if not name.startswith("test_")] for module in timm.list_modules()}
    if names:
        yield from ((module, name) for name in names
                    for module, found in members.items() if name in found)
        return
    for module, found in members.items():
        if found and module not in done:
            yield module, min(found, key=_size)


def _size(name: str) -> int:
    return sum(p.numel() for p in empty("timm", name).parameters())


def empty(library: str, name: str) -> nn.Module:
    """Build a model without data, buffers included where it computes with its parameters."""
    try:
        with without_data():
            return create(library, name)
    except (NotImplementedError, RuntimeError):
        with torch.device("meta"):
            return create(library, name)


def create(library: str, name: str) -> nn.Module:
    """Build a model as its library does."""
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(name)
    import timm

    return timm.create_model(name)


def version(library: str) -> str:
    """The installed version of a library, without the name of a build."""
    return metadata.version(library).partition("+")[0]


def _known(file: Path | None, library: str) -> list[dict]:
    """The rows of a file that were measured with the installed version of the library."""
    if file is None or not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row for row in rows if row.get("version") == version(library)]


def _write(file: Path, rows: list[dict]) -> None:
    with atomic_write(file) as part, part.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
