"""Fixtures of the segmentation tests: tiny sets made from official files, and trained runs."""

from pathlib import Path

import pytest
from tiny_scenes import ROOM

from i2p_lib.runs import RunResult, run


@pytest.fixture(scope="session")
def trained(
    scene_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[RunResult]]:
    """A store with one network trained from scratch, and one from ImageNet weights."""
    store = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2P_DATA", str(scene_folder))
        specs = [ROOM, ROOM.but(weights="imagenet1k")]
        return store, [run(spec, store=store, progress=False) for spec in specs]


@pytest.fixture
def rooms(trained: tuple[Path, list[RunResult]], scene_data: Path) -> tuple[Path, list[RunResult]]:
    """That store, with its scenes in place."""
    return trained
