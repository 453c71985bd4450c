"""06b: the whole segmentation network, with what the library lacks added by the tests.

Added are 2x2x2 shortcuts with stride 1 in the decoder, and the ways from voxels to points and back
at strides 1 and 16, which are the library's `Points`. Stem, stages, transposed convolutions,
residual blocks and classifier are the library's.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.models.stages import stage_outputs
from i2p_lib.sparse import Points, SparseConv3d, SparseTensor, voxelize
from i2p_lib.train.optimise import build_optimizer
from i2p_lib.train.settings import SegmentSettings
from tests.golden.grid import SIZE
from tests.golden.items import item
from tests.golden.original import (
    apart,
    closed_form,
    golden,
    in_order,
    our_sites,
    our_taps,
    tensor,
)
from tests.golden.segmentation import EXACT, ROUNDTRIP, fresh, unet_name

SIZES = {ROUNDTRIP: SIZE, EXACT: 1.0}
"""Golden file -> the v of (n v) / v."""


def network() -> nn.Module:
    """The library's network with 2x2x2 shortcuts, closed-form weights and fresh statistics."""
    net = fresh().double()
    for up in net.decoder.up:
        small = up.blocks[0].downsample[0]
        up.blocks[0].downsample[0] = SparseConv3d(
            small.in_channels, small.out_channels, 2, bias=False).double()  # fmt: skip
    state = net.state_dict()
    for name, value in closed_form(EXACT).items():
        state[unet_name(name)].copy_(our_taps(value) if name.endswith("kernel") else value)
    return refreshed(net)


def refreshed(net: nn.Module) -> nn.Module:
    """The network with the statistics of its norms as at the start."""
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(float(name.endswith("var")))
    return net


def forward(net: nn.Module, file: str) -> tuple[SparseTensor, Tensor]:
    """The input of the decoder, and the logits of the original's rows."""
    rows, size = our_sites(tensor(file, "lidar_C")), SIZES[file]
    places = rows[:, 1:].float() * size
    points = Points(places / size, rows[:, 0])
    x = voxelize([places[rows[:, 0] == b] for b in rows[:, 0].unique()], size,
                 features=tensor(file, "lidar_F").double())  # fmt: skip
    fine = net.stem(x)
    *skips, x4 = stage_outputs(net.encoder, net.stages,
                               net.down(points.average(points.interpolate(fine), fine)))
    y = middle = points.average(points.interpolate(x4), x4)
    skips = [fine, *skips]
    for up in net.decoder.up:
        y = up(y, skips.pop())
    return middle, net.decoder.classifier(points.interpolate(y))


@cache
def passed() -> dict[tuple[str, str], tuple[SparseTensor, Tensor]]:
    """What `forward` gives for both files, in eval mode and in training."""
    net = network()
    with torch.no_grad():
        return {(file, mode): forward(refreshed(net).train(mode == "train"), file)
                for file in SIZES for mode in ("eval", "train")}  # fmt: skip


for _file, _form in ((ROUNDTRIP, ""), (EXACT, ", exact")):
    for _mode in ("eval", "train"):

        @item(f"06b logits, {_mode}, shortcuts and points added{_form}", 1e-9)
        def logits(file: str = _file, mode: str = _mode) -> float:
            """Logits and loss of the original's rows at (n v) / v in float32 (exact: v = 1)."""
            _, found = passed()[file, mode]
            loss = cross_entropy(found, tensor(file, "targets"))
            return max(apart(found, tensor(file, f"{mode}/logits")),
                       apart(loss, tensor(file, f"{mode}/loss")))  # fmt: skip


@item("06b coarsest level through the points, points added", 1e-9)
def through_points() -> float:
    """64 channels of the input of the decoder, training."""
    middle, _ = passed()[ROUNDTRIP, "train"]
    theirs = our_sites(tensor(ROUNDTRIP, "train/stage4_C"), 16)
    return apart(in_order(middle.coords, middle.feats[:, :64]),
                 in_order(theirs, tensor(ROUNDTRIP, "train/up1_in_y1")))  # fmt: skip


@item("06b three training steps, shortcuts and points added", 1e-9)
def steps() -> float:
    """Losses of SGD with Nesterov's momentum in one group of decay, the original's learning rates,
    dropout 0; norms of all parameters at the end."""
    settings = SegmentSettings(protocol="released", optimizer="sgd", nesterov=True, lr=0.1,
                               weight_decay=1e-4)  # fmt: skip
    net, data = network().train(), golden(EXACT)
    optimizer, apart_by = build_optimizer(net, settings), 0.0
    for lr, theirs in zip(data["steps_lr"], data["steps_loss"], strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(forward(net, EXACT)[1], tensor(EXACT, "targets"))
        loss.backward()
        optimizer.step()
        apart_by = max(apart_by, apart(loss, theirs))
    values = dict(net.named_parameters())
    norms = [float(values[unet_name(name)].detach().norm()) for name in data["names"].tolist()]
    return max(apart_by, apart(norms, data["steps_param_norm"][-1]))
