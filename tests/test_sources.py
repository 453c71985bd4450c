"""What a key rests on: the import closure, walked in the syntax tree, and what a hash sees."""

import shutil
import sys
from pathlib import Path

import pytest

from i2p_lib.runs import store
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sources import PACKAGE, closure, source_hash

HASH = "9032c4e13a72a455"


@pytest.fixture
def copy(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "home_objects", "packaged")
    return Path(shutil.copytree(PACKAGE, tmp_path / "i2p_lib", ignore=ignored))


@pytest.fixture
def toy(tmp_path):
    """A package of its own: a imports b (in a function), b imports c.d, e is named by a text."""
    package = tmp_path / "i2p_lib"
    (package / "c").mkdir(parents=True)
    for name, text in {
        "__init__": "NAMES = {'unused': 'i2p_lib.unused'}\n",
        "a": "def f():\n    from i2p_lib import b\n    return b\n\nE = 'i2p_lib.e'\n",
        "b": "from .c import d\nfrom i2p_lib.c.d import member\n",
        "c/__init__": "from i2p_lib import g\nif TYPE_CHECKING:\n    import i2p_lib.unused\n",
        "c/d": "member = 1\n", "e": "", "g": "",
        "unused": "import i2p_lib.a\n",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    return package


def test_the_closure_follows_imports_in_functions_relative_ones_parents_and_named_modules(toy):
    found = closure(["i2p_lib.a"], toy)
    assert list(found) == ["a.py", "b.py", "c/__init__.py", "c/d.py", "e.py", "g.py"]


def test_comments_docstrings_and_layout_do_not_change_a_source_hash():
    plain = "def f(x):\n    return x + 1\n"
    commented = '"""Module."""\n\n# why\ndef f(x):\n    """Add."""\n    return (x +\n  1)\n'
    assert source_hash(plain) == source_hash(commented)
    assert source_hash(plain) != source_hash(plain.replace("1", "2"))
    assert source_hash(plain) != source_hash(plain.replace("f(x)", "f(x, y)"))


def test_source_hashes_are_the_same_on_every_python():
    source = "class A[T]:\n    x: int = f(1, *a, k=2)" if sys.version_info >= (3, 12) else ""
    assert source_hash(source)
    text = "@d\nasync def f(a, /, b=1, *c, d, **e) -> int: await g(f'{a!r:>3}')"
    assert source_hash(text).startswith(HASH)


@pytest.mark.parametrize("task", ["i2p_lib.train.classify", "i2p_lib.train.segment"])
def test_a_line_in_any_file_of_the_closure_changes_it_and_one_outside_does_not(task, copy):
    """Promise: nobody lists files; whatever a task imports is part of its key, and nothing else."""
    before = closure([task], copy)
    for file in sorted(copy.rglob("*.py")):
        name = file.relative_to(copy).as_posix()
        text = file.read_text()
        file.write_text(text + "\nEXTRA = 1\n")
        after = closure([task], copy)
        changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        assert changed == ({name} if name in before else set())
        file.write_text(text)


def test_a_run_rests_on_the_module_of_its_own_network_and_not_on_other_networks():
    views, image = store.key_parts(RunSpec(model="simpleview", weights="random")), RunSpec()
    assert "source models/views.py" in views
    assert "source models/views.py" not in store.key_parts(image)


def test_a_run_rests_on_its_task_and_not_on_what_shows_or_finds_it():
    parts = store.key_parts(RunSpec())
    assert {"source sparse/conv.py", "source train/loop.py", "source train/team.py"} <= parts.keys()
    high = ("runs/", "show/", "paper/", "book/", "cli.py", "doctor.py")
    names = [name.removeprefix("source ") for name in parts if name.startswith("source ")]
    assert not [name for name in names if name.startswith(high)]
