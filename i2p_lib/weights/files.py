"""Weight files on this machine: where one is looked for, fetched to, and how it is checked."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from i2p_lib.data.making import run_script
from i2p_lib.files import sha256
from i2p_lib.weights.cards import WeightCard, is_random, model_library, weight_card

PACKAGED = Path(__file__).with_name("packaged")  # the files that come with this package
CONVERTED = ".safetensors"  # what a file that was converted to that has behind its name


def weight_folders(weights_dir: str | Path | None = None) -> list[Path]:
    """Return the folders that may hold weight files, the first being where a new one goes.

    They are `weights_dir`, `$I2P_WEIGHTS` and torch hub's checkpoints, as far as they are set.
    """
    named = [weights_dir, os.environ.get("I2P_WEIGHTS")]
    return [Path(p).expanduser() for p in named if p] + [Path(torch.hub.get_dir()) / "checkpoints"]


def fetch_weights(card: WeightCard, weights_dir: str | Path | None = None) -> tuple[Path, str]:
    """Return the path and SHA-256 of a card's file, downloaded where it is not here.

    It goes to the first of `weight_folders`; data_scripts/get_weights.py does the work.
    Raises as `verified` does, and RuntimeError with the script's message where it fails.
    """
    if card.url and find_file(card, weights_dir) is None:
        folder = weight_folders(weights_dir)[0].resolve()
        run_script("data_scripts/get_weights.py", [card.label, "--output", str(folder)])
    return verified(card, weights_dir)


def presence(card: WeightCard) -> str:
    """Return "present", "absent", "never released", or "damaged: " and what is wrong."""
    try:
        verified(card)
    except FileNotFoundError:
        return "absent" if card.released else "never released"
    except ValueError as error:
        return f"damaged: {error}"
    return "present"


def weights_hash(
    name: str, weights: str | Path | None, weights_dir: str | Path | None = None
) -> str:
    """Return the SHA-256 of the file that `image_model` would load ("random": no file)."""
    if is_random(weights):
        model_library(name)
        return "random"
    return verified(weight_card(name, weights), weights_dir)[1]


def find_file(card: WeightCard, weights_dir: str | Path | None = None) -> Path | None:
    """Return the first file with the card's name, or its converted form, or None.

    A file that was given by its path is looked for there alone.
    """
    if card.path:
        return card.path if card.path.is_file() else None
    folders = [*weight_folders(weights_dir), PACKAGED]
    package = card.pip.partition("==")[0].replace("-", "_")
    if package and (spec := importlib.util.find_spec(package)):
        folders += [Path(p) / "models" for p in spec.submodule_search_locations or ()]
    names = (card.file_name, card.file_name + CONVERTED)
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def verified(card: WeightCard, weights_dir: str | Path | None = None) -> tuple[Path, str]:
    """Return the path and SHA-256 of a card's file, after checking its hash.

    Raises FileNotFoundError (what to place where) or ValueError (expected and found hash).
    """
    path = find_file(card, weights_dir)
    if path is None and card.path:
        place = next(place for place in card.path.parents if place.is_dir())
        there = "a folder" if card.path.is_dir() else f"nothing (there is a folder {place})"
        raise FileNotFoundError(
            f"the weights of {card.model}: expected a file {card.path}, got {there}. Give the path "
            "of a file that is there, or a name that i2p weights list shows"
        )
    if path is None:
        places = " or ".join(str(folder) for folder in weight_folders(weights_dir))
        where = "" if card.pip else f", into {places} (I2P_WEIGHTS names a folder of your own)"
        raise FileNotFoundError(
            f"the {card.weights} weights of {card.model} are not here: expected {card.file_name}. "
            f"To get them: {card.how_to_get}{where}"
        )
    return path, check_file(card, path)


def pin_of(path: Path) -> Path:
    """Return the file that keeps the SHA-256 of another, and of a converted one its source's."""
    return path.with_name(f".{path.name}.sha256")


def check_file(card: WeightCard, path: Path) -> str:
    """Return the SHA-256 of a file after holding it, and its size, against the card.

    It must have what was noted of it (`pin_of`); of a converted file the card tells of its source.
    Raises ValueError: expected and found, and what to do.
    """
    found = origin = sha256(path)
    size, converted = path.stat().st_size, path.suffix == CONVERTED and path.name != card.file_name
    if path.suffix == CONVERTED:
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    note = pin_of(path if converted else path.with_name(card.file_name))
    noted = note.read_text(encoding="utf-8").split() if note.is_file() else []
    if converted:
        origin, size = noted[-1] if noted else "", card.size
    if noted[:1] != [found] and (noted or converted):
        raise ValueError(f"{path}: expected the SHA-256 that {note} keeps of the first time that "
                         f"it was got ({noted[0] if noted else 'no such file'}), got {found}: get "
                         "it again, or convert it again with data_scripts/convert_weights.py")
    if not origin.startswith(card.sha256) or (card.size and size != card.size):
        raise ValueError(
            f"{path} is not the published {card.file_name}: expected SHA-256 {card.hash_text}"
            + (f" and {card.size} bytes" if card.size else "")
            + f", got {origin} ({path.stat().st_size} bytes). "
            f"Remove it and get it again: {card.how_to_get}"
        )
    return found
