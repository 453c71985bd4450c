"""Speed of the sparse layers as shares of what this machine's GEMM and memory copies reach."""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from pathlib import Path
from time import process_time

import torch
from torch import Tensor

from i2p_lib.data import load_dataset
from i2p_lib.files import atomic_write
from i2p_lib.sparse import SparseConv3d, SparseTensor, voxelize

EXAMPLE = """example:
  python benchmarks/sparse_layers.py --output benchmarks/results/sparse_layers-my-cpu.csv

One thread, under 90 s. The times are processor times, the least of several runs; the GEMM and
the copy that they are compared with are measured between them.
"""
CONV_GOALS = {64: 0.60, 256: 0.75}  # least share of the GEMM peak, forward + backward
DEPTHWISE_GOAL = 4.0  # most times the time of its memory traffic, forward + backward
DEPTHWISE_PASSES = 7  # reads and writes of [N, C] that forward + backward cannot do without
REPEATS = 5


def main() -> None:
    """Measure, print the table, and write it where ``--output`` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write a tidy CSV")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    rows = []
    for voxels, x in voxel_sets():
        for channels in (16, 64, 256):
            if channels < 256 or len(x.sites) < 20_000:
                rows.append(measure_convolution(voxels, x, channels))
                show(rows)
        for channels, kernel in ((32, 3), (32, 5), (96, 3), (96, 5)):
            rows.append(measure_depthwise(voxels, x, channels, kernel))
            show(rows)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0] | machine(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | machine() for row in rows)


def voxel_sets():
    """(name, SparseTensor): 16 objects at two resolutions and their coarser levels; a surface."""
    generator = torch.Generator().manual_seed(0)
    objects = load_dataset("home_objects", "train")
    chosen = torch.randperm(len(objects.points), generator=generator)[:16].tolist()
    clouds = [torch.tensor(objects.points[i]) for i in chosen]
    for size in (0.05, 0.08):
        x = voxelize(clouds, size)
        for factor in (1, 2, 4):
            sites = x.sites.downsample(2).downsample(2) if factor == 4 else (
                x.sites.downsample(factor))
            yield f"objects {size} / {factor}", SparseTensor(torch.zeros(len(sites), 1), sites)
    ball = torch.randn(500_000, 3, generator=generator)
    ball = ball / ball.norm(dim=1, keepdim=True) * torch.tensor([1.0, 0.8, 0.6])
    yield "surface", voxelize([ball], 0.0145)


def measure_convolution(voxels: str, x: SparseTensor, channels: int) -> dict:
    """A submanifold 3^3 convolution against the GEMM peak, counting existing pairs only."""
    layer = SparseConv3d(channels, channels, 3, bias=False)
    pairs = len(x.sites.kernel_map((3,) * 3, 1, (1,) * 3).rows_in)
    forward, both, gemm = times(layer, x, channels, gemm_seconds)
    peak = 2 * 1024**3 / gemm
    share = 6 * pairs * channels**2 / both / peak
    goal = CONV_GOALS.get(channels)
    return row("convolution", channels, 3, voxels, len(x.sites), pairs, forward, both) | {
        "measure": "share of GEMM peak",
        "reference": f"{peak / 1e9:.0f} GFLOP/s",
        "value": round(share, 3),
        "goal": "" if goal is None else f">= {goal}",
        "met": "" if goal is None else share >= goal,
    }


def measure_depthwise(voxels: str, x: SparseTensor, channels: int, kernel: int) -> dict:
    """A depthwise convolution against the time that a copy of its memory traffic takes."""
    layer = SparseConv3d(channels, channels, kernel, groups=channels, bias=False)
    pairs = len(x.sites.kernel_map((kernel,) * 3, 1, (kernel // 2,) * 3).rows_in)
    forward, both, copy = times(layer, x, channels, copy_seconds)
    speed = 2 * 4 * COPIED / copy
    ratio = both / (DEPTHWISE_PASSES * len(x.sites) * channels * 4 / speed)
    return row("depthwise", channels, kernel, voxels, len(x.sites), pairs, forward, both) | {
        "measure": "times its memory traffic",
        "reference": f"{speed / 1e9:.1f} GB/s",
        "value": round(ratio, 2),
        "goal": f"<= {DEPTHWISE_GOAL}",
        "met": ratio <= DEPTHWISE_GOAL,
    }


def times(layer, x: SparseTensor, channels: int, reference) -> tuple[float, float, float]:
    """Least seconds of forward, of forward + backward, and of the reference between them."""
    feats = torch.randn(len(x.sites), channels, requires_grad=True)
    grad = torch.randn(len(x.sites), channels)
    best = [float("inf")] * 3
    for _ in range(REPEATS):
        reading = [reference()]
        run(layer, x.sites, feats, grad)  # the reference has emptied the caches
        reading += run(layer, x.sites, feats, grad)
        best = [min(pair) for pair in zip(best, reading, strict=True)]
    return best[1], best[2], best[0]


def run(layer, sites, feats: Tensor, grad: Tensor) -> tuple[float, float]:
    """Seconds of the forward, and of forward + backward."""
    feats.grad = layer.weight.grad = None
    start = process_time()
    out = layer(SparseTensor(feats, sites)).feats
    middle = process_time()
    out.backward(grad)
    return middle - start, process_time() - start


COPIED = 2**24  # float32 values (64 MiB)


def gemm_seconds() -> float:
    """Seconds of a float32 product of two 1024 x 1024 matrices."""
    a = torch.ones(1024, 1024)
    out = torch.mm(a, a)
    start = process_time()
    torch.mm(a, a, out=out)
    return process_time() - start


def copy_seconds() -> float:
    """Seconds of a copy of ``COPIED`` float32 values."""
    source, target = torch.ones(COPIED), torch.ones(COPIED)
    start = process_time()
    target.copy_(source)
    return process_time() - start


def row(layer, channels, kernel, voxels, sites, pairs, forward, both) -> dict:
    """The columns that all layers share."""
    return {
        "layer": layer,
        "channels": channels,
        "kernel": kernel,
        "set": voxels,
        "voxels": sites,
        "pairs": pairs,
        "seconds forward": f"{forward:.6f}",
        "seconds forward+backward": f"{both:.6f}",
    }


def machine() -> dict:
    """What the numbers depend on beside the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names) or "",
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def show(rows: list[dict]) -> None:
    """Print the last row, and the heading before the first."""
    widths = (12, 8, 6, 17, 7, 8, 10, 10, 25, 13, 7, 8, 5)
    lines = [list(rows[-1])] if len(rows) == 1 else []
    for line in [*lines, rows[-1].values()]:
        cells = (str(c).replace("seconds ", "s ").replace("forward", "f").replace("backward", "b")
                 for c in line)
        print(" ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
