"""Weight cards: what is known of a file before it is opened, from cards.yml or a library."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2p_lib.weights.paths import is_path, placed

CARDS_FILE = Path(__file__).with_name("cards.yml")
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# 2D networks that no image library has, and the module whose builder of that name makes them.
OWN_BUILDERS = {
    "bagnet17": "i2p_lib.models.bagnet",
    "bagnet33": "i2p_lib.models.bagnet",
    "res16unet34": "i2p_lib.models.res16",
}
Names = Annotated[tuple[str, ...], Field(strict=False)]


class LibraryFile(BaseModel):
    """A file of torchvision or timm that the book names, with what the library does not say.

    model, weights   what `image_model` takes
    used_in          where the paper shows them
    size_published   as its publisher says it
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    weights: str
    used_in: str = ""
    size_published: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """MODEL:WEIGHTS, as the command line takes it."""
        return f"{self.model}:{self.weights}"


class WeightCard(LibraryFile):
    """One weight file: where it comes from, how it is checked, and how its tensors are named.

    network          "image", or "points" where a network on points loads the file itself
    size             bytes, measured (0: not measured)
    sha256           the whole hash, the first digits that its publisher put in the file name, or
                     empty: not published
    url, page, pip   the file's own address; a page for a person; the package that contains it
    advice           what to do where no program can (given as `how_to_get`)
    released         False: the paper's authors kept it, or nobody published one
    unwrap, prefix, names, classes, drop, fresh
                     the rules for its tensors, see cards.yml
    tag              timm's name of the weights
    path             the file itself, where it was given by its path instead of a name
    """

    network: Literal["image", "points"] = "image"
    pretraining: str = ""
    source: str
    licence: str
    file_name: str = Field(pattern=r"^[^/\\]+$")
    size: int = Field(0, ge=0)
    sha256: str = Field("", pattern=r"^([0-9a-f]{8,64})?$")
    released: bool = True
    url: str = ""
    page: str = ""
    pip: str = ""
    advice: str = Field("", alias="how_to_get")
    unwrap: str = ""
    prefix: str = ""
    names: Literal["", "in_order"] = ""
    classes: int | None = Field(None, ge=1)
    drop: Names = ()
    fresh: Names = ()
    tag: str = ""
    path: Path | None = None

    @model_validator(mode="after")
    def _can_be_had(self) -> WeightCard:
        public = self.url or self.page or self.pip
        if public and not self.released:
            raise ValueError("an unreleased file has no url, page or pip")
        if not (public or self.advice):
            raise ValueError("a card needs url, page, pip or how_to_get")
        return self

    @property
    def file_format(self) -> str:
        """The format of the file; both are read as tensors and nothing else."""
        safe = self.file_name.endswith(".safetensors")
        return "safetensors" if safe else "PyTorch checkpoint"

    @property
    def size_text(self) -> str:
        """The size for people: measured, else as published."""
        if self.size:
            return f"{self.size / 1e6:.1f} MB"
        return self.size_published or "not published"

    @property
    def hash_text(self) -> str:
        """The hash for people; without a whole one the file is unverified."""
        if len(self.sha256) == 64:
            return self.sha256
        return f"{self.sha256}... (unverified)" if self.sha256 else "not published (unverified)"

    @property
    def how_to_get(self) -> str:
        """What to do to have the file."""
        if self.advice:
            return self.advice if self.released else f"it was never released; {self.advice}"
        if self.pip:
            return f"pip install {self.pip}"
        if self.url:
            return f"download {self.url} as {self.file_name}"
        return f"download {self.file_name} by hand from {self.page}"

    def text(self, state: str) -> str:
        """Return the card for people; state: such as "present"."""
        how = f"i2p weights get {self.label}" if self.url else self.how_to_get
        return (
            f"{self.label} [{state}]\n"
            f"  {self.pretraining}; size: {self.size_text}; licence: {self.licence}\n"
            f"  source: {self.source}\n  SHA-256: {self.hash_text}\n  to get it: {how}"
        )


class _CardFile(BaseModel):
    model_config = LibraryFile.model_config

    library: list[LibraryFile]
    cards: list[WeightCard]

    @model_validator(mode="after")
    def _each_once(self) -> _CardFile:
        labels = [entry.label for entry in (*self.library, *self.cards)]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"more than one card for {', '.join(twice)}")
        return self


def read_cards(path: Path = CARDS_FILE) -> _CardFile:
    """Read and validate a card file; ValueError names the file and every wrong field."""
    try:
        return _CardFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


_stored = lru_cache(maxsize=1)(read_cards)  # the cards of the book are read once


def weight_cards() -> tuple[WeightCard, ...]:
    """Return one card for each set of weights the paper names, those that pip brings first."""
    stored = _stored()
    by_pip = [card for card in stored.cards if card.pip]
    library = [weight_card(entry.model, entry.weights) for entry in stored.library]
    return (*by_pip, *library, *(card for card in stored.cards if not card.pip))


def weight_card(name: str, weights: str | Path | None = "imagenet1k") -> WeightCard:
    """Return the card of one file; ValueError with close matches where there is none.

    weights: a name, or the path of a file of your own (see `is_path`), which need not be there.
    """
    if is_random(weights):
        raise ValueError("random weights have no file; ask for a name such as 'imagenet1k'")
    stored = _stored()
    own = {card.weights: card for card in stored.cards if card.model == name}
    on_points = any(card.network == "points" for card in own.values())
    if is_path(weights):
        if on_points and name not in OWN_BUILDERS:
            return file_card(name, weights, "points")
        model_library(name)
        return file_card(name, weights)
    if weights in own or on_points or model_library(name) in ("lite", "i2p"):
        return _pick(name, weights, own)
    make = _torchvision_card if model_library(name) == "torchvision" else _timm_card
    card = make(name, weights, own)
    said = [entry for entry in stored.library if entry.label == card.label]
    known = said[0].model_dump(exclude_defaults=True) if said else {}
    return card.model_copy(update=known)


def file_card(model: str, path: str | Path, network: str = "image") -> WeightCard:
    """Return a card for a file of your own: any content, its tensors named as the network's."""
    path = Path(placed(path))
    return WeightCard(
        model=model, weights=str(path), path=path, file_name=path.name, network=network,
        pretraining="your own", source="a file of your own", licence="not stated",
        how_to_get="give the path of a file that is there",
    )  # fmt: skip


def is_random(weights: str | Path | None) -> bool:
    """Tell whether a weights name means the library's own initialisation."""
    return weights is None or weights == "random"


def model_library(name: str) -> str:
    """Return which library builds an image model: "lite", "i2p", "torchvision" or "timm"."""
    if name in LITE:
        return "lite"
    if name in OWN_BUILDERS:
        return "i2p"
    import timm
    import torchvision

    theirs = torchvision.models.list_models(module=torchvision.models)
    if name in theirs:
        return "torchvision"
    if timm.is_model(name):
        return "timm"
    known = list(dict.fromkeys([*LITE, *OWN_BUILDERS, *theirs, *timm.list_models()]))
    raise ValueError(
        f"unknown image model {name!r}; close: {difflib.get_close_matches(name, known, 5)} "
        "(torchvision's and timm's model names are accepted)"
    )


def _pick(name: str, weights: str, known: Mapping[str, Any]) -> Any:
    """Return `known[weights]`, or say which weights the model has."""
    if weights not in known:
        close = difflib.get_close_matches(weights, known, 1)
        hint = f"did you mean {close[0]!r}? E" if close else "e"
        raise ValueError(
            f"unknown weights {weights!r} for {name}; {hint}xpected 'random' or one of "
            f"{sorted(known)}, or the path of a file"
        )
    return known[weights]


def _torchvision_card(name: str, weights: str, own: Mapping[str, WeightCard]) -> WeightCard:
    import torchvision

    options = {w.name.lower(): w for w in torchvision.models.get_model_weights(name)}
    if "imagenet1k_v1" in options:
        options["imagenet1k"] = options["imagenet1k_v1"]
    entry = _pick(name, weights, dict(own) | options)
    mebibytes = entry.meta.get("_file_size", 0)
    return WeightCard(
        model=name, weights=weights, pretraining="ImageNet-1k",
        source=f"torchvision {entry.__class__.__name__}.{entry.name}",
        licence="BSD-3-Clause (torchvision); trained on ImageNet, whose terms apply",
        file_name=entry.url.rsplit("/", 1)[-1], sha256=_hash_in_name(entry.url), url=entry.url,
        size_published=f"{mebibytes:.0f} MiB" if mebibytes else "",
    )  # fmt: skip


def _timm_card(name: str, weights: str, own: Mapping[str, WeightCard]) -> WeightCard:
    import timm

    tags = [m.partition(".")[2] for m in timm.list_models(f"{name}.*", pretrained=True)]
    options = {tag: tag for tag in tags}
    large = [tag for tag in tags if "in21k" in tag and "ft_" not in tag]
    usual = [tag for tag in tags if "in1k" in tag and "in21k" not in tag]
    options |= {"imagenet21k": large[0]} if large else {}
    options |= {"imagenet1k": usual[0]} if usual else {}
    tag = _pick(name, weights, dict(own) | options)
    config = timm.get_pretrained_cfg(f"{name}.{tag}")
    if config.hf_hub_id:
        url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
        file_name = f"{name}.{tag}.safetensors"
    else:
        url, file_name = config.url, config.url.rsplit("/", 1)[-1]
    images = {"imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k"}.get(weights, tag)
    return WeightCard(
        model=name, weights=weights, tag=tag, pretraining=images, source=f"timm {name}.{tag}",
        licence=config.license or "not stated by timm", file_name=file_name,
        sha256=_hash_in_name(file_name), url=url,
    )  # fmt: skip


def _hash_in_name(name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    return found.group(1) if found else ""
