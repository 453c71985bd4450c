"""Part `growth`: cost over the number of voxels, from 500 to 500,000 of one closed surface."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks import timing
from benchmarks.cases import Case, Scale
from benchmarks.inputs import fresh, size_for, surface
from benchmarks.layers import Turn
from i2p_lib.sparse import SparseConv3d, SparseTensor, voxelize

VOXELS = (500, 2_000, 8_000, 32_000, 125_000, 500_000)
CHANNELS = 32
LAYERS = {
    "submanifold 3": {"kernel_size": 3},
    "strided 3": {"kernel_size": 3, "stride": 2},
    "depthwise 5": {"kernel_size": 5, "groups": CHANNELS},
}


def cases(device: torch.device, scale: Scale) -> Iterator[Case]:
    """Yield a case for each size."""
    for voxels in VOXELS:
        if voxels <= scale.voxels:
            def measure(voxels: int = voxels) -> list[dict]:
                return measure_size(voxels, device, scale.budget)
            yield Case(f"{voxels:,} voxels", scale.budget + voxels / 2e4, measure)


def measure_size(voxels: int, device: torch.device, budget: float) -> list[dict]:
    """Return the seconds of voxelisation, of a map, and of layers forward + backward."""
    points = surface(voxels).to(device)
    x = voxelize([points], size_for(voxels))
    make = torch.Generator().manual_seed(0)
    contenders = {
        "voxelisation": timing.timed(lambda: voxelize([points], size_for(voxels)), device),
        "map of kernel 3": timing.timed(
            lambda: fresh(x).sites.kernel_map((3,) * 3, 1, (1,) * 3), device),
    }
    for name, settings in LAYERS.items():
        layer = SparseConv3d(CHANNELS, CHANNELS, bias=False, generator=make, **settings).to(device)
        outputs = len(x.sites.downsample(layer.stride))
        feats = torch.randn(len(x.sites), CHANNELS, generator=make).to(device)
        grad = torch.randn(outputs, CHANNELS, generator=make).to(device)
        contenders[name] = Turn(layer, SparseTensor(feats, x.sites), grad, device)
    for call in contenders.values():
        call()  # compiles
    seconds = timing.take_turns(contenders, budget)
    return [{"what": name, "voxels": len(x.sites), "points": len(points), "channels": CHANNELS,
             "seconds": np.median(values[:, -1]), "rounds": len(values)}
            for name, values in seconds.items()]  # fmt: skip
