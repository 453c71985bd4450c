"""04: inflated filters and what else is taken from the image network."""

from __future__ import annotations

import hashlib
import json
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.inflation import ORIGINAL_AXES, inflate, inflate_weight, to_taps
from i2p_lib.models.unet import unet
from tests.golden.items import item
from tests.golden.original import apart, golden, our_name, our_taps, tensor, their_taps, unlike

FILE = "04_inflation"

@cache
def image(name: str) -> nn.Module:
    """The image network of the golden file, see the README."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(1234)
        net = getattr(torchvision.models, name)()
    for i, value in enumerate(net.state_dict().values()):
        if value.ndim == 1:
            value.copy_(1 + 0.1 * torch.sin(0.37 * torch.arange(len(value)).double() + i))
        elif value.ndim == 0:
            value.fill_(1000 + i)
    return net


def checksum(values: list[Tensor]) -> Tensor:
    """Sums of x, |x| and x cos(n / 100), n the place in its tensor, as the README says."""
    total = np.zeros(3)
    for value in values:
        x = value.double().numpy().ravel()
        total += x.sum(), np.abs(x).sum(), x @ np.cos(0.01 * np.arange(len(x)))
    return torch.from_numpy(total)


def stages(depth: int, axis: str) -> dict[str, Tensor]:
    """{original name: tensor in the original's order of taps} of an inflated network's stages."""
    state = inflate(image(f"resnet{depth}"), 3, 40, axis, normalize=False,
                    recipe="paper").state_dict()  # fmt: skip
    named = {}
    for name in golden(FILE)[f"spvcnn{depth}_cls/map_spv"].tolist():
        value = state[our_name(name)]
        named[name] = their_taps(value) if name.endswith("kernel") else value
    return named


def digest(named: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes."""
    found = hashlib.sha256()
    for name, value in named.items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


@item("04 image network", 1e-12)
def source() -> float:
    """Three sums over the image networks' values: the tests inflate what the original inflated."""
    return max(apart(checksum(list(image(f"resnet{depth}").state_dict().values())),
                     tensor(FILE, f"spvcnn{depth}_cls/resnet_checksum"))
               for depth in (18, 50))  # fmt: skip


for _depth in (18, 50):
    for _theirs in ("z-axis", "y-axis"):

        @item(f"04 all stages of ResNet{_depth}, {_theirs}", 1e-12)
        def inflated(depth: int = _depth, theirs: str = _theirs) -> float:
            """Every tensor of the stages to the bit: kernels repeated and not divided, shortcuts
            at all eight places, norms copied."""
            key = f"spvcnn{depth}_cls/{theirs}/stage_"
            named = stages(depth, ORIGINAL_AXES[theirs])
            same = digest(named) == json.loads(str(golden(FILE)["meta_json"]))[key + "sha256"]
            return 0.0 if same else max(
                1e-9, apart(checksum(list(named.values())), tensor(FILE, key + "checksum")))


for _axis in ORIGINAL_AXES:

    @item(f"04 axis named {_axis}")
    def named(axis: str = _axis) -> float:
        """An inflated 3x3 filter where `ORIGINAL_AXES` says which axis of ours is meant."""
        weight = tensor(FILE, "tiny/2d")
        ours = to_taps(inflate_weight(weight, ORIGINAL_AXES[axis], normalize=False))
        return apart(ours, our_taps(tensor(FILE, f"tiny/{axis}")))


@item("04 pointwise filters")
def pointwise() -> float:
    """1x1 filters, of ResNet-34's twin its shortcuts too, are the same matrices."""
    ours = to_taps(inflate_weight(tensor(FILE, "tiny/1x1"), "y", normalize=False))
    spread = ours.expand(8, -1, -1)
    return max(apart(ours[0], tensor(FILE, "tiny/conv1x1")),
               apart(ours[0], tensor(FILE, "tiny34/downsample")),
               apart(spread, tensor(FILE, "tiny/downsample")))  # fmt: skip


def two_by_two(axis: str) -> float:
    ours = to_taps(inflate_weight(tensor(FILE, "tiny34/2x2"), axis, normalize=False))
    return apart(ours, tensor(FILE, "tiny34/ds"))


@item("04 2x2 filters", by=1 / 15, on_purpose=True, differs="the original numbers the taps of "
      "2x2x2 kernels the other way round, so that these filters alone have width and height "
      "exchanged; the library keeps them as in the 3x3 filters beside them")  # fmt: skip
def straight() -> float:
    """An inflated 2x2 filter (ResNet-34's twin) that is constant along y."""
    return two_by_two("y")


@item("04 2x2 filters, y transposed")
def exchanged() -> float:
    """The same filter on the axis `y transposed`."""
    return two_by_two("y transposed")


@item("04 layers that stay random", unit="parameters")
def random_layers() -> float:
    """Which parameters do not come from the image network: input and output layers alone."""
    apart_by = 0.0
    for key, net in (("spvcnn18_cls", inflate(image("resnet18"), 3, 40, recipe="paper")),
                     ("spvcnn18", unet("resnet18", 14, 6))):  # fmt: skip
        theirs = [name for name in golden(FILE)[f"{key}/not_loaded"].tolist()
                  if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        ours = [role for role in net.i2p_roles.values() if role in ("input", "output")]
        apart_by += abs(len(ours) - len(theirs))
    return apart_by


@item("04 order of the tensors", unit="names")
def order() -> float:
    """Which tensor of the image network goes where, which the original finds by their order."""
    apart_by = 0.0
    for depth in (18, 50):
        theirs = golden(FILE)[f"spvcnn{depth}_cls/map_spv"].tolist()
        ours = golden(FILE)[f"spvcnn{depth}_cls/map_resnet"].tolist()
        apart_by += unlike([our_name(name) for name in theirs], ours)
    return apart_by
