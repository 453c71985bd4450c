"""A chapter is published when it ran whole, in order and without error, or not at all."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import nbformat
import papermill
import pytest
from made_notebooks import write_contents, write_notebook
from nbclient import NotebookClient

from i2p_lib.book import notebooks
from i2p_lib.book.cells import code_tree, modules_used
from i2p_lib.book.chapters import Chapter, Project, chapter_state, digest_parts
from i2p_lib.book.notebooks import NotebookFailed, execute, execute_all
from i2p_lib.paper import attached
from i2p_lib.runs.profiles import load_profile
from i2p_lib.sources import closure


def chapter_of(project: Project, *cells: str, name: str = "00_method") -> Chapter:
    write_notebook(project.root / "notebooks" / f"{name}.ipynb", *cells)
    return Chapter(project, name, load_profile("tiny"))


def test_a_good_chapter_is_published_with_its_provenance(tiny: Project) -> None:
    chapter = chapter_of(tiny, "import os, sys", "print(profile, sys.executable, os.getcwd())")
    assert chapter_state(chapter) == ("missing", "never executed")
    record = execute(chapter)
    text = chapter.executed.read_text()
    assert "tiny" in text
    assert str(tiny.root) not in text, "the machine's own paths are not published"
    assert "papermill" not in nbformat.read(chapter.executed, 4).metadata
    assert record["machine"]["cores"] >= 1 and record["versions"]["python"].startswith("3.")
    assert chapter_state(chapter) == ("done", "")
    assert not chapter.failed.exists()


def test_the_kernel_is_this_python_whatever_else_is_registered(
    tiny: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["false"], "display_name": "x"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    chapter = chapter_of(
        tiny, "import i2p_lib, sys", f"assert sys.prefix == {__import__('sys').prefix!r}"
    )
    execute(chapter)


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("import os; os._exit(0)", "kernel died"),
        ("import time; time.sleep(60)", "took more than"),
    ],
)
def test_a_chapter_that_did_not_run_whole_is_not_published(
    tiny: Project, cell: str, word: str
) -> None:
    chapter = chapter_of(tiny, "x = 1", cell, "print('after')")
    with pytest.raises(NotebookFailed, match=word):
        execute(chapter, timeout=3)
    assert not chapter.executed.exists()
    assert chapter.failed.is_file(), "the copy with the error is kept under another name"
    assert chapter_state(chapter)[0] == "failed"


def test_a_failure_leaves_the_older_published_copy_alone(tiny: Project) -> None:
    chapter = chapter_of(tiny, "print('good')")
    execute(chapter)
    before = chapter.executed.read_bytes()
    chapter = chapter_of(tiny, "1 / 0")
    with pytest.raises(NotebookFailed):
        execute(chapter)
    assert chapter.executed.read_bytes() == before


@pytest.mark.parametrize("parameters", ['profil = "smoke"', "a = 1"])
def test_a_chapter_that_takes_no_profile_is_an_error_before_any_work(
    tiny: Project, parameters: str
) -> None:
    path = tiny.root / "notebooks" / "00_method.ipynb"
    write_notebook(path, "x = 1", parameters=parameters)
    chapter = Chapter(tiny, "00_method", load_profile("tiny"))
    with pytest.raises(ValueError, match='says `profile = "demo"`, got .*' + parameters):
        execute(chapter)
    assert not tiny.build.exists()


def test_a_chapter_without_a_parameters_cell_is_an_error(tiny: Project) -> None:
    path = tiny.root / "notebooks" / "00_method.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    with pytest.raises(ValueError, match="tagged 'parameters'"):
        execute(Chapter(tiny, "00_method", load_profile("tiny")))


def test_a_changed_source_makes_the_copy_stale_and_says_why(tiny: Project) -> None:
    execute(chapter_of(tiny, "x = 1"))
    state, why = chapter_state(chapter_of(tiny, "x = 2"))
    assert (state, why) == ("stale", "changed since: notebook")
    elsewhere = tiny.root / "tiny.yml"
    elsewhere.write_text("experiments: {}\n")
    other = replace(chapter_of(tiny, "x = 1"), profile=load_profile(str(elsewhere)))
    assert chapter_state(other) == ("missing", "never executed")  # it has a folder of its own


ATTACHES = """
from i2p_lib import paper
paper.attach("table4", paper.compare("table4"), profile)
"""


def found_in(notebook: Path) -> dict:
    cells = nbformat.read(notebook, as_version=4).cells
    return attached([output for c in cells for output in c.get("outputs", [])], "tiny")


def test_what_a_chapter_finds_is_in_its_executed_copy_and_nowhere_else(tiny: Project) -> None:
    chapter = chapter_of(tiny, ATTACHES)
    execute(chapter)
    assert list(found_in(chapter.executed)) == ["table4"]
    written = {path.name for path in tiny.build.rglob("*") if path.is_file()}
    assert written == {"00_method.ipynb", "00_method.json"}


def test_a_chapter_with_a_damaged_comparison_is_not_published(tiny: Project) -> None:
    chapter = chapter_of(tiny, ATTACHES.replace("profile)", "'other')"))
    with pytest.raises(NotebookFailed, match="it says profile 'other', expected 'tiny'"):
        execute(chapter)
    assert not chapter.executed.exists() and chapter.failed.is_file()


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_notebook_executed_by_hand_writes_nothing_but_itself(
    tiny: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2P_BUILD", str(tiny.build))
    chapter = chapter_of(tiny, ATTACHES)
    execute(chapter)
    before = everything(tiny.root.parent)
    edited = nbformat.read(chapter.source, as_version=4)
    edited.cells[2].source = ATTACHES.replace("table4", "table5")
    here = str(chapter.source.parent)
    NotebookClient(edited, resources={"metadata": {"path": here}}).execute()
    nbformat.write(edited, chapter.source)
    mine = chapter.source.with_name("out.ipynb")
    papermill.execute_notebook(str(chapter.source), str(mine), {"profile": "tiny"}, cwd=here,
                               kernel_name="python3", progress_bar=False)  # fmt: skip
    assert list(found_in(mine)) == ["table5"], "by hand it shows what it found, too"
    after = everything(tiny.root.parent)
    changed = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert changed == {f"project/notebooks/{name}.ipynb" for name in ("00_method", "out")}
    assert chapter_state(Chapter(tiny, "00_method", chapter.profile))[0] == "stale"


def library(folder: Path, **modules: str) -> Path:
    """Write a small package in the place of the library."""
    package = folder / "i2p_lib"
    package.mkdir(exist_ok=True)
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    return package


def test_a_chapter_rests_on_what_its_cells_import_and_no_more(
    tiny: Project, tmp_path: Path
) -> None:
    package = library(
        tmp_path, shared="x = 1", own="from i2p_lib.shared import x", other="import i2p_lib.shared",
        pages="import i2p_lib.own", values="FILE = 'unread'\nREAD = \"read.csv\"",
    )  # fmt: skip
    (package / "read.csv").write_text("a\n1\n")
    (package / "unread.csv").write_text("a\n1\n")
    project = replace(tiny, package=package)
    write_notebook(tiny.root / "notebooks" / "00_method.ipynb", "from i2p_lib import own, values")
    write_notebook(tiny.root / "notebooks" / "01_transfer.ipynb", "import i2p_lib.other as other")

    def parts() -> list[dict[str, str]]:
        chapters = [Chapter(project, name, load_profile("tiny"))
                    for name in ("00_method", "01_transfer")]  # fmt: skip
        return [digest_parts(chapter) for chapter in chapters]

    def changed_by(file: str, text: str) -> list[set[str]]:
        before = parts()
        (package / file).write_text(text)
        return [{name for name in old.keys() | new if old.get(name) != new.get(name)}
                for old, new in zip(before, parts(), strict=True)]  # fmt: skip

    assert changed_by("own.py", "import i2p_lib.shared as b") == [{"i2p_lib/own.py"}, set()]
    assert changed_by("other.py", "from i2p_lib.shared import x") == [set(), {"i2p_lib/other.py"}]
    assert changed_by("shared.py", "x = 2") == [{"i2p_lib/shared.py"}] * 2
    assert changed_by("read.csv", "a\n2\n") == [{"file read.csv"}, set()]
    for file, text in (("pages.py", "z = 3"), ("unread.csv", "a\n2\n"), ("shared.py", "x=2  # so")):
        assert changed_by(file, text) == [set(), set()], file


def test_a_chapter_reads_the_runs_that_it_names_and_trains_those_that_are_listed(
    tiny: Project,
) -> None:
    profile_file = tiny.root / "notebooks" / "profiles" / "tiny.yml"
    text = "experiments:\n" + "".join(f"  {n}: [{{seed: {i}}}]\n" for i, n in enumerate("ab"))
    profile_file.write_text(text)
    chapter = chapter_of(tiny, "runs = lab.run('b')")
    assert [spec.seed for spec in chapter.specs()] == [1] and chapter.experiments() == ["b"]
    profile_file.write_text(f"{text}chapters:\n  00_method: [a]\n")
    chapter = chapter_of(tiny, "runs = lab.run('b')")
    assert [spec.seed for spec in chapter.specs()] == [0] and chapter.experiments() == ["a", "b"]
    before = digest_parts(chapter)
    profile_file.write_text(text.replace("seed: 1", "seed: 2") + "chapters:\n  00_method: [a]\n")
    after = digest_parts(chapter_of(tiny, "runs = lab.run('b')"))
    assert {name for name in before if before[name] != after[name]} == {"runs of b"}


def test_no_chapter_rests_on_how_pages_are_made(project_root: Path) -> None:
    project = Project(project_root, project_root / "_build")
    for source in project.sources().values():
        modules = modules_used(code_tree(nbformat.read(source, as_version=4)))
        found = closure(modules)
        assert "show/style.py" in found
        assert not [file for file in found if file.startswith(("book/", "cli", "doctor"))]


def test_a_damaged_executed_copy_counts_as_missing(tiny: Project) -> None:
    chapter = chapter_of(tiny, "x = 1")
    execute(chapter)
    chapter.executed.write_text(chapter.executed.read_text()[:-10])
    assert chapter_state(chapter)[0] == "missing"


def test_being_killed_publishes_nothing(tiny: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "_papermill", killed)
    chapter = chapter_of(tiny, "x = 1")
    with pytest.raises(KeyboardInterrupt):
        execute(chapter)
    assert not list(tiny.build.rglob("*.ipynb"))


def test_side_by_side_one_failing_chapter_leaves_the_other_published(tiny: Project) -> None:
    write_contents(tiny.root, "00_method", "01_more")
    bad = chapter_of(tiny, "import time; time.sleep(1); 1 / 0")
    good = chapter_of(tiny, "print(profile)", name="01_more")
    seen: list[str] = []
    with pytest.raises(NotebookFailed, match="00_method.*ZeroDivisionError"):
        execute_all([bad, good], 60, 2, lambda record: seen.append(record["chapter"]))
    assert seen == ["01_more"]
    assert chapter_state(good) == ("done", "") and chapter_state(bad)[0] == "failed"


def test_an_interrupt_ends_the_kernels_of_all_chapters(tiny: Project, tmp_path: Path) -> None:
    write_contents(tiny.root, "00_method", "01_more")
    cell = "import os, time; open({!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    marks = [tmp_path / "first", tmp_path / "second"]
    waiting = [chapter_of(tiny, cell.format(str(mark)), name=name)
               for mark, name in zip(marks, ("00_method", "01_more"), strict=True)]  # fmt: skip

    def interrupt() -> None:
        while not all(mark.is_file() and mark.read_text() for mark in marks):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        execute_all(waiting, 600, 2)
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)
    assert not [chapter for chapter in waiting if chapter.executed.exists()]


def test_chapters_are_found_by_name_and_number(tiny: Project) -> None:
    write_contents(tiny.root, "00_method", "03_few_shot", "notes")
    for name in ("3d_view", "2026_notes", "03_few_shot-Copy1"):  # the reader's own
        write_notebook(tiny.root / "notebooks" / f"{name}.ipynb", "x = 1")
    assert tiny.chapters() == ["00_method", "03_few_shot", "notes"]
    assert tiny.chapters(["3", "notebooks/00_method.ipynb"]) == ["00_method", "03_few_shot"]
    with pytest.raises(ValueError, match="did you mean '03_few_shot'"):
        tiny.chapters(["03_fewshot"])
    with pytest.raises(ValueError, match="unknown chapter"):
        tiny.chapters(["7"])
