"""The generated pages: overview, weights, execution, code; every value from data is escaped."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from docutils.nodes import make_id

from i2p_lib.book.cells import code_tree, functions_used
from i2p_lib.book.chapters import SCRIPTS, Project
from i2p_lib.markup import breakable, cell, chip, duration, fold, raw, table
from i2p_lib.paper import (
    ITEMS,
    NOT_RUN,
    Item,
    Recorded,
    compare,
    comparison_html,
    verdict_counts,
)
from i2p_lib.runs.needs import available
from i2p_lib.runs.profiles import Profile
from i2p_lib.runs.store import Entry, read_json
from i2p_lib.sources import PACKAGE
from i2p_lib.weights import WeightCard, weight_cards


def overview(project: Project, profile: Profile, found: Mapping[str, Recorded]) -> str:
    """Return the page of every figure and table of the paper: where, in which setting, verdict.

    found: what the executed chapters have for each item, by its id.
    """
    seen = [item for item in ITEMS.values() if item.seen]
    unseen = [item for item in ITEMS.values() if not item.seen]
    columns = ["of the paper", "what it shows", "chapter", "our setting", "verdict"]

    def rows(items: Sequence[Item]) -> list[list[str]]:
        return [_item_row(item, found.get(item.id), project) for item in items]

    return (
        "# Every figure and table\n\n"
        f"{_about(profile)}"
        "A verdict compares single numbers, so an item can carry several; the number says how "
        "many of its values. "
        "*Other setting* means that data, network or recipe are not the paper's, so the gap "
        "between the numbers says nothing, and only the direction can be compared in the "
        "chapter.\n\n"
        f"{table(columns, rows(seen))}\n## In later versions only\n\n"
        "These belong to the conference paper, whose text could not be read, or go beyond it; "
        "the experiments are ours after its abstract, and there is no number to compare with.\n\n"
        f"{table(columns, rows(unseen))}\n## Row by row\n\n"
        "Every number of the paper that is known, with ours beside it where there is one.\n\n"
        + "".join(_rows_of_item(item, found.get(item.id)) for item in ITEMS.values())
    )


def _rows_of_item(item: Item, record: Recorded | None) -> str:
    """Return an item's rows as a table to unfold; nothing where neither side has a number."""
    rows = record.table if record else compare(item.id)
    if rows.empty:
        return ""
    ours = int(rows["ours"].notna().sum())
    title = f"{item.section}: {item.title} ({len(rows)} rows, {ours} with our number)"
    return raw(fold(title, comparison_html(rows))) + "\n"


def _about(profile: Profile) -> str:
    text = f"Profile <strong>{cell(profile.name)}</strong>: {cell(profile.description)}"
    return raw(f"<p>{text}</p>") + "\n"


def _item_row(item: Item, record: Recorded | None, project: Project) -> list[str]:
    source = project.sources().get(item.chapter)
    labels = [item.id, *(record.figures if record else ())]
    anchor = next((f"#{make_id(label)}" for label in labels if has_anchor(source, label)), "")
    link = f'<a href="chapters/{item.chapter}.html{cell(anchor)}">{breakable(item.chapter)}</a>'
    head = [f"<strong>{cell(item.section)}</strong>", cell(item.title), link]
    counts = verdict_counts(record.table) if record else {}
    if record and not counts and record.figures:
        return [*head, "", chip("shown")]
    if not set(counts) - {NOT_RUN}:
        return [*head, f"needs {cell(item.needs)}", chip(NOT_RUN)]
    settings = [breakable(text) for text in dict.fromkeys(record.table["setting"]) if text]
    chips = [
        f'<span class="i2p-nobreak">{chip(kind)} {count}</span>' for kind, count in counts.items()
    ]
    return [*head, "<br>".join(settings), "<br>".join(chips)]


def has_anchor(source: Path | None, label: str) -> bool:
    """Return whether a notebook's text carries the MyST label `(label)=`."""
    if source is None or not source.is_file():
        return False
    cells = nbformat.read(source, as_version=4).cells
    return any(f"({label})=" in c.source for c in cells if c.cell_type == "markdown")


def code(project: Project) -> str:
    """Return the page that leads from each figure to its notebook, experiments and functions."""
    sources = project.sources()
    items = [
        [
            cell(item.section),
            cell(item.title),
            f'<a href="chapters/{item.chapter}.html">notebooks/{item.chapter}.ipynb</a>',
        ]
        for item in ITEMS.values()
    ]
    chapters = [
        [f"<code>notebooks/{cell(name)}.ipynb</code>",
         ", ".join(f"<code>{cell(used)}</code>" for used in functions_used(_tree(path)))]
        for name, path in sources.items() if path.is_file()
    ]  # fmt: skip
    return (
        "# Where the code is\n\n"
        "This page is made from the sources.\n\n"
        "## From a figure to its notebook\n\n"
        f"{table(['of the paper', 'what it shows', 'notebook'], items)}\n"
        "## From a notebook to the library\n\n"
        f"{table(['notebook', 'what it uses'], chapters)}\n"
        "## The library\n\n"
        f"{_modules(PACKAGE)}"
        + "".join(f"\n## {title}\n\n{_modules(project.root / folder)}"
                  for folder, title in SCRIPTS.items() if (project.root / folder).is_dir())
    )  # fmt: skip


def _modules(folder: Path) -> str:
    rows = [
        [f"<code>{cell(path.relative_to(folder.parent).as_posix())}</code>", cell(first_line(path))]
        for path in sorted(folder.rglob("*.py"))
    ]
    return table(["module", "what belongs in it"], rows)


def _tree(source: Path) -> ast.Module:
    return code_tree(nbformat.read(source, as_version=4))


def weights(cards: Sequence[WeightCard] | None = None) -> str:
    """Return the page of the weight cards: what each file is, whether it exists, how to have it."""
    rows = []
    for card in weight_cards() if cards is None else cards:
        name = f'<a href="{cell(card.page or card.url)}">{cell(card.file_name)}</a>'
        how = name if card.page or card.url else cell(card.how_to_get)
        known = [cell(card.source), how, f"Licence: {cell(card.licence)}", cell(card.note)]
        if not card.released:
            known.insert(0, chip("never released"))
        digits = f"<code>{cell(card.sha256[:16])}...</code>" if card.sha256 else "not published"
        rows.append([
            f"<code>{cell(card.model)}</code><br><code>:{cell(card.weights)}</code>",
            f"{cell(card.pretraining)}<br>In the paper: {cell(card.used_in)}",
            "<br>".join(filter(None, known)),
            f"Size: {cell(card.size_text)}<br>SHA-256: {digits}<br>{cell(card.file_format)}",
        ])  # fmt: skip
    columns = ["model:weights", "trained on", "file", "size, hash, format"]
    return (
        "# Pretrained weights\n\n"
        "One row for each set of weights that the paper names, and for those that pip brings.\n"
        "`i2p weights list` says which of them are on your machine, "
        "`i2p weights get MODEL:WEIGHTS` fetches one, checks its hash and goes on where it was "
        "interrupted.\n"
        "The hash of your own file becomes part of every run's key, published or not.\n"
        "Checkpoints are read as tensors and nothing else; one that holds other objects is "
        "refused with the way to convert it.\n\n"
        f"{table(columns, rows)}"
    )


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring, empty where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0]


def run_note(record: dict[str, Any]) -> str:
    """Return the lines under a chapter's title: how this copy was run, and its source to take."""
    machine = record["machine"]
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    text = (
        f"Profile {record['profile']}, executed {record['date']} in {duration(record['seconds'])} "
        f"on {machine['processor']} ({machine['cores']} cores{gpu}); "
        f"Python {record['versions']['python']}, torch {record['versions']['torch']}."
    )
    name = Path(record["chapter"]).name
    return (
        raw(f'<p class="i2p-run">{cell(text)}</p>') + "\n"
        f"{{download}}`this notebook <source/{name}.ipynb>`"
    )


def execution(profile: Profile, records: Sequence[dict[str, Any]]) -> str:
    """Return the page that says how long everything took, on which machine, with what."""
    rows = [
        [
            f'<a href="chapters/{cell(r["chapter"])}.html">{cell(r["chapter"])}</a>',
            cell(duration(r["seconds"])),
            cell(r["date"]),
            cell(f"{r['machine']['processor']}, {r['machine']['cores']} cores"),
            cell(f"{r['machine']['memory_gib']} GiB"),
            cell(r["machine"]["gpu"]),
        ]
        for r in records
    ]
    chapters = table(["chapter", "time", "date", "processor", "memory", "GPU"], rows, [1])
    packages = sorted({(k, v) for r in records for k, v in r["versions"].items()})
    versions = table(["package", "version"], [[cell(k), cell(v)] for k, v in packages])
    return (
        f"# How this book was run\n\n{_about(profile)}"
        "The times of the chapters are those of their notebooks alone; "
        "the networks that they show were trained before and are counted below.\n\n"
        f"## Chapters\n\n{chapters}\n## Training runs\n\n{training(profile)}\n"
        f"## Versions\n\n{versions}"
    )


def training(profile: Profile) -> str:
    """Return the table of the profile's runs by experiment: how many, and their seconds."""
    rows = []
    for name, specs in profile.experiments.items():
        seconds = [_seconds(entry) for entry in available(specs)[0]]
        known = [value for value in seconds if value is not None]
        total = duration(sum(known)) if known else "-"
        longest = duration(max(known)) if known else "-"
        rows.append([cell(name), str(len(specs)), str(len(known)), total, longest])
    columns = ["experiment", "runs", "trained", "time of all", "longest"]
    note = "Each run uses one thread; experiments may share runs, which train once.\n\n"
    return note + table(columns, rows, [1, 2, 3, 4])


def _seconds(entry: Entry) -> float | None:
    if not entry.done():
        return None
    return read_json(entry.folder / "metrics.json")["seconds_total"]
