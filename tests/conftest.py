"""What every test shares: one torch thread, an own run store and plot style, tiny scenes."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import matplotlib
import pytest
import torch
from browser import Browser
from made_notebooks import tiny_project
from nbformat import NotebookNode
from nbformat.v4 import new_output
from tiny_scenes import tiny_scene_sets

from i2p_lib.book.chapters import Project

ROOT = Path(__file__).resolve().parents[1]


# what takes minutes begins first, so that two processes end at about the same time
LONG = ("test_notebooks.py", "test_study.py", "test_nailed.py", "test_everyday.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of LONG before all others."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Two OpenMP threads on a busy core can be a hundred times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_run_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the reader's own trained runs."""
    store = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2P_RUNS", str(store))
        yield store


@pytest.fixture(autouse=True)
def own_plot_style() -> Iterator[None]:
    """No test draws in the style that another one chose."""
    with matplotlib.rc_context():
        yield


@pytest.fixture
def cell_outputs(monkeypatch: pytest.MonkeyPatch) -> list[NotebookNode]:
    """What a cell that runs attaches to its output, as the notebook would keep it."""
    kept: list[NotebookNode] = []
    shell = MagicMock()
    shell.display_pub.publish = lambda data: kept.append(new_output("display_data", data))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return kept


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the book's own prose and one empty profile; tests add the notebooks."""
    return tiny_project(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with S3DIS and SemanticKITTI, made from tiny copies in the official layout."""
    return tiny_scene_sets(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def scene_data(scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the one in which sets are looked for."""
    monkeypatch.setenv("I2P_DATA", str(scene_folder))
    return scene_folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of pages."""
    opened = Browser()
    yield opened
    opened.close()
