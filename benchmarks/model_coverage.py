"""Which image classifiers of torchvision or timm can be inflated, with the proof for each."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from i2p_lib.coverage import Coverage, examine, family, torchvision_classifiers, without_data
from i2p_lib.files import atomic_write
from i2p_lib.weights.torchvision_import import ensure_torchvision

EXAMPLE = """example:
  python benchmarks/model_coverage.py torchvision \\
      --output benchmarks/results/model_coverage-torchvision.csv
  python benchmarks/model_coverage.py timm --models dla34 hrnet_w18_small

One thread, a few minutes and 4 GB of memory. The weights are random; nothing is downloaded.
Models that are named are run. Without names, which is for torchvision only, the smallest member of
each family is run, and the others are inflated without data.
"""

def main() -> None:
    """Examine the models, print each, and write the table where ``--output`` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=("torchvision", "timm"))
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all of torchvision")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write a CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = arguments.library
    if library == "timm" and not arguments.models:
        parser.error("name the models of timm with --models")
    run = arguments.models or smallest_members()
    found = []
    for model in arguments.models or torchvision_classifiers():
        found.append(covered(library, model, model in run))
        print(*found[-1].row().values(), sep=" | ", flush=True)
    counts = Counter(result.verdict for result in found)
    print(*(f"{count} {verdict}" for verdict, count in counts.items()), sep=", ")
    if arguments.output is not None:
        rows = [result.row() for result in found]
        for row in rows:
            row["deviation"] = "" if row["deviation"] is None else f"{row['deviation']:.1e}"
        with atomic_write(arguments.output) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def covered(library: str, name: str, run: bool) -> Coverage:
    """Examine one model, with data or without."""
    group = family(name) if library == "torchvision" else name
    if not run:
        with without_data():
            return examine(create(library, name), library, group, name)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        return examine(create(library, name), library, group, name)


def smallest_members() -> set[str]:
    """The member of fewest parameters of each of torchvision's families."""
    sizes = {}
    for name in torchvision_classifiers():
        with without_data():
            sizes[name] = sum(p.numel() for p in create("torchvision", name).parameters())
    ordered = sorted(sizes, key=sizes.get, reverse=True)
    return set({family(name): name for name in ordered}.values())


def create(library: str, name: str) -> nn.Module:
    """Build a model as its library does."""
    ensure_torchvision()
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(name)
    import timm

    return timm.create_model(name)


if __name__ == "__main__":
    sys.exit(main())
