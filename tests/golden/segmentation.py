"""06b: the segmentation network on two rooms."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.analysis.segmentation import class_iou, confusion_of
from i2p_lib.data.scenes import IGNORED
from i2p_lib.inflation import initialize
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models.segmenters import segmenter
from i2p_lib.sparse import Points, SparseTensor, voxelize
from i2p_lib.train.optimise import build_optimizer
from i2p_lib.train.settings import SegmentSettings
from tests.golden.classification import MODES
from tests.golden.grid import SIZE
from tests.golden.items import item
from tests.golden.original import (
    MISSING,
    apart,
    closed_form,
    golden,
    in_order,
    only_in_one,
    our_name,
    our_sites,
    our_taps,
    tensor,
)

ROUNDTRIP, EXACT, SINGLE = (f"06b_spvcnn18_s3dis_{form}"
                            for form in ("float64", "float64_exact", "float32"))  # fmt: skip
SIZES = {ROUNDTRIP: SIZE, EXACT: 1.0}
"""Golden file -> the v of (n v) / v."""


def unet_name(name: str) -> str:
    """Our name of a tensor of the original's segmentation network."""
    return our_name(name, unet=True)


def fresh() -> nn.Module:
    """A scratch network without dropout, as the golden file's."""
    net = segmenter("unet:resnet18", 14, 3, axis="y", normalize=False)
    net.decoder.dropout.p = 0.0
    return net


scratch = cache(fresh)


@cache
def spread() -> dict[str, tuple[float, float]]:
    """Ours and theirs: the standard deviation of each convolution's kernel at the start."""
    net, data = fresh(), golden(SINGLE)
    initialize(net, "torchsparse", torch.Generator().manual_seed(0))
    state = net.state_dict()
    return {name: (float(state[unet_name(name)].double().std(correction=0)), float(theirs))
            for name, theirs in zip(data["names"].tolist(), data["init_std"], strict=True)
            if name.endswith("kernel")}  # fmt: skip


def voxels(file: str) -> SparseTensor:
    """The original's rows as voxels that hold them as their points."""
    rows, size = our_sites(tensor(file, "lidar_C")), SIZES[file]
    places = rows[:, 1:].float() * size
    x = voxelize([places[rows[:, 0] == b] for b in rows[:, 0].unique()], size,
                 features=tensor(file, "lidar_F").double(), dtype=torch.float64)  # fmt: skip
    x.sites.pyramid["points",] = Points(places / size, rows[:, 0])
    return x


def network() -> nn.Module:
    """A network with closed-form weights and fresh statistics."""
    net = fresh().double()
    state = net.state_dict()
    for name, value in closed_form(EXACT).items():
        state[unet_name(name)].copy_(our_taps(value) if name.endswith("kernel") else value)
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(float(name.endswith("var")))
    return net


@cache
def passed(file: str, training: bool) -> tuple[dict[str, SparseTensor], Tensor]:
    """The activations by the original's names, "y1" being the decoder's input, and the logits."""
    net = network().train(training)
    seen: dict[str, SparseTensor] = {}
    watched = {"stem": net.stem, "ds": net.down} | {
        f"stage{i}": net.encoder.get_submodule(f"layer{i}") for i in range(1, 5)}
    for name, layer in watched.items():
        layer.register_forward_hook(lambda _, i, out, name=name: seen.update({name: out}))
    net.decoder.up[0].register_forward_pre_hook(lambda _, given: seen.update(y1=given[0]))
    with torch.no_grad():
        return seen, net(voxels(file))


def activations(training: bool) -> float:
    """Mean size, rows and stride of what the layers up to stage 4 give."""
    key, apart_by = "train" if training else "eval", 0.0
    seen = passed(EXACT, training)[0]
    names = golden(EXACT)[f"{key}/acts_names"].tolist()
    for name, theirs in zip(names, golden(EXACT)[f"{key}/acts_absmean_n_stride"], strict=True):
        if name in seen:
            y = seen[name]
            ours = (y.feats.abs().mean(), len(y.sites), y.stride)
            apart_by = max(apart_by, *(apart(float(a), b)
                                       for a, b in zip(ours, theirs, strict=True)))  # fmt: skip
    return apart_by


@item("06b voxels of the original's rows", 1e-12)
def voxels_of_rows() -> float:
    """Sites and mean features of rows at (n 0.05) / 0.05 in float32, and exact."""
    apart_by = 0.0
    for file in SIZES:
        x, theirs = voxels(file), our_sites(tensor(file, "voxel_C"))
        if only_in_one(x.coords, theirs):
            return MISSING
        apart_by = max(apart_by, apart(in_order(x.coords, x.feats),
                                       in_order(theirs, tensor(file, "voxel_F"))))  # fmt: skip
    return apart_by


@item("06b parameters", unit="parameters")
def size() -> float:
    """The number of parameters."""
    ours = sum(p.numel() for p in scratch().parameters())
    return abs(ours - int(golden(SINGLE)["trainable_all_count"]))


for _mode in ("io", "ioms", "iobn"):

    @item(f"06b what {_mode} trains", unit="parameters")
    def trains(mode: str = _mode) -> float:
        """The number of trained parameters."""
        trained = freeze(scratch(), MODES[mode]).query("trained")["values"].sum()
        return abs(trained - int(golden(SINGLE)[f"trainable_{mode}_count"]))


for _part in ("stem, ds and stages", "up"):

    @item(f"06b initial kernels of {_part}", 0.05, "of a kernel's standard deviation")
    def initial(part: str = _part) -> float:
        """The standard deviation of each convolution's kernel, as `initialize` draws them."""
        return max(abs(ours - theirs) / theirs for name, (ours, theirs) in spread().items()
                   if name.startswith("up") == (part == "up"))


@item("06b activations up to stage 4, eval", 1e-9)
def encoder() -> float:
    """Mean size, rows and stride after stem, ds and stages, voxels given, norms in eval mode."""
    return activations(False)


@item("06b activations up to stage 4, training", 1e-8)
def encoder_trained() -> float:
    """Mean size, rows and stride after stem, ds and stages, voxels given, norms in training."""
    return activations(True)


@item("06b coarsest level, training", 1e-8)
def coarsest() -> float:
    """64 channels of stage 4's 17 cells."""
    x4 = passed(EXACT, True)[0]["stage4"]
    theirs = our_sites(tensor(EXACT, "train/stage4_C"), 16)
    return apart(in_order(x4.coords, x4.feats[:, :64]),
                 in_order(theirs, tensor(EXACT, "train/stage4_out_x4")))  # fmt: skip


@item("06b coarsest level through the points", 1e-9)
def through_points() -> float:
    """64 channels of the input of the decoder, training: stage 4 to the points (trilinear) and back
    (mean)."""
    apart_by = 0.0
    for file in SIZES:
        y1 = passed(file, True)[0]["y1"]
        theirs = our_sites(tensor(file, "train/stage4_C"), 16)
        apart_by = max(apart_by, apart(in_order(y1.coords, y1.feats[:, :64]),
                                       in_order(theirs, tensor(file, "train/up1_in_y1"))))
    return apart_by


for _file, _form in ((ROUNDTRIP, ""), (EXACT, ", exact")):
    for _mode in ("eval", "train"):

        @item(f"06b logits, {_mode}{_form}", 1e-9)
        def logits(file: str = _file, mode: str = _mode) -> float:
            """Logits and loss of the original's rows at (n v) / v in float32 (exact: v = 1)."""
            found = passed(file, mode == "train")[1]
            loss = cross_entropy(found, tensor(file, "targets"))
            return max(apart(found, tensor(file, f"{mode}/logits")),
                       apart(loss, tensor(file, f"{mode}/loss")))  # fmt: skip


@item("06b three training steps", 1e-9)
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
        loss = cross_entropy(net(voxels(EXACT)), tensor(EXACT, "targets"))
        loss.backward()
        optimizer.step()
        apart_by = max(apart_by, apart(loss, theirs))
    values = dict(net.named_parameters())
    norms = [float(values[unet_name(name)].detach().norm()) for name in data["names"].tolist()]
    return max(apart_by, apart(norms, data["steps_param_norm"][-1]))


@item("06b IoU of the original's predictions", 1e-12)
def iou() -> float:
    """IoU of each class over all points, an absent class as 1."""
    data = golden(EXACT)
    labels = np.where(data["mapped_targets"] == 255, IGNORED, data["mapped_targets"])
    counts = confusion_of(data["mapped_outputs"], labels.astype(np.int64), 14)
    return apart(np.nan_to_num(class_iou(counts), nan=1.0), data["mapped_ious"])
