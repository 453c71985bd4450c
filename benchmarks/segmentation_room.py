"""How long a network takes to label every point of one large room, stage by stage."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import pandas as pd
import torch

from i2p_lib import machine
from i2p_lib.files import atomic_write
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.segmenters import encoding_for, segmenter

GOAL = 20.0  # seconds on two cores for 2 million points in voxels of 0.05 m
SIZE = (10.0, 8.0, 3.2)  # metres; with its furniture about 385 square metres of surface
FURNITURE = 30
NOISE = 0.003  # metres
EXAMPLE = """example:
  python -m benchmarks.segmentation_room --output benchmarks/results/segmentation_room-CPU.csv

The room is a box with furniture of boxes, its points are spread evenly over their surfaces.  The
weights are random, which changes no time.  Seconds are processor time, the kernels compiled before.
"""


def main() -> None:
    """Measure the networks that are asked for, print and write their times."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME[@WIDTH]",
                        default=["unet:efficientnet_lite0@0.25", "unet:resnet18"],
                        help="U-Nets, with the factor on their decoder's channels; "
                        "default: %(default)s")
    parser.add_argument("--points", type=int, default=2_000_000)
    parser.add_argument("--voxel-size", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write a CSV")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scene = room(given.points)
    rows = [measure(name, scene, given.voxel_size) for name in given.models]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if given.output:
        with atomic_write(given.output) as part:
            table.to_csv(part, index=False)


def measure(model: str, scene: SimpleNamespace, voxel_size: float) -> dict[str, object]:
    """Return the processor seconds of a network's stages on one scene, as a row."""
    name, _, width = model.partition("@")
    net = segmenter(name, 13, 3, decoder_width=float(width or 1))
    encoding = encoding_for(name, voxel_size=voxel_size)
    encoding.predict(net, room(2000))  # compiles
    times = [process_time()]
    x, _ = encoding.encode([scene])
    times.append(process_time())
    with evaluated(net):
        net(x)
    times.append(process_time())
    answers = encoding.predict(net, scene)
    times.append(process_time())
    voxels, network, whole = (b - a for a, b in zip(times, times[1:], strict=False))
    assert len(answers) == len(scene.points)
    return {
        "model": model, "points": len(scene.points), "voxels": len(x.sites),
        "encode_seconds": round(voxels, 2), "network_seconds": round(network, 2),
        "predict_seconds": round(whole, 2), "goal_seconds": GOAL,
        "threads": torch.get_num_threads(), "cpu": machine.cpu_name(), "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def room(points: int) -> SimpleNamespace:
    """Return a scene of so many points [N, 3] on a room's six sides and its furniture's."""
    random = torch.Generator().manual_seed(0)
    sizes = 0.4 + torch.rand(FURNITURE, 3, generator=random) * torch.tensor([1.2, 0.8, 1.4])
    space = torch.tensor(SIZE) - sizes
    corners = torch.rand(FURNITURE, 3, generator=random) * space * torch.tensor([1.0, 1.0, 0.0])
    sizes = torch.cat([torch.tensor([SIZE]), sizes])
    corners = torch.cat([torch.zeros(1, 3), corners])
    area = sizes.roll(1, 1) * sizes.roll(2, 1)  # of the sides across each axis
    side = torch.multinomial(area.flatten(), points, replacement=True, generator=random)
    box, axis = side // 3, side % 3
    place = torch.rand(points, 3, generator=random)
    place = place.scatter(1, axis[:, None], torch.randint(2, (points, 1), generator=random).float())
    xyz = corners[box] + place * sizes[box] + NOISE * torch.randn(points, 3, generator=random)
    features = torch.rand(points, 3, generator=random)
    labels = torch.zeros(points, dtype=torch.int64)
    return SimpleNamespace(points=xyz, features=features, labels=labels)


if __name__ == "__main__":
    sys.exit(main())
