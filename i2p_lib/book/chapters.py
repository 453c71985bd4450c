"""The chapters: which there are, what each rests on, and whether its copy is up to date."""

import ast
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from i2p_lib.book.cells import code_tree, modules_used
from i2p_lib.files import sha256
from i2p_lib.runs.needs import available, lacking_text
from i2p_lib.runs.profiles import Profile
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import key_of
from i2p_lib.sources import PACKAGE, closure, modules_named, texts
from i2p_lib.train.settings import unknown_key

CODE = (".py", ".pyc")  # other files of the package are data that code reads by name
SCRIPTS = ("data_scripts", "benchmarks")  # folders beside the package


@dataclass(frozen=True)
class Project:
    """Where the sources lie (root), where what is built goes (build), and the library's folder."""

    root: Path
    build: Path
    package: Path = PACKAGE

    @classmethod
    def default(cls) -> Self:
        """Return the checkout of this package; $I2P_BUILD moves what is built (for tests)."""
        root = PACKAGE.parent
        return cls(root, Path(os.environ.get("I2P_BUILD") or root / "_build").resolve())

    def sources(self) -> dict[str, Path]:
        """Return {chapter: notebook}: what the table of contents has as chapters/NAME, in order.

        Other notebooks beside them are the reader's own.  Whether the files exist is not looked at.
        """
        toc = yaml.safe_load((self.root / "book" / "_toc.yml").read_text(encoding="utf-8"))
        pages = (Path(page) for page in _pages(toc))
        stems = [page.name for page in pages if page.parent == Path("chapters")]
        return {stem: self.root / "notebooks" / f"{stem}.ipynb" for stem in stems}

    def chapters(self, wanted: list[str] | None = None) -> list[str]:
        """Return the chapters asked for: whole names, or just their numbers ("3", "03").

        Raises ValueError with close matches for an unknown one.
        """
        known = tuple(self.sources())
        if not wanted:
            return list(known)
        first = {stem: stem.split("_")[0] for stem in known}
        numbers = {int(text): stem for stem, text in first.items() if text.isdecimal()}
        chosen = set()
        for name in wanted:
            stem = numbers.get(int(name)) if name.isdecimal() else Path(name).stem
            if stem not in known:
                raise ValueError(unknown_key(name, known, "chapter") + " (see book/_toc.yml)")
            chosen.add(stem)
        return [stem for stem in known if stem in chosen]


def _pages(entry: Mapping[str, Any]) -> Iterator[str]:
    """Return the pages of a table of contents, or of a part of it, in its order."""
    yield from (entry[key] for key in ("root", "file") if key in entry)
    for key in ("parts", "chapters", "sections"):
        for child in entry.get(key) or ():
            yield from _pages(child)


@dataclass(frozen=True)
class Chapter:
    """One notebook at one profile: its source, its executed copy and that copy's provenance."""

    project: Project
    name: str
    profile: Profile

    @cached_property
    def source(self) -> Path:
        """Its notebook; FileNotFoundError where the table of contents alone has it."""
        path = self.project.sources()[self.name]
        if not path.is_file():
            raise FileNotFoundError(f"book/_toc.yml names chapters/{self.name}, but there is no "
                                    f"{path}: write that notebook, or take the line out")
        return path

    @property
    def executed(self) -> Path:
        """Where the copy is that ran whole; its provenance is beside it."""
        return self.project.build / "notebooks" / self.profile.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        """Where the copy is that shows the error."""
        return self.executed.with_suffix(".failed.ipynb")

    @property
    def parameters(self) -> dict[str, str]:
        """The values that its cell tagged "parameters" gets."""
        return {"profile": self.profile.address}

    @cached_property
    def notebook(self) -> dict[str, Any]:
        """The source as the file has it (nbformat takes a second to import)."""
        return json.loads(self.source.read_text(encoding="utf-8"))

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of its code."""
        return code_tree(self.notebook)

    def provenance(self) -> dict[str, Any] | None:
        """Return what was recorded with the executed copy, None where it is absent or damaged."""
        try:
            record = json.loads(self.executed.with_suffix(".json").read_text(encoding="utf-8"))
            whole = record["sha256"] == sha256(self.executed) and {*record["parts"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def lacks(self) -> str | None:
        """Return why the chapter cannot be executed here: no run of it can be trained.

        A chapter without runs shows the profile's data, so it lacks what all runs lack.
        """
        return lacking_text(self.specs() or self.profile.all_specs())

    def specs(self) -> list[AnySpec]:
        """Return the runs to train before it: of the experiments that the profile lists for it.

        Where the profile does not list the chapter, of those that its code names.
        """
        names = self.profile.chapters.get(self.name, self._named())
        experiments = map(self.profile.experiment, names)
        return list(dict.fromkeys(spec for specs in experiments for spec in specs))

    def experiments(self) -> list[str]:
        """Return the experiments that the chapter may read: listed for it, or named in its code."""
        listed = self.profile.chapters.get(self.name, ())
        return list(dict.fromkeys([*listed, *self._named()]))

    def _named(self) -> list[str]:
        said = texts(self.tree)
        return [name for name in self.profile.experiments if name in said]


def digest_parts(chapter: Chapter) -> dict[str, str]:
    """Return everything an executed chapter depends on, by name, as hashes.

    These are its cells and parameters; the keys of the runs that it may read, which cover their
    data and weights; the modules that its cells import, with all that those import; the data files
    in the package that these modules name; and the folders of tests that the cells import from.
    """
    cells = [[c["cell_type"], "".join(c["source"]), c["metadata"]]
             for c in chapter.notebook["cells"]]  # fmt: skip
    profile, package = chapter.profile, chapter.project.package
    parts = {"notebook": key_of(cells),
             "parameters": key_of(chapter.parameters),
             "profile": key_of([profile.device, str(profile.images)])}
    for name in chapter.experiments():
        entries, skipped = available(profile.experiment(name))
        keys = [entry.key for entry in entries]
        parts[f"runs of {name}"] = key_of([keys, [spec.label() for spec, _ in skipped]])
    tree, root = chapter.tree, package.parent
    used = modules_used(tree)
    for folder in sorted({name.split(".")[1] for name in modules_named(tree, package="tests")}):
        for path in sorted((root / "tests" / folder).rglob("*.*")):
            if path.suffix == ".py":
                used |= modules_named(ast.parse(path.read_text(encoding="utf-8")))
            if path.suffix != ".pyc":
                parts[f"file {path.relative_to(root).as_posix()}"] = sha256(path)
    modules = closure(used, package)
    parts |= {f"i2p_lib/{file}": digest for file, digest in modules.items()}
    sources = "\n".join((package / file).read_text(encoding="utf-8") for file in modules)
    for path in sorted(package.rglob("*.*")):
        if path.suffix not in CODE and f'"{path.name}"' in sources:
            parts[f"file {path.relative_to(package).as_posix()}"] = sha256(path)
    return parts


def chapter_state(chapter: Chapter) -> tuple[str, str]:
    """Return (state, why): done, stale, missing or failed."""
    if why := chapter.lacks():
        return "missing", why
    record, parts = chapter.provenance(), digest_parts(chapter)
    if record is not None and record["parts"] == parts:
        return "done", ""
    if chapter.failed.is_file():
        return "failed", f"see {chapter.failed.name}"
    if record is None:
        return "missing", "never executed"
    before = record["parts"]
    changed = [k for k in sorted(before.keys() | parts) if before.get(k) != parts.get(k)]
    return "stale", f"changed since: {', '.join(changed)}"
