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
# A file that was converted to safetensors keeps its name with this behind it, and says in its
# header which file it was made from.
CONVERTED = ".safetensors"
ORIGIN = "source_sha256"


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


def check_file(card: WeightCard, path: Path) -> str:
    """Return the SHA-256 of a file after holding it, and its size, against the card.

    A converted file is held against the hash that its header says it was made from.
    Raises ValueError: expected and found, and what to do.
    """
    found = origin = sha256(path)
    size = path.stat().st_size
    if path.suffix == CONVERTED:
        try:
            with safe_open(path, "pt") as file:
                if path.name != card.file_name:
                    origin, size = (file.metadata() or {}).get(ORIGIN, ""), card.size
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if not origin.startswith(card.sha256) or (card.size and size != card.size):
        raise ValueError(
            f"{path} is not the published {card.file_name}: expected SHA-256 {card.hash_text}"
            + (f" and {card.size} bytes" if card.size else "")
            + f", got {origin or 'no word of its origin'} ({path.stat().st_size} bytes). "
            f"Remove it and get it again: {card.how_to_get}"
        )
    return found
