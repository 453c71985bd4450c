"""What `i2p data` does: any set listed, checked, and fetched, made or converted by its script."""

from pathlib import Path

from i2p_lib.data.making import run_script
from i2p_lib.data.registry import Card, DatasetCard, cards, dataset_hash
from i2p_lib.data.scenes import SceneCard, describe_scenes, prepare_scenes, scene_card, scene_hash


def _card(name: str) -> Card:
    return cards(DatasetCard).get(name) or scene_card(name)


def data_cards() -> dict[str, str]:
    """Return {name: its card for people} of all data sets."""
    return {name: card.text() for name, card in (cards(DatasetCard) | cards(SceneCard)).items()}


def check_data(name: str) -> str:
    """Return where a data set is, its hash and what it holds; raises as the hash does."""
    card = _card(name)
    scenes = isinstance(card, SceneCard)
    text = f"{name}: good, {card.root()}\nsha256 "
    text += f"{scene_hash(name)}\n{describe_scenes(name)}" if scenes else dataset_hash(name)
    return text.replace("\n", "\n  ")


def get_data(name: str, source: str | Path | None = None, part: bool = False,
             workers: int = 1) -> None:
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
