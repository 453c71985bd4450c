"""What a file of weights seems to be, by the names and shapes of its tensors."""

import re
from collections.abc import Mapping

import torch

Shapes = Mapping[str, tuple[int, ...]]

MARKS = {
    r"(stage|up)\d\.\d\..*\.kernel$": "a 3D network of the original code: "
    "i2p_lib.models.original.load_original(net, path) takes it",
    r"block\d\.\d+\.conv\d\.kernel$": "PointContrast's 3D network: RunSpec("
    "model='res16unet34', weights=path) and i2p_lib.models.res16.load_pointcontrast take it",
    r"blocks\.\d+\.attn\.|encoder_layer_\d+\.self_attention|encoder\.layer\.\d+\.attention":
    "a Vision Transformer",
}  # fmt: skip
"""Part of a tensor's name -> the network that has such ones."""


def seemingly(stored: Shapes) -> str:
    """Return ": it looks like ..." for {name: shape} of tensors, or "" where nothing is known."""
    for mark, what in MARKS.items():
        if any(re.search(mark, name) for name in stored):
            return f": it looks like {what}"
    import torchvision

    for name in torchvision.models.list_models(torchvision.models, include=["*resne[tx]*"]):
        with torch.device("meta"):
            own = torchvision.models.get_model(name, weights=None).state_dict()
        if _body({key: tuple(value.shape) for key, value in own.items()}) == _body(stored):
            return f": it looks like {name}"
    return ""


def _body(stored: Shapes) -> Shapes:
    """All but the classifier and the counters of batch norms."""
    return {name: shape for name, shape in stored.items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}  # fmt: skip
