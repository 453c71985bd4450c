"""06b: the segmentation network on two rooms.

The decoder's shortcuts have another shape than the original's. To be compared at all they get the
original's tap at (0, 0, 0); every other tensor fits.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.analysis.segmentation import class_iou, confusion_of
from i2p_lib.data.scene_files import IGNORED
from i2p_lib.inflation import initialize
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models.segmenters import segmenter
from i2p_lib.models.unet import points_to_sites, sites_to_points
from i2p_lib.sparse import SparseTensor, voxelize
from i2p_lib.sparse.kernel_map import unique_rows
from tests.golden.classification import LEAK, MODES
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
STEM = {"0": "0", "1": "1", "3": "2", "4": "3"}
SHORTCUT = re.compile(r"up\d\.1\.0\.downsample\.0\.kernel")
DECODER = ("the decoder's shortcuts are 1x1x1, not 2x2x2; nothing goes to the points and back at "
           "stride 16")  # fmt: skip


def unet_name(name: str) -> str:
    """Our name of a tensor of the original's segmentation network."""
    if found := re.match(r"stem\.(\d)\.(.*)", name):
        return f"stem.{STEM[found[1]]}.{found[2].replace('kernel', 'weight')}"
    if found := re.match(r"ds\.net\.(\d)\.(.*)", name):
        return f"down.{found[1]}.{found[2].replace('kernel', 'weight')}"
    if found := re.match(r"up(\d)\.0\.net\.(\d)\.(.*)", name):
        last = found[3].replace("kernel", "weight")
        return f"decoder.up.{int(found[1]) - 1}.transposed.{found[2]}.{last}"
    if found := re.match(r"up(\d)\.1\.(.*)", name):
        block = our_name(f"stage1.{found[2]}").removeprefix("layer1.")
        return f"decoder.up.{int(found[1]) - 1}.blocks.{block}"
    if name.startswith("classifier.0"):
        return name.replace("classifier.0", "decoder.classifier")
    return f"encoder.{our_name(name)}"


def fresh() -> nn.Module:
    """A scratch network without the point branch, whose MLPs the original does not have, and
    without dropout, as the golden file's."""
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


def points() -> tuple[SparseTensor, Tensor]:
    """The original's rows as our voxels of their exact cells, and each row's voxel."""
    rows = our_sites(tensor(EXACT, "lidar_C"))
    clouds = [rows[rows[:, 0] == b, 1:].double() + 0.5 for b in rows[:, 0].unique()]
    return (voxelize(clouds, 1.0, features=tensor(EXACT, "lidar_F").double()),
            unique_rows(rows)[1])  # fmt: skip


@cache
def passed(training: bool) -> tuple[dict[str, SparseTensor], Tensor, Tensor]:
    """The activations by the original's names, the logits of its rows, and the loss."""
    net = scratch().double()
    state = net.state_dict()
    for name, value in closed_form(EXACT).items():
        value = our_taps(value) if name.endswith("kernel") else value
        state[unet_name(name)].copy_(value[:1] if SHORTCUT.fullmatch(name) else value)
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(float(name.endswith("var")))
    seen: dict[str, SparseTensor] = {}
    watched = {"stem": net.stem, "ds": net.down} | {
        f"stage{i}": net.encoder.get_submodule(f"layer{i}") for i in range(1, 5)}
    hooks = [layer.register_forward_hook(lambda _, i, out, name=name: seen.update({name: out}))
             for name, layer in watched.items()]  # fmt: skip
    hooks.append(net.down.register_forward_pre_hook(
        lambda _, i: i[0].replace(i[0].feats / LEAK)))  # fmt: skip
    x, place = points()
    net.train(training)
    with torch.no_grad():
        logits = net(x)[place]
    for hook in hooks:
        hook.remove()
    return seen, logits, cross_entropy(logits, tensor(EXACT, "targets"))


def activations(training: bool) -> float:
    """Mean size, rows and stride of what the layers up to stage 4 give."""
    key, apart_by = "train" if training else "eval", 0.0
    seen = passed(training)[0]
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
    for file, size in ((ROUNDTRIP, SIZE), (EXACT, 1.0)):
        rows = our_sites(tensor(file, "lidar_C"))
        clouds = [rows[rows[:, 0] == b, 1:].float() * size for b in rows[:, 0].unique()]
        x = voxelize(clouds, size, features=tensor(file, "lidar_F").double())
        theirs = our_sites(tensor(file, "voxel_C"))
        if only_in_one(x.coords, theirs):
            return MISSING
        apart_by = max(apart_by, apart(in_order(x.coords, x.feats),
                                       in_order(theirs, tensor(file, "voxel_F"))))  # fmt: skip
    return apart_by


@item("06b parameters", unit="parameters", by=4_128_768, differs="the decoder's shortcuts are "
      "1x1x1, not 2x2x2 with stride 1")
def size() -> float:
    """The number of parameters."""
    ours = sum(p.numel() for p in scratch().parameters())
    return abs(ours - int(golden(SINGLE)["trainable_all_count"]))


for _mode in ("io", "ioms", "iobn"):

    @item(f"06b what {_mode} trains", unit="parameters", by=4_128_768, differs="all that the "
          "original trains, but the decoder is smaller")  # fmt: skip
    def trains(mode: str = _mode) -> float:
        """The number of trained parameters."""
        trained = freeze(scratch(), MODES[mode]).trained
        return abs(trained - int(golden(SINGLE)[f"trainable_{mode}_count"]))


for _part in ("stem, ds and stages", "up"):

    @item(f"06b initial kernels of {_part}", 0.05, "of a kernel's standard deviation")
    def initial(part: str = _part) -> float:
        """The standard deviation of each convolution's kernel, as `initialize` draws them, the
        decoder's shortcuts left out."""
        return max(abs(ours - theirs) / theirs for name, (ours, theirs) in spread().items()
                   if name.startswith("up") == (part == "up") and not SHORTCUT.fullmatch(name))


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
    x4 = passed(True)[0]["stage4"]
    theirs = our_sites(tensor(EXACT, "train/stage4_C"), 16)
    return apart(in_order(x4.coords, x4.feats[:, :64]),
                 in_order(theirs, tensor(EXACT, "train/stage4_out_x4")))  # fmt: skip


@item("06b coarsest level through the points", 1e-8, by=0.6086, differs="the library has the step "
      "in its point branch alone, where cells lie at their centres, each voxel counts once, and "
      "point MLPs are added; here the step by itself")  # fmt: skip
def through_points() -> float:
    """The input of the decoder: stage 4 to the points (trilinear) and back (mean)."""
    x4 = passed(True)[0]["stage4"]
    ours = points_to_sites(sites_to_points(x4), x4.sites)
    theirs = our_sites(tensor(EXACT, "train/stage4_C"), 16)
    return apart(in_order(x4.coords, ours[:, :64]),
                 in_order(theirs, tensor(EXACT, "train/up1_in_y1")))  # fmt: skip


for _training, _by in ((False, 0.348), (True, 1.543)):
    _name = "training" if _training else "eval"

    @item(f"06b logits, {_name}", 1e-6, by=_by, differs=DECODER)
    def logits(training: bool = _training, key: str = _name.removesuffix("ing")) -> float:
        """Logits of the original's rows, voxels given, its tap at (0, 0, 0) in the shortcuts."""
        return apart(passed(training)[1], tensor(EXACT, f"{key}/logits"))


@item("06b loss of the first step", 1e-6, by=0.019, differs=f"{DECODER}; further steps differ more")
def loss() -> float:
    """The loss of the first of three training steps (dropout 0)."""
    return apart(passed(True)[2], tensor(EXACT, "steps_loss")[0])


@item("06b IoU of the original's predictions", 1e-12)
def iou() -> float:
    """IoU of each class over all points, an absent class as 1."""
    data = golden(EXACT)
    labels = np.where(data["mapped_targets"] == 255, IGNORED, data["mapped_targets"])
    counts = confusion_of(data["mapped_outputs"], labels.astype(np.int64), 14)
    return apart(np.nan_to_num(class_iou(counts), nan=1.0), data["mapped_ious"])
