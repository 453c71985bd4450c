"""Making the HTML: prose and chapters staged, Jupyter Book run over them, the pages checked."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from html import escape
from importlib.resources import as_file, files
from pathlib import Path

import nbformat

from i2p_lib.book import pages
from i2p_lib.book.chapters import Chapter, Project
from i2p_lib.book.htmlcheck import check_html
from i2p_lib.files import write_text
from i2p_lib.markup import raw
from i2p_lib.paper.record import Recorded, attached, is_attached
from i2p_lib.runs.profiles import Profile
from i2p_lib.train.settings import unknown_key


class BookError(RuntimeError):
    """The book could not be built; the message says which page or input is at fault."""


def html_of(project: Project, profile: Profile, work: Path) -> Path:
    """Make the pages of a profile's executed chapters in a folder; return that of index.html.

    Raises BookError where a chapter of the table of contents is not executed, Jupyter Book warns,
    or a page is not readable offline.
    """
    staged = project.build / "book_src"
    stage(project, profile, staged)
    built = jupyter_book(staged, work)
    if problems := check_html(built):
        shown = "\n".join(f"- {problem}" for problem in problems[:20])
        raise BookError(f"the built pages have {len(problems)} faults:\n{shown}")
    return built


def stage(project: Project, profile: Profile, staged: Path) -> None:
    """Write the source tree that Jupyter Book reads; it is built anew each time.

    Raises BookError where an executed chapter is missing.
    """
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(project.root / "book", staged,
                    ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(project.root / "_config.yml", staged / "_config.yml")
    copy_plotly(staged / "_vendor")
    with _own_pages(project.root, staged):
        records, items, opening = [], {}, ""
        for name in project.sources():
            record, found = _stage_chapter(Chapter(project, name, profile), staged)
            records.append(record)
            items |= found
            opening += _for_the_first_page(staged / "chapters" / f"{name}.ipynb")
        written = {
            "index": {"findings": opening},
            "overview": pages.overview(project, profile, items),
            "execution": pages.execution(profile, records),
            "code": pages.code(project),
            "weights": pages.weights(),
        }
        for name, blocks in written.items():
            fill(staged / f"{name}.md", blocks)


def fill(page: Path, blocks: Mapping[str, str]) -> None:
    """Put blocks into a page, each where its name stands in double braces: {{ name }}.

    Raises BookError for a name that no block has.
    """
    def block(place: re.Match) -> str:
        if place[1] not in blocks:
            raise BookError(f"{page.name}: {unknown_key(place[1], blocks, 'block')}")
        return blocks[place[1]]

    write_text(page, re.sub(r"\{\{ (\w+) \}\}", block, page.read_text(encoding="utf-8")))


@contextmanager
def _own_pages(root: Path, staged: Path) -> Iterator[None]:
    """Let the project's scripts make their pages meanwhile: `python -m FOLDER.pages STAGED`.

    Such a script is the `pages.py` of a folder in the project's root, and no part of the package.
    Raises BookError with what it said where one fails.
    """
    with ExitStack() as running:
        makers = {
            f"{path.parent.name}.pages": running.enter_context(subprocess.Popen(
                [sys.executable, "-m", f"{path.parent.name}.pages", str(staged)],
                cwd=root, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            ))
            for path in sorted(root.glob("*/pages.py"))
        }  # fmt: skip
        yield
        for name, maker in makers.items():
            _, said = maker.communicate()
            if maker.returncode:
                raise BookError(f"{name} stopped (exit {maker.returncode}):\n{said.strip()}")


def _stage_chapter(chapter: Chapter, staged: Path) -> tuple[dict, dict[str, Recorded]]:
    """Write an executed chapter and its source; return its provenance and what it found by item."""
    record = chapter.provenance()
    name, profile = chapter.source.stem, chapter.profile
    if record is None:
        raise BookError(f"chapter {name} is not executed at profile {profile.name}; "
                        f"run: i2p run {name} --profile {shlex.quote(profile.address)}")
    target = staged / "chapters"
    (target / "executed").mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(chapter.executed, as_version=4)
    found = {}
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        found |= attached(outputs, profile.name)
        if outputs:
            cell.outputs = [output for output in outputs if not is_attached(output)]
    _show_injected(notebook, profile)
    nbformat.write(notebook, target / "executed" / f"{name}.ipynb")  # for readers to take
    for cell in notebook.cells:
        _for_a_page(cell)
    if (number := name.split("_")[0]).isdecimal():
        notebook.cells[0].source = re.sub(r"(?m)^# ", f"# {int(number)}. ",
                                          notebook.cells[0].source, count=1)
    note = nbformat.v4.new_markdown_cell(pages.run_note(record), id="how-it-was-run")
    notebook.cells.insert(1, note)
    nbformat.write(notebook, target / f"{name}.ipynb")
    return record, found


def _for_the_first_page(page: Path) -> str:
    """Return what the cells tagged "first-page" of a staged chapter show, as blocks of a page.

    Links of their HTML are the chapter's own; pictures are written to `_static`.
    """
    shown = ""
    for number, cell in enumerate(nbformat.read(page, as_version=4).cells):
        if "first-page" not in cell.metadata.get("tags", []):
            continue
        for data in (output.get("data", {}) for output in cell.outputs):
            if svg := data.get("image/svg+xml"):
                name = f"{page.stem}-{number}.svg"
                write_text(page.parents[1] / "_static" / name, svg)
                told = cell.metadata.mystnb
                alt, caption = escape(told.image.alt), escape(told.figure.caption)
                shown += raw(f'<figure><img alt="{alt}" src="_static/{name}">'
                             f"<figcaption><p>{caption}</p></figcaption></figure>")  # fmt: skip
            elif html := data.get("text/html"):
                shown += raw(re.sub(r'href="(?=\w+\.html)', f'href="{page.parent.name}/', html))
    return shown


def _for_a_page(cell: nbformat.NotebookNode) -> None:
    """Say a cell's pictures in words, in place, and leave its 3D plots to `book/_static/book.js`.

    The words are the caption of the cell's figure, and what the figure says of itself.
    """
    said = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")]
    for output in cell.get("outputs", []):
        said.append(output.get("metadata", {}).get("image/svg+xml", {}).get("alt", ""))
        if html := output.get("data", {}).get("text/html"):
            output.data["text/html"] = re.sub(r"<script[^>]*>(?=\s*window\.PLOTLYENV)",
                                              '<script type="text/i2p-plot">', html)
    if any(said):
        image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
        image["alt"] = " ".join(filter(None, said))


def _show_injected(notebook: nbformat.NotebookNode, profile: Profile) -> None:
    """Make one cell, in place, of the parameters cell and the one with the values that ran."""
    kinds = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    injected = next((i for i, tags in enumerate(kinds) if "injected-parameters" in tags), None)
    if injected is not None:
        ran = notebook.cells.pop(injected)
        stated = next(i for i, tags in enumerate(kinds) if "parameters" in tags)
        text = ran.source.replace(profile.address, profile.name)  # no path of this machine
        notebook.cells[stated].source = text.removeprefix("# Parameters\n").strip()


def copy_plotly(folder: Path) -> None:
    """Copy plotly's script into a folder."""
    with as_file(files("plotly") / "package_data" / "plotly.min.js") as source:
        shutil.copy(source, folder / "plotly.min.js")


def jupyter_book(staged: Path, output: Path) -> Path:
    """Run Jupyter Book with warnings as errors; return the folder with index.html."""
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(staged)]
    command += ["--path-output", str(output), "-W", "-n", "--keep-going", "-q"]
    settings = os.environ | {"PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    built = output / "_build" / "html"
    if done.returncode or not (built / "index.html").is_file():
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        lines = text.replace(f"{staged}/", "").splitlines()
        telling = [line for line in lines if "WARNING" in line or "ERROR" in line]
        shown = "\n".join((telling or lines)[-20:])
        raise BookError(f"Jupyter Book stopped (exit {done.returncode}):\n{shown}")
    return built
