"""The built pages in a browser: wide, on a phone, dark and printed; every picture has words."""

import base64
import json
from pathlib import Path

import pytest
from browser import Browser
from bs4 import BeautifulSoup
from made_notebooks import tiny_project, write_notebook

from i2p_lib.book.chapters import Chapter
from i2p_lib.book.notebooks import execute
from i2p_lib.book.stage import jupyter_book, stage
from i2p_lib.runs.profiles import load_profile

DRAWS = """
import matplotlib.pyplot as plt
from i2p_lib.show import bars, style
import pandas as pd

style.use_style()
figure = bars.method_bars(pd.DataFrame({
    "weights": ["random", "random", "imagenet1k"], "regime": ["all", "io+bn", "all"],
    "top1": [0.4, 0.6, 0.7]}), chance=0.1)
"""
TURNS = """
import numpy as np
from IPython.display import HTML
from i2p_lib.show import turning

cloud = np.random.default_rng(0).normal(size=(50, 3)), np.zeros(50, int)
HTML(turning.clouds_html({"truth": cloud}, ["wall"], "a room"))
"""
COMPARES = """
from IPython.display import HTML
from i2p_lib import paper
HTML(paper.comparison_html(paper.compare("table3")))
"""
PAGE = "chapters/03_few_shot.html"
WIDER = "document.scrollingElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def made_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of one made chapter and the prose; the folder of its HTML."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = tiny_project(tmp_path_factory.mktemp("made"), patch)
        toc = ("overview", "chapters/03_few_shot", "code", "weights", "execution", "glossary")
        files = "\n".join(f"  - file: {name}" for name in toc[1:])
        contents = f"format: jb-book\nroot: {toc[0]}\nchapters:\n{files}\n"
        (tiny.root / "book" / "_toc.yml").write_text(contents)
        (tiny.root / "book" / "references.bib").write_text("")
        (tiny.root / "book" / "glossary.md").write_text("# Words\n\nNone.\n")
        path = tiny.root / "notebooks" / "03_few_shot.ipynb"
        write_notebook(path, DRAWS, "# # Plots\n1", TURNS, COMPARES, "print('said')")
        notebook = json.loads(path.read_text())
        notebook["cells"][2]["metadata"]["mystnb"] = {"figure": {"caption": "Three bars."}}
        path.write_text(json.dumps(notebook))
        profile = load_profile("tiny")
        execute(Chapter(tiny, "03_few_shot", profile))
        stage(tiny, profile, tiny.build / "book_src")
        return jupyter_book(tiny.build / "book_src", tiny.build)


@pytest.mark.slow
def test_every_picture_of_a_page_is_said_in_words(made_book: Path) -> None:
    """Promise: no image without a written alternative; a figure's is its caption and its texts."""
    found = [tag for page in made_book.rglob("*.html") if "_static" not in page.parts
             for tag in BeautifulSoup(page.read_text(), "html.parser").find_all(["img", "svg"])]
    assert found, "the made chapter has a figure"
    for tag in found:
        words = tag.get("alt") or tag.get("aria-label") or (tag.title and tag.title.text)
        assert words and not words.endswith((".png", ".svg")), tag
    (figure,) = (tag for tag in found if tag["src"].endswith(".svg"))
    assert figure["alt"].startswith("Three bars. Marks: scratch, FIP- ALL, control IO+BN.")


@pytest.mark.slow
def test_a_chapter_has_its_number_and_its_outputs_to_take(made_book: Path) -> None:
    page = BeautifulSoup((made_book / PAGE).read_text(), "html.parser")
    assert page.h1.text.startswith("3. A chapter")
    menu = BeautifulSoup((made_book / "code.html").read_text(), "html.parser").find("nav")
    assert "3. A chapter" in menu.text
    (path,) = made_book.rglob("_downloads/*/03_few_shot.ipynb")
    cells = json.loads(path.read_text())["cells"]
    assert any(output.get("text") == ["said\n"] for cell in cells
               for output in cell.get("outputs", []))  # fmt: skip


@pytest.mark.slow
def test_plotly_is_drawn_where_it_is_seen_and_loaded_nowhere_else(
    made_book: Path, browser: Browser
) -> None:
    for page in ("overview.html", "code.html", PAGE):
        text = (made_book / page).read_text()
        assert "plotly.min.js" not in text and ("tex-svg.js" in text) == ('class="math' in text)
    browser.open(made_book / PAGE)
    browser.value("document.querySelector('.i2p-waiting, .js-plotly-plot').scrollIntoView()")
    assert browser.holds("document.querySelector('.js-plotly-plot canvas, .main-svg')")
    assert browser.errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("width, dark", [(1440, False), (390, False), (1440, True), (390, True)])
def test_a_page_fits_its_window_without_errors(
    made_book: Path, browser: Browser, width: int, dark: bool
) -> None:
    """Promise: no horizontal scroll, nothing in the console, on any page."""
    for page in (PAGE, "overview.html", "code.html", "weights.html", "search.html"):
        browser.open(made_book / page, width, dark)
        assert not browser.value(WIDER), page
        assert browser.errors() == [], page


@pytest.mark.slow
def test_the_verdict_of_a_table_is_on_a_phones_screen(made_book: Path, browser: Browser) -> None:
    for page in (PAGE, "overview.html"):
        browser.open(made_book / page, 390)
        ends = browser.value("""[...document.querySelectorAll('.i2p-chip')]
            .filter(chip => chip.checkVisibility())
            .map(chip => chip.getBoundingClientRect().right)""")
        assert ends and max(ends) <= 390
        label = "getComputedStyle(document.querySelector('.i2p-chip').closest('td'), '::before')"
        assert "verdict" in browser.value(f"{label}.content")


@pytest.mark.slow
def test_what_was_not_run_can_be_put_aside(made_book: Path, browser: Browser) -> None:
    """Promise: one click on the overview leaves the rows that have more than "not run"."""
    browser.open(made_book / "overview.html", width=390)
    idle = "Array.from(document.querySelectorAll('.i2p-table tbody tr')).filter(row => " \
           "row.offsetHeight && row.querySelector('.i2p-not-run') && " \
           "!row.querySelector('.i2p-chip:not(.i2p-not-run)')).length"
    rows = "Array.from(document.querySelectorAll('.i2p-table tbody tr'))" \
           ".filter(row => row.offsetHeight).length"
    before, all_rows = browser.value(idle), browser.value(rows)
    assert before
    browser.value("document.querySelector('.i2p-filter input').click()")
    assert browser.value(idle) == 0 and browser.value(rows) == all_rows - before
    browser.value("document.querySelector('.i2p-filter input').click()")
    assert browser.value(rows) == all_rows


@pytest.mark.slow
def test_figures_and_tables_lie_on_the_dark_page_itself(made_book: Path, browser: Browser) -> None:
    browser.open(made_book / PAGE, dark=True)
    found = browser.value("""[...document.querySelectorAll('.cell_output img, .text_html, figure')]
        .map(one => getComputedStyle(one).backgroundColor)""")
    assert set(found) == {"rgba(0, 0, 0, 0)"}
    text = next((made_book / "_images").glob("*.svg")).read_text()
    assert "prefers-color-scheme: dark" in text and "background" not in text


@pytest.mark.slow
def test_paper_shows_what_is_folded_on_white(made_book: Path, browser: Browser) -> None:
    browser.open(made_book / "overview.html", dark=True)
    browser.value("dispatchEvent(new Event('beforeprint'))")
    state = "[document.querySelectorAll('details:not([open])').length,"
    state += " document.documentElement.dataset.theme]"
    assert browser.value(state) == [0, "light"]
    browser.value("dispatchEvent(new Event('afterprint'))")
    closed, theme = browser.value(state)
    assert closed and theme == "dark"
    browser.open(made_book / PAGE, 700, media="print")
    assert not browser.value(WIDER)
    printed = browser.call("Page.printToPDF", printBackground=True)["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")


@pytest.mark.slow
def test_the_search_works_from_a_file(made_book: Path, browser: Browser) -> None:
    browser.open(made_book / "search.html", query="?q=chapter")
    assert browser.holds("document.querySelector('#search-results li a')")
    assert browser.errors() == []
