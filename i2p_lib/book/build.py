"""Building the book: published whole, and only where something that it rests on has changed."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from i2p_lib.book.chapters import SCRIPTS, Project
from i2p_lib.files import folder_lock, sha256, write_text
from i2p_lib.machine import package_versions
from i2p_lib.runs.needs import available
from i2p_lib.runs.profiles import Profile
from i2p_lib.runs.store import key_of

STAMP = "built-from.txt"


@contextmanager
def alone(project: Project) -> Iterator[None]:
    """Hold the book in the block; RuntimeError says which process holds it, where another does."""
    who = project.build / ".book"
    try:
        held = folder_lock(project.build / "book", timeout=0).acquire()
    except Timeout:
        raise RuntimeError(f"{who.read_text()} builds {project.build} now: wait for it") from None
    with held:
        write_text(who, f"process {os.getpid()} on {platform.node()}")
        yield


def build_book(project: Project, profile: Profile) -> tuple[Path, bool]:
    """Build the HTML of a profile's executed chapters; return (index.html, whether it was built).

    Nothing is written where what the pages rest on is unchanged.  Raises BookError as `html_of`
    does; an older book then stays as it was.
    """
    html = project.build / "html"
    index, stamp, digest = html / "index.html", html / STAMP, inputs_digest(project, profile)
    if index.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return index, False
    from i2p_lib.book.stage import html_of

    project.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.build, prefix=".book-") as work:
        built = html_of(project, profile, Path(work))
        (built / STAMP).write_text(digest)
        if html.exists():
            os.replace(html, Path(work) / "old")
        os.replace(built, html)
    return index, True


def inputs_digest(project: Project, profile: Profile) -> str:
    """Return one hash over all that the pages are made from.

    These are the files of prose, chapters, library and scripts, the executed chapters, the
    profile, what its finished runs measured, and the versions of the packages.
    """
    scripts = {project.root / name for name in SCRIPTS}
    scripts |= {path.parent for path in project.root.glob("*/pages.py")}
    folders = (project.root / "book", project.package, *scripts,
               project.build / "notebooks" / profile.folder)  # fmt: skip
    found = [project.root / "_config.yml", profile.path, *project.sources().values()]
    found += [path for folder in folders for path in folder.rglob("*")]
    found += [entry.folder / "metrics.json" for entry in available(profile.all_specs())[0]]
    files = {str(path): sha256(path) for path in found
             if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    return key_of([files, package_versions()])
