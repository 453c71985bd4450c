"""The book is built from whole chapters only, is readable offline, and escapes what it shows."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from made_notebooks import write_contents, write_notebook

from benchmarks.recorded import recorded
from i2p_lib.book import pages
from i2p_lib.book.build import build_book
from i2p_lib.book.cells import code_tree, functions_used
from i2p_lib.book.chapters import Chapter, Project
from i2p_lib.book.htmlcheck import check_html
from i2p_lib.book.notebooks import execute
from i2p_lib.book.stage import BookError, fill, stage
from i2p_lib.markup import duration
from i2p_lib.paper import attach, attached, compare
from i2p_lib.runs.profiles import Profile, load_profile

HOSTILE = '<script>alert(1)</script> & ``` {raw} $x$ | "quoted"'

ATTACHES = """
from i2p_lib import paper
paper.attach("table3", paper.compare("table3"), profile)
"""


@pytest.fixture
def small_book(tiny: Project) -> Project:
    """A book of one executed chapter."""
    (tiny.root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: overview\nchapters:\n"
        "  - file: chapters/03_few_shot\n  - file: code\n  - file: execution\n"
    )
    (tiny.root / "book" / "references.bib").write_text("")
    text = "(table3)=\n## Table 3\n\nWith $x^2$."
    write_notebook(tiny.root / "notebooks" / "03_few_shot.ipynb", text, "print(profile)", ATTACHES)
    chapter = Chapter(tiny, "03_few_shot", load_profile("tiny"))
    execute(chapter)
    return tiny


def test_a_book_with_a_broken_link_is_not_published(small_book: Project) -> None:
    profile = load_profile("tiny")
    # the other chapters of the overview are not part of this small book
    with pytest.raises(BookError, match="links to chapters/00_method.html"):
        build_book(small_book, profile)
    assert not (small_book.build / "html").exists(), "a faulty book is not published"
    assert not list(small_book.build.glob(".book-*")), "nothing is left lying about"


def test_every_notebook_that_the_table_of_contents_names_is_there(project_root: Path) -> None:
    """Promise: the chapters are those of the contents; a reader's own notebooks are none."""
    sources = Project(project_root, project_root / "_build").sources()
    assert sources and all(path.is_file() for path in sources.values())


def test_a_readers_own_notebooks_are_no_chapters(tiny: Project) -> None:
    """Promise: whatever they are called, numbers find chapters and nothing else is looked at."""
    write_contents(tiny.root, "03_few_shot", "data")
    for name in ("03_few_shot", "data", "3d_view", "2026_notes", "03_few_shot-Copy1"):
        write_notebook(tiny.root / "notebooks" / f"{name}.ipynb")
    assert tiny.chapters() == ["03_few_shot", "data"]
    assert tiny.chapters(["3"]) == tiny.chapters(["03"]) == ["03_few_shot"]
    with pytest.raises(ValueError, match="unknown chapter '2026'"):
        tiny.chapters(["2026"])


def test_a_chapter_that_was_not_executed_stops_the_book(small_book: Project) -> None:
    profile = load_profile("tiny")
    Chapter(small_book, "03_few_shot", profile).executed.unlink()
    with pytest.raises(BookError, match="i2p run 03_few_shot --profile tiny"):
        stage(small_book, profile, small_book.build / "book_src")


def test_the_tables_stand_where_the_prose_wants_them(small_book: Project) -> None:
    staged = small_book.build / "book_src"
    stage(small_book, load_profile("tiny"), staged)
    for name in ("overview", "code", "weights", "execution"):
        prose, page = ((folder / f"{name}.md").read_text()
                       for folder in (small_book.root / "book", staged))  # fmt: skip
        lines = [line for line in prose.splitlines() if not line.startswith("{{")]
        assert set(lines) < set(page.splitlines()) and "{{ " not in page


def test_a_page_that_wants_an_unknown_table_stops_the_book(tmp_path: Path) -> None:
    page = tmp_path / "overview.md"
    page.write_text("# All\n\n{{ sen }}\n")
    with pytest.raises(BookError, match="overview.md: unknown block 'sen'; did you mean 'seen'"):
        fill(page, {"seen": "a table", "rows": ""})


def test_a_page_shows_the_parameters_that_ran(small_book: Project) -> None:
    staged = small_book.build / "book_src"
    stage(small_book, load_profile("tiny"), staged)
    text = (staged / "chapters" / "03_few_shot.ipynb").read_text()
    assert "injected-parameters" not in text
    assert 'profile = \\"tiny\\"' in text and 'profile = \\"smoke\\"' not in text


def test_what_a_chapter_attached_reaches_the_overview_and_no_page_shows_it_raw(
    small_book: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = {}
    blocks = dict.fromkeys(("profile", "seen", "unseen", "rows"), "")
    monkeypatch.setattr(pages, "overview", lambda *given: handed.update(given[2]) or blocks)
    staged = small_book.build / "book_src"
    stage(small_book, load_profile("tiny"), staged)
    assert list(handed) == ["table3"] and len(handed["table3"].table) == 18
    assert "vnd.image2point" not in (staged / "chapters" / "03_few_shot.ipynb").read_text()


SHOWS_FIRST = """
import matplotlib.pyplot as plt
from IPython.display import HTML
from i2p_lib.show import style

style.use_style()
figure, axis = plt.subplots()
axis.set_title("a <plot>")
HTML('<p><a href="03_few_shot.html#x">there</a> <a href="https://a.org/b.html">far</a></p>')
"""


def test_the_first_page_shows_what_chapters_say_it_should(tiny: Project) -> None:
    notebook = tiny.root / "notebooks" / "03_few_shot.ipynb"
    (tiny.root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n  - file: chapters/03_few_shot\n")
    write_notebook(notebook, SHOWS_FIRST, "print('not this')")
    made = nbformat.read(notebook, as_version=4)
    made.cells[2].metadata = {"tags": ["first-page"],
                              "mystnb": {"figure": {"caption": "Bars < lines.", "name": "f"}}}
    nbformat.write(made, notebook)
    profile, staged = load_profile("tiny"), tiny.build / "book_src"
    execute(Chapter(tiny, "03_few_shot", profile))
    stage(tiny, profile, staged)
    page = (staged / "index.md").read_text()
    assert 'href="chapters/03_few_shot.html#x"' in page and 'href="https://a.org/b.html"' in page
    assert '<figcaption><p>Bars &lt; lines.</p></figcaption>' in page and "not this" not in page
    assert 'alt="Bars &lt; lines. Panels: a &lt;plot&gt;.' in page and "{{ " not in page
    (picture,) = (staged / "_static").glob("03_few_shot-*.svg")
    assert "<svg" in picture.read_text() and f'src="_static/{picture.name}"' in page


def test_the_projects_scripts_make_their_pages_or_stop_the_book(small_book: Project) -> None:
    staged, profile = small_book.build / "book_src", load_profile("tiny")
    script = small_book.root / "measured" / "pages.py"
    script.parent.mkdir()
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[1], 'made.md').write_text('# M')")
    stage(small_book, profile, staged)
    assert (staged / "made.md").read_text() == "# M"
    script.write_text("raise SystemExit('nothing was measured')")
    with pytest.raises(BookError, match="measured.pages stopped .exit 1.:\nnothing was measured"):
        stage(small_book, profile, staged)


def test_a_chapter_without_its_notebook_stops_the_book(small_book: Project) -> None:
    (small_book.root / "notebooks" / "03_few_shot.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="_toc.yml names chapters/03_few_shot"):
        stage(small_book, load_profile("tiny"), small_book.build / "book_src")


def test_hostile_text_is_escaped_on_the_generated_pages(
    small_book: Project, cell_outputs: list
) -> None:
    profile_file = small_book.root / "notebooks" / "profiles" / "tiny.yml"
    profile_file.write_text(f"description: {HOSTILE!r}\nexperiments: {{}}\n")
    ours = pd.DataFrame([{
        "dataset": HOSTILE, "model": HOSTILE, "method": "scratch", "pretraining": "none",
        "metric": "top1", "value": 50.0,
    }])  # fmt: skip
    attach("table1", compare("table1", ours), "tiny")
    profile, found = load_profile("tiny"), attached(cell_outputs, "tiny")
    for made in (pages.overview(small_book, profile, found), pages.execution(profile, [])):
        text = "\n".join(made.values())
        assert "<script>" not in text
        assert "&lt;script&gt;" in text
        assert all(line in ("```{raw} html", "```") for line in text.splitlines() if "```" in line
                   and line.startswith("`"))  # fmt: skip


def test_an_item_links_to_its_label_and_an_absent_result_says_what_it_needs(
    small_book: Project,
) -> None:
    text = pages.overview(small_book, load_profile("tiny"), {})["seen"]
    assert 'href="chapters/03_few_shot.html#table3"' in text
    assert "needs ModelNet40" in text
    assert "i2p-not-run" in text


def test_the_overview_unfolds_every_row_with_our_number_where_there_is_one(
    small_book: Project, cell_outputs: list
) -> None:
    ours = pd.DataFrame([{
        "dataset": "made_up", "model": "resnet18", "method": "scratch", "pretraining": "none",
        "shots": 5, "metric": "top1", "value": 43.21}])  # fmt: skip
    attach("table3", compare("table3", ours), "tiny")
    found = attached(cell_outputs, "tiny")
    text = pages.overview(small_book, load_profile("tiny"), found)["rows"]
    assert "Few-shot ModelNet40 (18 rows, 1 with our number)" in text and "43.2" in text
    assert "ModelNet40 with all weights finetuned (17 rows, 0 with our number)" in text
    assert text.count("<details") == text.count("</details>") == 8  # the items with known numbers


def test_recorded_results_are_summed_up_with_their_origin(tmp_path: Path) -> None:
    rows = [{"data": HOSTILE, "model": "m", "weights": "random", "regime": "all", "lr": 0.01,
             "shots": None, "epochs": 8, "top1": top1, "seconds_training": 60,
             "hardware": "one <GPU>", "torch": "2.13.0", "finished": "2026-01-01"}
            for top1 in (0.5, 0.6)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "set-gpu.csv", index=False)
    page = recorded(tmp_path)
    assert "55.0 ± 7.1" in page and "2 runs, on one &lt;GPU&gt;, with torch 2.13.0" in page
    assert "2 minutes of training" in page and "<script>" not in page and "<GPU>" not in page
    (tmp_path / "set-gpu.csv").rename(tmp_path / "a `b`.csv")
    with pytest.raises(ValueError, match="expected a name of letters"):
        recorded(tmp_path)


def test_the_recorded_study_and_its_grid_are_on_their_page_arm_by_arm() -> None:
    page = recorded()
    assert "of profile study_rates, on" in page and "validation accuracy (%)" in page
    assert "of profile study, on" in page and "scratch (inflated, size of imagenet1k)" in page


def test_the_code_page_lists_the_functions_that_a_notebook_uses(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    write_notebook(
        path,
        "import i2p_lib as i2p\nfrom i2p_lib.paper import compare\nfrom i2p_lib.show import style",
        "%matplotlib inline\ni2p.freeze\ncompare('x')\nstyle.use_style()\nprint()",
        "%%bash\nls -l",
    )
    assert functions_used(code_tree(nbformat.read(path, as_version=4))) == [
        "i2p_lib.freeze",
        "i2p_lib.paper.compare",
        "i2p_lib.show.style.use_style",
    ]


@pytest.mark.parametrize(
    ("html", "word"),
    [
        ('<script src="https://cdn.example.org/x.js"></script>', "cdn.example.org"),
        ('<script src="//cdn.example.org/x.js"></script>', "cdn.example.org"),
        ('<link rel="stylesheet" href="https://fonts.example.org/a.css">', "fonts.example.org"),
        ('<img src="http://example.org/a.png">', "example.org/a.png"),
        ('<img srcset="http://example.org/a.png 2x">', "example.org/a.png"),
        ("<style>@import 'https://example.org/a.css';</style>", "example.org/a.css"),
        ('<p style="background: url(https://example.org/a.png)">', "example.org/a.png"),
        ('<script>import("https://example.org/x.js")</script>', "imports from outside"),
        ('<iframe src="https://example.org/"></iframe>', "example.org"),
        ('<script src="gone.js"></script>', "gone.js, which does not exist"),
        ('<a href="gone.html">x</a>', "gone.html, which does not exist"),
        ('<a href="#gone">x</a>', "no anchor 'gone'"),
    ],
)
def test_the_page_check_finds_a_planted_fault(tmp_path: Path, html: str, word: str) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{html}</body></html>")
    (problem,) = check_html(tmp_path)
    assert word in problem


def test_the_page_check_finds_a_font_loaded_by_a_style_sheet(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html></html>")
    (tmp_path / "a.css").write_text("@font-face { src: url(https://example.org/a.woff2) }")
    (problem,) = check_html(tmp_path)
    assert problem == "a.css: loads https://example.org/a.woff2 from outside"


def test_the_page_check_lets_ordinary_pages_pass(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="top-of-b">B</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="https://example.org/">out</a> <a href="b.html#top-of-b">b</a>'
        '<a href="mailto:a@example.org">m</a><img src="data:image/png;base64,AA==">'
    )
    assert check_html(tmp_path) == []


def test_times_are_said_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3700, 1_814_400)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 1 min", "21 days",
    ]  # fmt: skip


def test_an_unchanged_book_is_neither_staged_nor_built_again(
    small_book: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, made = load_profile("tiny"), []

    def html_of(project: Project, profile: Profile, work: Path) -> Path:
        made.append(work)
        (work / "html").mkdir()
        (work / "html" / "index.html").write_text("the book")
        return work / "html"

    monkeypatch.setattr("i2p_lib.book.stage.html_of", html_of)
    assert build_book(small_book, profile) == (small_book.build / "html" / "index.html", True)
    assert build_book(small_book, profile)[1] is False and len(made) == 1
    chapter = Chapter(small_book, "03_few_shot", profile)
    for path in (small_book.root / "book" / "index.md", chapter.source, chapter.executed):
        path.write_text(path.read_text() + "\n")
        assert build_book(small_book, profile)[1] is True, path
    assert len(made) == 4 and not list(small_book.build.glob(".book-*"))
