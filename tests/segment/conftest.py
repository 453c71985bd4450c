"""Fixtures of the segmentation tests: tiny sets made from official files, and trained runs."""

from pathlib import Path

import pytest
from tiny_scenes import ROOM, write_rooms, write_scans

from i2p_lib.data.scenes import convert_scenes
from i2p_lib.runs import RunResult, run


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with S3DIS and SemanticKITTI, made from tiny copies in the official layout."""
    root = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2P_DATA", str(root / "data"))
        for name, write in (("s3dis", write_rooms), ("semantic_kitti", write_scans)):
            source = write(root / "official" / name)
            convert_scenes(name, source, part=True, progress=False)
    return root / "data"


@pytest.fixture
def scene_data(scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the one in which sets are looked for."""
    monkeypatch.setenv("I2P_DATA", str(scene_folder))
    return scene_folder


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
