"""06b: the whole segmentation network, with what the library lacks added by the tests.

Added are 2x2x2 shortcuts with stride 1 in the decoder, and the ways from voxels to points and back
at strides 1 and 16 as torchsparse takes them. Stem, stages, transposed convolutions, residual
blocks and classifier are the library's.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.models.stages import stage_outputs
from i2p_lib.sparse import Sites, SparseConv3d, SparseTensor, voxelize
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

REACH = 2**12  # more than the cells along an axis, of either sign
SIZES = {ROUNDTRIP: SIZE, EXACT: 1.0}
"""Golden file -> the v of (n v) / v."""


class Points:
    """Points among voxels as torchsparse has them: float32 places in voxels, and their samples."""

    def __init__(self, places: Tensor, batch: Tensor):
        self.places, self.batch = places, batch

    def rows(self, sites: Sites, cells: Tensor) -> Tensor:
        """The row of each point's cell [P, 3] among the sites, -1 where there is none."""
        known, order = _keys(sites.coords[:, 0], sites.coords[:, 1:]).sort()
        wanted = _keys(self.batch, cells)
        place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        return torch.where(known[place] == wanted, order[place], -1)

    def cells(self, stride: int) -> Tensor:
        """The cell of each point at a stride."""
        return torch.floor(self.places / stride).long()

    def of(self, x: SparseTensor) -> Tensor:
        """Features at the points: trilinear between the lowest corners of cells that have a site,
        weights over their sum + 1e-8."""
        low = self.cells(x.stride)
        share = (self.places - low * x.stride).double() / x.stride
        total = weights = 0.0
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            row = self.rows(x.sites, low + corner)
            weight = torch.where(corner == 1, share, 1 - share).prod(1)
            weight = torch.where(row < 0, 0, weight)[:, None]
            total, weights = total + x.feats[row.clamp(min=0)] * weight, weights + weight
        return total / (weights + 1e-8)

    def onto(self, feats: Tensor, x: SparseTensor) -> SparseTensor:
        """The mean over the points in each cell."""
        row = self.rows(x.sites, self.cells(x.stride))
        total = feats.new_zeros(len(x.sites), feats.shape[1]).index_add_(0, row, feats)
        return x.replace(total / torch.bincount(row, minlength=len(x.sites))[:, None])


def _keys(batch: Tensor, cells: Tensor) -> Tensor:
    key = batch
    for axis in cells.unbind(1):
        key = key * 2 * REACH + axis + REACH
    return key


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
                               net.down(points.onto(points.of(fine), fine)))  # fmt: skip
    y = middle = points.onto(points.of(x4), x4)
    skips = [fine, *skips]
    for up in net.decoder.up:
        y = up(y, skips.pop())
    return middle, net.decoder.classifier(points.of(y))


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
