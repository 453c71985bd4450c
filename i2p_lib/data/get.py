"""What `i2p data` does: any set listed, checked, and fetched, made or converted by its script."""

from __future__ import annotations

from pathlib import Path

from i2p_lib.data.making import run_script
from i2p_lib.data.registry import dataset_card, dataset_hash, dataset_names, dataset_root
from i2p_lib.data.scenes import (
    describe_scenes,
    prepare_scenes,
    scene_card,
    scene_hash,
    scene_names,
    scene_root,
)


def data_cards() -> dict[str, str]:
    """Return {name: its card for people, "present" or "absent"} of all data sets."""
    clouds = [(dataset_card(name), dataset_root(name)) for name in dataset_names()]
    scenes = [(scene_card(name), scene_root(name) / "manifest.json") for name in scene_names()]
    return {card.name: card.text("present" if place.exists() else "absent")
            for card, place in (*clouds, *scenes)}  # fmt: skip


def check_data(name: str) -> str:
    """Return where a data set is, its hash and what it holds; raises as the hash does."""
    if name in dataset_names():
        return f"{name}: good, {dataset_root(name)}\n  sha256 {dataset_hash(name)}"
    text = f"{name}: good, {scene_root(name)}\nsha256 {scene_hash(name)}\n{describe_scenes(name)}"
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
    if name in dataset_names():
        card, folder = dataset_card(name), dataset_root(name)
        if not card.made_by:
            if folder.is_dir():
                return
            raise FileNotFoundError(
                f"{name} cannot be fetched for you: {card.how_to_get}. It is looked for in {folder}"
            )
    else:
        card, folder = scene_card(name), scene_root(name)
        if card.simulated and source is not None:
            raise ValueError(f"scenes {name}: it is generated, and takes no folder, got {source}")
        if source is None:
            prepare_scenes(name)
            return
    words = [] if source is None else [str(Path(source).expanduser().resolve())]
    words += ["--output", str(folder)] + ["--part"] * part
    words += ["--workers", str(workers)] if workers > 1 else []
    run_script(card.made_by, words)
