"""The glossary: each word once, every link to one finds it, and the page builds cleanly."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from i2p_lib.book.chapters import Project
from i2p_lib.book.htmlcheck import check_html
from i2p_lib.book.stage import copy_plotly, jupyter_book

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "glossary.md"


@pytest.fixture(scope="module")
def words() -> list[str]:
    """The glossary's terms: the lines of its lists that are not indented."""
    lists = re.findall(r"^```\{glossary\}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for text in lists for line in text.splitlines() if re.match(r"\S", line)]


def prose() -> dict[str, str]:
    """{file: text} of the chapters' Markdown and of the book's pages."""
    found = {path.name: path.read_text() for path in sorted((ROOT / "book").glob("*.md"))}
    for path in Project.default().sources().values():
        cells = nbformat.read(path, 4).cells
        found[path.name] = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return found


def test_every_word_stands_once(words: list[str]) -> None:
    lower = [word.lower() for word in words]
    assert len(words) > 40 and sorted(lower) == sorted(set(lower))


def test_every_link_to_a_word_finds_it(words: list[str]) -> None:
    known = {word.lower() for word in words}
    for name, text in prose().items():
        for target in re.findall(r"\{term\}`([^`]+)`", text):
            word = re.sub(r".*<(.+)>$", r"\1", " ".join(target.split()))
            assert word.lower() in known, f"{name}: no {word!r} in book/glossary.md"


def test_the_glossary_builds_and_is_linked_to(tiny: Project, words: list[str]) -> None:
    staged = tiny.root / "staged"
    shutil.copytree(tiny.root / "book", staged)
    shutil.copy(tiny.root / "_config.yml", staged / "_config.yml")
    copy_plotly(staged / "_vendor")
    pages = ("glossary", "how_to_run", "references")
    contents = "".join(f"  - file: {name}\n" for name in pages)
    (staged / "_toc.yml").write_text(f"format: jb-book\nroot: start\nchapters:\n{contents}")
    links = "\n".join(f"- {{term}}`{word}` and {{term}}`so <{word}>`" for word in words)
    (staged / "start.md").write_text(f"# Start\n\n{links}\n")
    built = jupyter_book(staged, tiny.root / "out")
    assert not check_html(built)
    assert (built / "start.html").read_text().count('href="glossary.html#term-') == 2 * len(words)
    assert "\\operatorname{tr}" in (built / "glossary.html").read_text(), "a formula is math"
