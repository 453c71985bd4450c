"""The chapters: clean in git, whole when executed, and readable offline in a real browser."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from browser import Browser
from bs4 import BeautifulSoup

from i2p_lib.book.chapters import Project
from i2p_lib.paper import paper_items

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(Project.default().sources().values())
MOST_LINES, LONGEST_LINE = 40, 88  # of a code cell


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_in_git_is_clean_and_short(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code), "strip the outputs"
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert [c.source.strip() for c in tagged] == ['profile = "demo"']
    for cell in code:
        lines = cell.source.splitlines()
        assert len(lines) <= MOST_LINES, cell.source[:80]
        assert not [line for line in lines if len(line) > LONGEST_LINE]
    assert re.match(r"(\(.+\)=\n)*# ", notebook.cells[0].source), "the first cell is the title"
    kernel = notebook.metadata["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")


def test_no_helper_is_defined_in_two_notebooks() -> None:
    found: dict[str, str] = {}
    for path in SOURCES:
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
        for name in set(re.findall(r"^def (\w+)", text, flags=re.MULTILINE)):
            assert name not in found, f"{name} stands in {found.get(name)} and {path.stem}"
            found[name] = path.stem


def test_every_item_of_the_paper_has_its_label_in_its_chapter() -> None:
    for item in paper_items().values():
        path = ROOT / "notebooks" / f"{item.chapter}.ipynb"
        prose = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
        assert any(f"({item.id})=" in text for text in prose), f"{item.id} in {item.chapter}"


def test_the_readme_lists_the_chapters_and_what_they_show_of_the_paper() -> None:
    """Promise: the README's table has the chapters of the contents, and each item in its row."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\((.+?)\) \| (.+) \|$", readme, re.MULTILINE)
    sources = Project.default().sources()
    assert [name for name, *_ in rows] == list(sources)
    for name, link, shows in rows:
        assert ROOT / link == sources[name]
        sections = " ".join(item.section for item in paper_items().values() if item.chapter == name)
        wanted = set(re.findall(r"(?:Fig\.|Table) \d", sections))
        assert set(re.findall(r"(?:Fig\.|Table) \d", shows.replace("Figure", "Fig."))) == wanted


@pytest.fixture(scope="module")
def smoke_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole book at the smoke profile, made as a reader makes it; the folder of its HTML."""
    work = tmp_path_factory.mktemp("smoke")
    done = _i2p_book(work)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(work / "build" / "html" / "index.html") in done.stdout
    return work / "build" / "html"


def _i2p_book(work: Path) -> subprocess.CompletedProcess:
    settings = os.environ | {"I2P_BUILD": str(work / "build"), "I2P_RUNS": str(work / "runs")}
    command = [sys.executable, "-m", "i2p_lib.cli", "book", "--profile", "smoke"]
    return subprocess.run(command, cwd=work, env=settings, capture_output=True, text=True)


@pytest.mark.slow
def test_every_chapter_runs_and_the_book_is_built(smoke_book: Path) -> None:
    for path in SOURCES:
        assert (smoke_book / "chapters" / f"{path.stem}.html").is_file()
    for name in ("index", "overview", "execution", "code", "references", "how_to_run"):
        assert (smoke_book / f"{name}.html").is_file()


@pytest.mark.slow
def test_nothing_published_tells_of_this_machine(smoke_book: Path) -> None:
    for page in smoke_book.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for path in (str(ROOT), str(smoke_book.parents[1])):
            assert path not in text, f"{page.name} shows {path}"


@pytest.mark.slow
def test_a_second_build_finds_everything_done(smoke_book: Path) -> None:
    before = (smoke_book / "index.html").stat().st_mtime_ns
    done = _i2p_book(smoke_book.parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("up to date") == len(SOURCES)
    assert (smoke_book / "index.html").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "overview", *(f"chapters/{p.stem}" for p in SOURCES)])
def test_a_page_opens_from_its_file_without_errors(
    smoke_book: Path, name: str, browser: Browser
) -> None:
    """Promise: formulas are drawn, and plots where they come into view, not before."""
    page = smoke_book / f"{name}.html"
    browser.open(page)
    source = page.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]+plotly", source), "plotly is loaded when a plot is seen"
    if 'class="math' in source:
        assert browser.holds("document.querySelector('mjx-container')"), "no formula is drawn"
    if "Plotly.newPlot" in source:
        browser.value("document.querySelector('.i2p-waiting').scrollIntoView()")
        drawn = "document.querySelector('.js-plotly-plot .main-svg, .gl-container')"
        assert browser.holds(drawn), "plotly has drawn nothing"
    assert browser.errors() == []
    for width in (1440, 390):
        browser.open(page, width)
        assert not browser.value("document.scrollingElement.scrollWidth > innerWidth"), width
    for tag in BeautifulSoup(source, "html.parser").find_all("img"):
        assert tag.get("alt") and not tag["alt"].endswith((".png", ".svg")), tag
