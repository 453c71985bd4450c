"""Checkpoints that the original code has trained, in our networks."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from i2p_lib.models.res16 import load_kernels
from i2p_lib.models.unet import UNet
from i2p_lib.weights.cards import file_card
from i2p_lib.weights.files import verified

_PARTS = {
    r"stem\.0\.": "conv1.", r"stem\.1\.": "bn1.", r"classifier\.": "fc.",
    r"ds(\d)\.net\.(\d)\.": r"ds\1.\2.",
    r"stage(\d)\.(\d+)\.": r"layer\1.\2.",
}  # fmt: skip
_UNET_PARTS = {
    r"stem\.([01])\.": r"stem.\1.", r"stem\.3\.": "stem.2.", r"stem\.4\.": "stem.3.",
    r"classifier\.0\.": "decoder.classifier.", r"ds\.net\.(\d)\.": r"down.\1.",
    r"stage(\d)\.(\d+)\.": r"encoder.layer\1.\2.",
} | {
    rf"up{n}\.{part}": f"decoder.up.{n - 1}.{ours}" for n in range(1, 5)
    for part, ours in ((r"0\.net\.(\d)\.", r"transposed.\1."), (r"1\.(\d)\.", r"blocks.\1."))
}  # fmt: skip
_LAYERS = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}


def original_name(name: str, unet: bool = False) -> str | None:
    """Our name of a tensor of a network of the original, or None where it is none of them.

    unet: of its segmentation network, SPVCNN18; else of SPVCNN{18,34,50,101,152}_cls.

    >>> original_name("stage2.0.net.3.kernel")
    'layer2.0.conv2.weight'
    """
    for theirs, ours in (_UNET_PARTS if unet else _PARTS).items():
        if found := re.match(theirs, name):
            rest = name[found.end() :]
            if unit := re.match(r"net\.([013467])\.", rest):  # of a residual block
                rest = f"{_LAYERS[unit[1]]}.{rest[unit.end() :]}"
            return found.expand(ours) + re.sub(r"kernel$", "weight", rest)
    return None


def load_original(net: nn.Module, path: str | Path,
                  weights_except: Sequence[str] = ()) -> pd.DataFrame:
    """Load a checkpoint of a 3D network that the original code has trained, strictly.

    The network must be the original's, with as many channels and classes:

    * of clouds, ``inflate(image_model(name), 3, classes, recipe="paper")`` for the original's
      ResNet-18, 50, 101 and 152, and ``inflate(res16unet34(), 3, classes)`` for its ResNet-34;
    * of scenes, ``segmenter("unet:resnet18", classes, features)``.

    Args:
        path: its ``.pt`` file; the tensors may stand in an entry such as ``model``.
        weights_except: parts of the network that stay as they are, such as ["fc"] for the
            classifier.

    Returns the table of all tensors, see ``transfer``; the original numbers the taps of a kernel
    otherwise than we do, and each goes to its place in space.

    Raises FileNotFoundError where there is no such file, and ValueError for one that holds objects
    besides tensors, or other tensors or shapes than the network; it has not been changed then.
    """
    card, unet = file_card(f"the original's {type(net).__name__}", path), isinstance(net, UNet)
    file, _ = verified(card)
    return load_kernels(net, card, file, lambda name: original_name(name, unet), "released",
                        weights_except)
