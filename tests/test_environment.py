"""One list of packages, suitable Pythons and torches, and commands that say what they do."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from i2p_lib import environment


@pytest.fixture(scope="module")
def lock(project_root: Path) -> dict[str, str]:
    pins = environment.read_lock(project_root / environment.LOCK)
    return {canonicalize_name(name): version for name, version in pins.items()}


@pytest.fixture(scope="module")
def pyproject(project_root: Path) -> dict:
    return tomllib.loads((project_root / "pyproject.toml").read_text())


def test_every_requirement_is_in_the_lock_in_its_range(lock: dict, pyproject: dict) -> None:
    pinned = lock | {"torch": environment.TORCH}
    pinned["torchvision"] = environment.torchvision_for(environment.TORCH)
    extras = pyproject["project"]["optional-dependencies"]["test"]
    for text in pyproject["project"]["dependencies"] + extras:
        wanted = Requirement(text)
        assert Version(pinned[canonicalize_name(wanted.name)]) in wanted.specifier, text


def test_the_lock_is_what_is_installed_here(lock: dict) -> None:
    for name, version in lock.items():
        found = environment.installed_version(name)
        assert found in (version, None) or name in ("torch", "torchvision"), f"{name}: {found}"


def test_the_conda_environment_is_the_lock_and_the_same_torch(project_root: Path) -> None:
    conda = yaml.safe_load((project_root / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert set(pip) == {
        f"torch=={environment.TORCH}",
        f"torchvision=={environment.torchvision_for(environment.TORCH)}",
        f"-r {environment.LOCK}",
        "-e .",
    }
    (python,) = [d for d in conda["dependencies"] if str(d).startswith("python=")]
    version = tuple(int(part) for part in python.removeprefix("python=").split("."))
    assert environment.python_problem(version) is None


def test_a_lock_line_that_is_no_exact_pin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    for line in ("numpy>=2", "torch==2.13.0+cpu", "numpy"):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match="name==version"):
            environment.read_lock(path)


def test_the_ranges_of_python_and_torch_agree_everywhere(pyproject: dict) -> None:
    wanted = Requirement(f"python{pyproject['project']['requires-python']}").specifier
    torch = next(Requirement(d) for d in pyproject["project"]["dependencies"] if d[:6] == "torch>")
    for minor in range(8, 16):
        allowed = environment.python_problem((3, minor)) is None
        assert (f"3.{minor}.0" in wanted) == allowed
    for version in environment.TORCHVISION_FOR:
        assert version in torch.specifier
    for version in ("2.10.0", "2.14.0"):
        assert version not in torch.specifier and environment.torchvision_for(version) is None
    assert environment.torchvision_for("2.11.0+cu128") == "0.26.0"


def test_a_wrong_python_is_told_what_to_do() -> None:
    assert "PYTHON=python3.12" in (environment.python_problem((3, 8)) or "")


def test_torch_is_installed_only_where_none_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(environment, "_pip", lambda *words: calls.append(words))
    found = {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128"}
    monkeypatch.setattr(environment, "installed_version", found.get)
    environment.install(tmp_path)
    assert not [words for words in calls if "torch" in words[1] or "torchvision" in words[-1]]
    calls.clear()
    found.clear()
    environment.install(tmp_path)
    assert calls[0] == ("install", f"torch=={environment.TORCH}")
    assert calls[1] == ("install", "--no-deps", "torchvision==0.28.0")


def test_make_lists_its_commands(project_root: Path) -> None:
    done = subprocess.run(["make"], cwd=project_root, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make (\w+)", done.stdout, flags=re.MULTILINE))
    assert listed >= {"help", "book", "test", "lab", "clean"}


def test_make_refuses_a_wrong_python_before_it_makes_anything(
    project_root: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "this is Python 3.8" >&2\nexit 2\n')
    fake.chmod(0o755)
    words = ["make", "setup", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(words, cwd=project_root, capture_output=True, text=True)
    assert done.returncode != 0 and "this is Python 3.8" in done.stderr
    assert not (tmp_path / "venv").exists()
