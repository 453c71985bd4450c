"""One list of packages, suitable Pythons and torches, and commands that say what they do."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import environment
import i2p_lib
from i2p_lib import doctor, torchvision_shim


def read_lock(path: Path) -> dict[str, str]:
    """{package name in lower case: exact version}; ValueError for what is no exact pin."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].split(";")[0].strip()
        if not requirement:
            continue
        name, equals, version = requirement.partition("==")
        if not equals or "+" in version:
            raise ValueError(f"{path}: expected 'name==version', got {line!r}")
        pins[name.lower()] = version
    return pins


@pytest.fixture(scope="module")
def lock(project_root: Path) -> dict[str, str]:
    pins = read_lock(project_root / environment.LOCK)
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
            read_lock(path)


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
    monkeypatch.setattr(environment, "write_shim", lambda: calls.append(("shim", "", "last")))
    found = {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128"}
    monkeypatch.setattr(environment, "installed_version", found.get)
    environment.install(tmp_path)
    assert not [words for words in calls if "torch" in words[1] or "torchvision" in words[-1]]
    calls.clear()
    found.clear()
    environment.install(tmp_path)
    assert calls[0] == ("install", f"torch=={environment.TORCH}")
    assert calls[1] == ("install", "--no-deps", "torchvision==0.28.0")
    assert calls[-1][0] == "shim", "the shim comes last, when the packages are there"


def _fresh(code: str, *settings: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run code in a new interpreter; `folder` is one whose .pth files it reads at its start."""
    if folder is not None:
        code = f"import site; site.addsitedir({str(folder)!r})\n{code}"
    return subprocess.run([sys.executable, *settings, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("first", ["torchvision", "timm", "torchvision.transforms.v2", "ocnn"])
def test_torchvision_and_timm_import_in_any_order_where_the_shim_is(
    first: str, tmp_path: Path, project_root: Path
) -> None:
    if find_spec(first.partition(".")[0]) is None:
        pytest.skip(f"no {first} here")
    environment.write_shim(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(project_root)!r}); import {first}\n"
        "import timm, torchvision, i2p_lib\n"
        "assert len([f for f in sys.meta_path if 'Torchvision' in str(f)]) == 1\n"
        "torchvision.models.resnet18(); i2p_lib.image_model('resnet18')"
    )
    done = _fresh(code, "-I", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_our_own_library_needs_no_shim(project_root: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project_root)!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'Torchvision' not in str(f)]\n"
        "import i2p_lib, timm; i2p_lib.image_model('resnet18')"
    )
    done = _fresh(code, "-I")
    assert done.returncode == 0, done.stderr[-2000:]


def test_torchvision_can_be_imported_first_in_this_environment() -> None:
    """Promise: what `make` makes is right without us; else: python environment.py shim."""
    (found,) = [finding for finding in doctor._software() if finding[1] == "import order"]
    assert found[0] == "ok", found


def test_the_shim_loads_nothing_at_the_start(tmp_path: Path) -> None:
    code = "import sys; print(*sorted(sys.modules))"
    without = set(_fresh(code, "-I", folder=tmp_path).stdout.split())
    environment.write_shim(tmp_path)
    added = set(_fresh(code, "-I", folder=tmp_path).stdout.split()) - without
    assert added <= {environment.SHIM_NAME}


def test_a_later_installation_brings_the_shim_up_to_date(tmp_path: Path) -> None:
    assert not environment.has_shim(tmp_path)
    environment.write_shim(tmp_path)
    assert environment.has_shim(tmp_path)
    (tmp_path / f"{environment.SHIM_NAME}.py").write_text("raise ImportError('an old one')")
    assert not environment.has_shim(tmp_path)
    environment.write_shim(tmp_path)
    assert environment.has_shim(tmp_path)
    assert sorted(environment.shim_files(tmp_path)) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["registered", "loads", "neither"])
def test_operators_are_declared_only_where_the_compiled_ones_do_not_load(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared: list[str] = []

    def load_library(path: Path) -> None:
        if there == "neither":
            raise OSError(f"{path}: libcudart is absent")

    ops = SimpleNamespace(
        torchvision=SimpleNamespace(**({"nms": None} if there == "registered" else {})),
        load_library=load_library,
    )
    library = SimpleNamespace(define=declared.append)
    fake = SimpleNamespace(ops=ops, library=SimpleNamespace(Library=lambda name, kind: library))
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(torchvision_shim, "_kept_alive", [])
    (tmp_path / "_C.so").touch()
    torchvision_shim._declare_operators(str(tmp_path))
    names = [text.partition("(")[0] for text in declared]
    assert names == (["nms", "qnms"] if there == "neither" else [])
    assert len(torchvision_shim._kept_alive) == (there == "neither")


def test_numba_gets_a_temporary_folder_only_where_it_would_find_none(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: the library works where nothing of it, nor the home, can be written; it is said."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    assert i2p_lib._numba_cache() is None
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert i2p_lib._numba_cache() is None
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.setattr(i2p_lib, "temporary_cache", i2p_lib._numba_cache())
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.is_dir() and folder.name.startswith("i2p-numba-")
    found = {what: (mark, text) for mark, what, text in doctor._hardware(Path.cwd())}
    assert found["compiled code"][0] == "note" and "NUMBA_CACHE_DIR" in found["compiled code"][1]


def make(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Call make as a person does, also where the tests themselves run under make."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_make_lists_its_commands(project_root: Path) -> None:
    done = make(cwd=project_root)
    listed = set(re.findall(r"^  make (\w+)", done.stdout, flags=re.MULTILINE))
    assert listed >= {"help", "book", "test", "lab", "clean"}


def test_make_refuses_a_wrong_python_before_it_makes_anything(
    project_root: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "this is Python 3.8" >&2\nexit 2\n')
    fake.chmod(0o755)
    done = make("setup", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}", cwd=project_root)
    assert done.returncode != 0 and "this is Python 3.8" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("target", ["setup", "book", "test", "lab"])
def test_every_command_works_under_a_path_with_a_space(
    target: str, project_root: Path, tmp_path: Path
) -> None:
    """Promise: a checkout may lie anywhere; the programs are stand-ins that say how they ran."""
    root = tmp_path / "my books" / "image2point"
    programs = root / ".venv" / "bin"
    for folder in (programs, root / "i2p_lib", root / "notebooks"):
        folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (root / name).write_bytes((project_root / name).read_bytes())
    for name in ("environment.py", "i2p_lib/torchvision_shim.py"):
        (root / name).touch()
    for name in ("python", "i2p", "jupyter"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $* in $(pwd)"\n')
        (programs / name).chmod(0o755)
    done = make(target, f"PYTHON={sys.executable}", cwd=root)
    assert done.returncode == 0, done.stderr
    expected = {
        "setup": f"python environment.py install in {root}",
        "book": f"i2p book --profile demo in {root}",
        "test": "python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile "
                f"--no-loadscope-reorder in {root}",
        "lab": f"jupyter lab in {root / 'notebooks'}",
    }
    assert done.stdout.splitlines()[-1] == expected[target]
