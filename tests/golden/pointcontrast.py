"""08: where PointContrast's tensors go, and in which order of taps."""

from __future__ import annotations

import torch

from i2p_lib.inflation import inflate
from i2p_lib.models.res16 import _to_taps, pointcontrast_name, res16unet34
from i2p_lib.train.settings import PROTOCOLS
from tests.golden.items import item
from tests.golden.original import golden, our_name, our_taps, unlike

FILE = "08_pointcontrast_mapping"


@item("08 places of PointContrast's tensors", unit="tensors")
def places() -> float:
    """Which tensor of a Res16UNet34 file goes where; which ones nobody asks for."""
    theirs, ours = {}, {}
    for pair in golden(FILE)["pairs"].tolist():
        name, _, key = pair.partition(" <- ")
        if not key.startswith("("):
            theirs[key] = our_name(name)
    for key in golden(FILE)["fake_pointcontrast_keys"].tolist():
        if name := pointcontrast_name(key):
            ours[key] = name
    return float(len(theirs.items() ^ ours.items()))


@item("08 shapes of PointContrast's tensors", unit="tensors")
def shapes() -> float:
    """Every tensor of the file that has a place fits there."""
    state = inflate(res16unet34(), 3, 40).state_dict()
    data = golden(FILE)
    return float(sum(
        tuple(state[name].shape) not in (_shape(text), (1, *_shape(text)))
        for key, text in zip(data["fake_pointcontrast_keys"].tolist(),
                             data["fake_pointcontrast_shapes"].tolist(), strict=True)
        if (name := pointcontrast_name(key))))  # fmt: skip


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()").split(",") if part.strip())


def moved(order: str) -> float:
    """Taps that lie elsewhere than where the original copies tap i to tap i of its own kernels."""
    kernels = [torch.arange(k).float()[:, None, None] for k in (1, 8, 27)]
    return sum(unlike(_to_taps(kernel, order), our_taps(kernel)) for kernel in kernels)


@item("08 order of taps", unit="taps")
def taps() -> float:
    """Where each tap of a 1x1x1, 2x2x2 and 3x3x3 kernel goes in a released run."""
    return moved(PROTOCOLS["released"].taps)
