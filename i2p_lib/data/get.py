"""What `i2p data` does: any set listed, checked, and fetched, made or converted by its script."""

from __future__ import annotations

from pathlib import Path

from i2p_lib.data.making import run_script
from i2p_lib.data.manifests import MANIFEST
from i2p_lib.data.registry import Card, dataset_card, dataset_hash, dataset_names
from i2p_lib.data.scene_files import SceneCard
from i2p_lib.data.scenes import (
    describe_scenes,
    prepare_scenes,
    scene_card,
    scene_hash,
    scene_names,
)


def _card(name: str) -> Card:
    return dataset_card(name) if name in dataset_names() else scene_card(name)


def data_cards() -> dict[str, str]:
    """Return {name: its card for people, "present" or "absent"} of all data sets."""
    cards = [_card(name) for name in (*dataset_names(), *scene_names())]
    marks = [MANIFEST if isinstance(card, SceneCard) else "." for card in cards]
    return {card.name: card.text("present" if (card.root() / mark).exists() else "absent")
            for card, mark in zip(cards, marks, strict=True)}  # fmt: skip


def check_data(name: str) -> str:
    """Return where a data set is, its hash and what it holds; raises as the hash does."""
    known = name in dataset_names()
    text = f"{name}: good, {_card(name).root()}\nsha256 "
    text += dataset_hash(name) if known else f"{scene_hash(name)}\n{describe_scenes(name)}"
    return text.replace("\n", "\n  ")


def get_data(
    name: str, source: str | Path | None = None, part: bool = False, workers: int = 1
) -> None:
    """Bring a data set to its folder.

    source: the official folder or archive, where the set needs one; part: accept a part of the
    set, or others in its layout; workers: processes of a conversion.

    Raises ValueError for an unknown name and a source that the set does not take, FileNotFoundError
    (how to get it) where the set cannot be brought so, RuntimeError with the script's own message.
    """
    card = _card(name)
    if isinstance(card, SceneCard) and card.simulated and source is not None:
        raise ValueError(f"scenes {name}: it is generated, and takes no folder, got {source}")
    if isinstance(card, SceneCard) and source is None:
        prepare_scenes(name)
    elif not card.made_by:
        card.opened()
    else:
        words = [] if source is None else [str(Path(source).expanduser().resolve())]
        words += ["--output", str(card.root())] + ["--part"] * part
        words += ["--workers", str(workers)] if workers > 1 else []
        run_script(card.made_by, words)
