"""A chapter is published when it ran whole, in order and without error, or not at all."""

from pathlib import Path

import nbformat
import pytest
from made_notebooks import write_notebook

from i2p_lib.book import notebooks
from i2p_lib.book.notebooks import Chapter, NotebookFailed, Project, chapter_state, execute

PARAMETERS = {"profile": "tiny"}


def chapter_of(project: Project, *cells: str, name: str = "00_method") -> Chapter:
    write_notebook(project.root / "notebooks" / f"{name}.ipynb", *cells)
    return Chapter.of(project, name, project.profile("tiny"))


def run(project: Project, chapter: Chapter, timeout: int = 60) -> dict:
    return execute(chapter, PARAMETERS, project.root, timeout)


def test_a_good_chapter_is_published_with_its_provenance(tiny: Project) -> None:
    chapter = chapter_of(tiny, "import os, sys", "print(profile, sys.executable, os.getcwd())")
    assert chapter_state(chapter, PARAMETERS) == ("missing", "never executed")
    record = run(tiny, chapter)
    text = chapter.executed.read_text()
    assert "tiny" in text
    assert str(tiny.root) not in text, "the machine's own paths are not published"
    assert "papermill" not in nbformat.read(chapter.executed, 4).metadata
    assert record["machine"]["cores"] >= 1 and record["versions"]["python"].startswith("3.")
    assert chapter_state(chapter, PARAMETERS) == ("done", "")
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
    run(tiny, chapter)


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
        run(tiny, chapter, timeout=3)
    assert not chapter.executed.exists()
    assert chapter.failed.is_file(), "the copy with the error is kept under another name"
    assert chapter_state(chapter, PARAMETERS)[0] == "failed"


def test_a_failure_leaves_the_older_published_copy_alone(tiny: Project) -> None:
    chapter = chapter_of(tiny, "print('good')")
    run(tiny, chapter)
    before = chapter.executed.read_bytes()
    chapter = chapter_of(tiny, "1 / 0")
    with pytest.raises(NotebookFailed):
        run(tiny, chapter)
    assert chapter.executed.read_bytes() == before


def test_an_unknown_parameter_is_an_error_before_any_work(tiny: Project) -> None:
    chapter = chapter_of(tiny, "x = 1")
    with pytest.raises(ValueError, match="did you mean 'profile'"):
        execute(chapter, {"profil": "tiny"}, tiny.root)
    assert not chapter.folder.exists()


def test_a_chapter_without_a_parameters_cell_is_an_error(tiny: Project) -> None:
    path = tiny.root / "notebooks" / "00_method.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    with pytest.raises(ValueError, match="tagged 'parameters'"):
        run(tiny, Chapter.of(tiny, "00_method", tiny.profile("tiny")))


def test_a_changed_source_makes_the_copy_stale_and_says_why(tiny: Project) -> None:
    run(tiny, chapter_of(tiny, "x = 1"))
    state, why = chapter_state(chapter_of(tiny, "x = 2"), PARAMETERS)
    assert (state, why) == ("stale", "changed since: notebook")
    state, why = chapter_state(chapter_of(tiny, "x = 1"), {"profile": "other"})
    assert (state, why) == ("stale", "changed since: parameters")


RECORDS = """
import os, pathlib
items = pathlib.Path(os.environ["I2P_BUILD"], "items", "tiny")
items.mkdir(parents=True)
(items / "table1.json").write_text("{}")
"""


def test_a_result_that_is_gone_makes_the_copy_stale(tiny: Project) -> None:
    chapter = chapter_of(tiny, RECORDS)
    assert run(tiny, chapter)["items"] == ["table1.json"]
    assert (chapter.items / "table1.json").read_text() == "{}"
    (chapter.items / "table1.json").unlink()
    assert chapter_state(chapter, PARAMETERS) == ("stale", "its results are gone: table1.json")


def test_results_of_a_chapter_that_failed_are_not_published(tiny: Project) -> None:
    chapter = chapter_of(tiny, RECORDS, "1 / 0")
    with pytest.raises(NotebookFailed):
        run(tiny, chapter)
    assert not chapter.items.exists()


def test_a_damaged_executed_copy_counts_as_missing(tiny: Project) -> None:
    chapter = chapter_of(tiny, "x = 1")
    run(tiny, chapter)
    chapter.executed.write_text(chapter.executed.read_text()[:-10])
    assert chapter_state(chapter, PARAMETERS)[0] == "missing"


def test_being_killed_publishes_nothing(tiny: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "_papermill", killed)
    chapter = chapter_of(tiny, "x = 1")
    with pytest.raises(KeyboardInterrupt):
        run(tiny, chapter)
    assert not list(tiny.build.rglob("*.ipynb"))


def test_chapters_are_found_by_name_and_number(tiny: Project) -> None:
    for name in ("00_method", "03_few_shot"):
        write_notebook(tiny.root / "notebooks" / f"{name}.ipynb", "x = 1")
    assert tiny.chapters() == ["00_method", "03_few_shot"]
    assert tiny.chapters(["3", "notebooks/00_method.ipynb"]) == ["00_method", "03_few_shot"]
    with pytest.raises(ValueError, match="did you mean '03_few_shot'"):
        tiny.chapters(["03_fewshot"])
    with pytest.raises(ValueError, match="unknown chapter"):
        tiny.chapters(["7"])
