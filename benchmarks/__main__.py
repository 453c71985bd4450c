"""The speed of the sparse engine, beside its peers and the machine's limits, in one command."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks import goals as speed
from benchmarks import growth, layers, peers, pipeline, steps
from benchmarks.cases import Case, Scale
from i2p_lib import machine
from i2p_lib.files import atomic_write
from i2p_lib.sources import closure

EXAMPLES = """examples:
  python -m benchmarks --output benchmarks/results
  python -m benchmarks --only steps pipeline --output benchmarks/results
  python -m benchmarks --output benchmarks/results --hardware xeon-emr-2cores

One thread, about a quarter of an hour. Times are processor times (on a GPU wall-clock times), the
medians of rounds in which all engines take turns; trust the ratios. A part is written when it
ends, so a call that was stopped goes on with --only. Peers are measured where they are installed:
  pip install -e .[bench]
"""
PARTS: dict[str, Callable[[torch.device, Scale], Iterator[Case]]] = {
    "layers": layers.cases,
    "steps": steps.cases,
    "pipeline": pipeline.cases,
    "growth": growth.cases,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts that are asked for, write each, and print the goals."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER",
                        help="where the tables go, one file for each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--hardware", help="the machine's name in the files' names; default: "
                        "made from its processor and cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    hardware = given.hardware or hardware_name(given.device)
    if not re.fullmatch(r"[a-z0-9_-]+", hardware):
        parser.error(f"--hardware: expected letters a-z, digits, - and _, got {hardware!r}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    measure(given.only, given.output, hardware, torch.device(given.device), Scale())
    print(speed.as_text(speed.evaluate(speed.read_results(given.output)[hardware])))


def measure(
    parts: list[str], output: Path, hardware: str, device: torch.device, scale: Scale
) -> None:
    """Measure parts one after the other and write `<part>-<hardware>.csv` of each as it ends."""
    torch.set_num_threads(1)
    about = provenance(device)
    for part in parts:
        rows = []
        cases = list(PARTS[part](device, scale))
        bar = tqdm(total=sum(case.seconds for case in cases), smoothing=0, leave=False,
                   bar_format="{desc} |{bar:25}| {elapsed}, {remaining} left")  # fmt: skip
        with bar:
            for case in cases:
                bar.set_description_str(f"{part}: {case.name}"[:60].ljust(60))
                rows += case.measure()
                bar.update(case.seconds)
        file = output / f"{part}-{hardware}.csv"
        table = pd.DataFrame(rows).assign(**about)
        with atomic_write(file) as temp:
            table.to_csv(temp, index=False, float_format="%.6g", lineterminator="\n")
        print(f"{file}: {len(table)} rows", flush=True)


def hardware_name(device: str) -> str:
    """Return a name for files: the GPU's, or the processor's with its cores."""
    if device == "cuda":
        text = torch.cuda.get_device_name()
    else:
        text = re.sub(r"\((R|TM)\)|@.*|CPU|Processor", " ", machine.cpu_name())
        text = f"{text} {machine.cores()}cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def provenance(device: torch.device) -> dict[str, str | int]:
    """Return what the numbers depend on: machine, versions, and the measured source."""
    versions = machine.package_versions()
    sources = json.dumps(closure(["i2p_lib.train.loop"]), sort_keys=True).encode()
    found = filter(None, map(peers.installed, peers.PACKAGES))
    return {
        "cpu": machine.cpu_name(),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "none",
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numba": versions["numba"],
        "python": versions["python"],
        "peers": ", ".join(found) or "none",
        "source": hashlib.sha256(sources).hexdigest()[:12],
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks",
    }


if __name__ == "__main__":
    sys.exit(main())
