"""The 2D twin of PointContrast's Res16UNet34 encoder, and PointContrast's own 3D weights in it."""

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from i2p_lib.models.stages import he_init, residual_stage
from i2p_lib.weights.cards import WeightCard, weight_card
from i2p_lib.weights.files import verified
from i2p_lib.weights.loading import common_prefix, read_tensors, transfer
from i2p_lib.weights.paths import is_path

DEPTHS, WIDTHS = (2, 3, 4, 6), (32, 64, 128, 256)

_TAKEN = re.compile(r"block[1-4]\.|conv(2p2|3p4|4p8)s2\.|bn[2-4]\.")
_RENAMED = {
    r"^block": "layer", r"\.norm(?=\d)": ".bn", r"\.bn\.": ".", r"kernel$": "weight",
    r"^conv2p2s2": "ds1.0", r"^conv3p4s2": "ds2.0", r"^conv4p8s2": "ds3.0",
    r"^bn2": "ds1.1", r"^bn3": "ds2.1", r"^bn4": "ds3.1",
}  # fmt: skip


class Res16Encoder(nn.Module):
    """Stem, four stages of basic blocks, 2x2 convolutions of stride 2 between them, classifier.

    Inflated, its logits get a norm, and the convolutions between the stages are trained with the
    input layer, as the released code does (its ``io`` trains what is not named ``stage``).
    """

    norm_on_logits, more_inputs = True, ("ds1", "ds2", "ds3")

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        channels = WIDTHS[0]
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
            if stage > 1:
                self.add_module(f"ds{stage - 1}", nn.Sequential(
                    nn.Conv2d(channels, channels, 2, 2, bias=False), nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True)))
            self.add_module(f"layer{stage}", residual_stage(BasicBlock, channels, width, depth))
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, num_classes]."""
        x = self.layer2(self.ds1(self.layer1(self.bn1(self.conv1(x)))))
        x = self.layer4(self.ds3(self.layer3(self.ds2(x))))
        return self.fc(self.avgpool(x).flatten(1))


def res16unet34(num_classes: int = 1000) -> Res16Encoder:
    """The image network whose inflated form is the released code's ``SPVCNN34_cls``.

    Channels 32, 64, 128, 256, total stride 8, no activation behind the stem. The authors'
    ImageNet weights of it are not public. Inflate it with ``recipe=None``: it has the paper's
    geometry already, its shortcuts stay 1x1x1, and its logits get a norm.
    """
    return Res16Encoder(num_classes)


def pointcontrast_name(key: str) -> str | None:
    """Our name of a tensor of a PointContrast checkpoint, or None where we have no place for it.

    >>> pointcontrast_name("block2.0.norm1.bn.weight")
    'layer2.0.bn1.weight'
    """
    if not _TAKEN.match(key):
        return None
    for theirs, ours in _RENAMED.items():
        key = re.sub(theirs, ours, key)
    return key


def minkowski_offsets(kernel: int) -> list[tuple[int, int, int]]:
    """Offsets (x, y, z) of the taps of a MinkowskiEngine 0.4 kernel, as PointContrast uses it.

    Its 3x3x3 kernels are of the region type HYBRID: the centre, then, axis by axis, every offset
    so far moved by -1 and by +1. Its 2x2x2 kernels run from 0 to 1 with z fastest.
    """
    if kernel % 2 == 0:
        return list(product(range(kernel), repeat=3))
    half = kernel // 2
    offsets = [(0, 0, 0)]
    for axis in range(3):
        offsets += [(*offset[:axis], step, *offset[axis + 1 :])
                    for offset in offsets for step in range(-half, half + 1) if step]  # fmt: skip
    return offsets


def torchsparse_offsets(kernel: int) -> list[tuple[int, int, int]]:
    """Offsets (x, y, z) of the taps of a torchsparse 1.2 kernel: x fastest if odd, else z."""
    half = (kernel - 1) // 2
    offsets = product(range(-half, kernel - half), repeat=3)
    return [offset[::-1] if kernel % 2 else offset for offset in offsets]


def is_pointcontrast(name: str, weights: str) -> bool:
    """Tell whether a model's weights are kernels on points, to be loaded after inflating it.

    A file that was given by its path is asked what its tensors are called.
    """
    if name != "res16unet34" or not is_path(weights):
        return name == "res16unet34" and weights.startswith("pointcontrast")
    card = weight_card(name, weights)
    stored = read_tensors(card, verified(card)[0])
    prefix = common_prefix(stored)
    return any(key.endswith("kernel") and pointcontrast_name(key.removeprefix(prefix))
               for key in stored)  # fmt: skip


def load_pointcontrast(net: nn.Module, weights: str | Path, order: str = "minkowski",
                       weights_dir: str | Path | None = None,
                       weights_except: Sequence[str] = ()) -> pd.DataFrame:
    """Load PointContrast's Res16UNet34 weights strictly.

    Args:
        net: what ``inflate(res16unet34(), ..., recipe=None)`` returned. Its stages and its
            downsampling layers are filled; stem and classifier stay.
        weights: "pointcontrast_nce" or "pointcontrast_hardest", or the path of such a file.
        order: where tap i of a file's kernel [K, C_in, C_out] goes. ``"minkowski"`` keeps each
            tap at its place in space. ``"released"`` repeats the released code of the paper,
            which copies tap i to tap i of torchsparse: the two libraries number the taps of a
            3x3x3 kernel differently, so its kernels are shuffled in space.
        weights_dir: folder of the file; see ``i2p_lib.weights.image_model``.

        weights_except: parts of the network that stay as they are, such as ["layer4"].

    Returns the table of all tensors, see ``transfer``; in ``net.i2p_report`` what was filled now
    counts as copied.

    Raises:
        FileNotFoundError: the file is not there; says what to place where.
        ValueError: unknown weights or order, a file with objects besides tensors, a network or a
            file with other tensors or shapes. Nothing has been changed then.
    """
    if order not in ("minkowski", "released"):
        raise ValueError(f"order must be one of minkowski, released, got {order!r}")
    card = weight_card("res16unet34", weights)
    if card.path:
        known = weight_card("res16unet34", "pointcontrast_nce")
        card = card.model_copy(update={"drop": known.drop, "fresh": known.fresh})
    path, _ = verified(card, weights_dir)
    return load_kernels(net, card, path, pointcontrast_name, order, weights_except)


def load_kernels(net: nn.Module, card: WeightCard, path: Path, name_of: Callable[[str], str | None],
                 order: str, weights_except: Sequence[str] = ()) -> pd.DataFrame:
    """Load the kernels of another 3D library into an inflated network, see ``transfer``.

    name_of: our name of a tensor of the file, or None.  order: see ``load_pointcontrast``.
    """
    stored, found = read_tensors(card, path), {}
    prefix = common_prefix(stored)  # of data-parallel training
    for key, tensor in stored.items():
        plain = key.removeprefix(prefix)
        value = _to_taps(tensor, order) if plain.endswith("kernel") else tensor
        found[name_of(plain) or plain] = key, value
    table = transfer(net, card, path, found, weights_except)
    copied = table.loc[table["state"] == "copied", "name"]
    net.i2p_report.loc[net.i2p_report["tensor"].isin(copied), "action"] = "copied"
    return table


def _to_taps(kernel: Tensor, order: str) -> Tensor:
    """A file's kernel in the order of the sparse layers: row-major (x, y, z)."""
    taps = kernel if kernel.ndim == 3 else kernel[None]
    side = round(len(taps) ** (1 / 3))
    offsets = (minkowski_offsets if order == "minkowski" else torchsparse_offsets)(side)
    return taps[sorted(range(len(taps)), key=offsets.__getitem__)].contiguous()
