"""The tables of the pages overview, code, weights and execution; every value is escaped."""

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils.nodes import make_id

from i2p_lib import paper
from i2p_lib.book.cells import code_tree, functions_used
from i2p_lib.book.chapters import SCRIPTS, Project
from i2p_lib.markup import breakable, cell, chip, duration, fold, raw, table
from i2p_lib.paper import Item, Recorded, Verdict
from i2p_lib.runs.profiles import Profile
from i2p_lib.runs.tables import finished
from i2p_lib.sources import PACKAGE
from i2p_lib.weights import WeightCard, weight_cards


def overview(project: Project, profile: Profile, found: Mapping[str, Recorded]) -> dict[str, str]:
    """Return every figure and table of the paper: where, in which setting, with which verdict.

    These are the blocks of `book/overview.md`, by the names that stand there in double braces.
    found: what the executed chapters have for each item, by its id.
    """
    columns = ["of the paper", "what it shows", "chapter", "our setting", "verdict"]
    sources = {name: path.read_text(encoding="utf-8")
               for name, path in project.sources().items() if path.is_file()}  # fmt: skip

    def items(seen: bool) -> str:
        rows = [_item_row(item, found.get(item.id), sources.get(item.chapter, ""))
                for item in paper.paper_items().values() if item.seen == seen]  # fmt: skip
        return table(columns, rows)

    return {"profile": _about(profile),
            "seen": items(True),
            "unseen": items(False),
            "rows": "\n".join(_rows_of_item(item, found.get(item.id))
                              for item in paper.paper_items().values())}


def _rows_of_item(item: Item, record: Recorded | None) -> str:
    """Return an item's rows as a table to unfold; nothing where neither side has a number."""
    rows = record.table if record else paper.compare(item.id)
    if rows.empty:
        return ""
    ours = int(rows["ours"].notna().sum())
    title = f"{item.section}: {item.title} ({len(rows)} rows, {ours} with our number)"
    return raw(fold(title, paper.comparison_html(rows)))


def _about(profile: Profile) -> str:
    text = f"Profile <strong>{cell(profile.name)}</strong>: {cell(profile.description)}"
    return raw(f"<p>{text}</p>")


def _item_row(item: Item, record: Recorded | None, source: str) -> list[str]:
    """Return an item's row; source is its chapter's notebook, where MyST labels stand: (label)=."""
    labels = [item.id, *(record.figures if record else ())]
    anchor = next((f"#{make_id(label)}" for label in labels if f"({label})=" in source), "")
    link = f'<a href="chapters/{item.chapter}.html{cell(anchor)}">{breakable(item.chapter)}</a>'
    head = [f"<strong>{cell(item.section)}</strong>", cell(item.title), link]
    counts = paper.verdict_counts(record.table) if record else {}
    if record and not counts and record.figures:
        return [*head, "", chip("shown")]
    if not set(counts) - {Verdict.NOT_RUN}:
        return [*head, f"needs {cell(item.needs)}", chip(Verdict.NOT_RUN)]
    settings = [breakable(text) for text in dict.fromkeys(record.table["setting"]) if text]
    chips = [
        f'<span class="i2p-nobreak">{chip(kind)} {count}</span>' for kind, count in counts.items()
    ]
    return [*head, "<br>".join(settings), "<br>".join(chips)]


def code(project: Project) -> dict[str, str]:
    """Return what leads from each figure to its notebook and functions, for `book/code.md`."""
    figures = [[cell(item.section), cell(item.title),
                f'<a href="chapters/{item.chapter}.html">notebooks/{item.chapter}.ipynb</a>']
               for item in paper.paper_items().values()]
    trees = {path: code_tree(json.loads(path.read_text(encoding="utf-8")))
             for path in project.sources().values() if path.is_file()}  # fmt: skip
    notebooks = [[f"<code>notebooks/{cell(path.name)}</code>",
                  ", ".join(f"<code>{cell(used)}</code>" for used in functions_used(tree))]
                 for path, tree in trees.items()]
    folders = (PACKAGE, *(project.root / name for name in SCRIPTS))
    return {
        "figures": table(["of the paper", "what it shows", "notebook"], figures),
        "notebooks": table(["notebook", "what it uses"], notebooks),
    } | {folder.name: _modules(folder) for folder in folders}


def _modules(folder: Path) -> str:
    """Return the table of a folder's modules with the first lines of their docstrings."""
    rows = []
    for path in sorted(folder.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.relative_to(folder.parent).as_posix()
        rows.append([f"<code>{cell(name)}</code>", cell(text.split("\n")[0])])
    return table(["module", "what belongs in it"], rows)


def weights(cards: Sequence[WeightCard] | None = None) -> dict[str, str]:
    """Return the cards for `book/weights.md`: each file, whether it exists, how to get it."""
    rows = []
    for card in weight_cards() if cards is None else cards:
        name = f'<a href="{cell(card.page or card.url)}">{cell(card.file_name)}</a>'
        how = name if card.page or card.url else cell(card.how_to_get)
        known = [cell(card.source), how, f"Licence: {cell(card.licence)}", cell(card.note)]
        if not card.released:
            known.insert(0, chip("never released"))
        digits = f"<code>{cell(card.sha256[:16])}...</code>" if card.sha256 else "not published"
        digits += " (unverified)" * (len(card.sha256) < 64)
        rows.append([
            f"<code>{cell(card.model)}</code><br><code>:{cell(card.weights)}</code>",
            f"{cell(card.pretraining)}<br>In the paper: {cell(card.used_in)}",
            "<br>".join(filter(None, known)),
            f"Size: {cell(card.size_text)}<br>SHA-256: {digits}<br>{cell(card.file_format)}",
        ])  # fmt: skip
    columns = ["model:weights", "trained on", "file", "size, hash, format"]
    return {"weights": table(columns, rows)}


def run_note(record: dict[str, Any]) -> str:
    """Return the lines under a chapter's title: how this copy was run, and the copy to take."""
    machine = record["machine"]
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    text = (
        f"Profile {record['profile']}, executed {record['date']} in {duration(record['seconds'])} "
        f"on {machine['processor']} ({machine['cores']} cores{gpu}); "
        f"Python {record['versions']['python']}, torch {record['versions']['torch']}."
    )
    name = Path(record["chapter"]).name
    return (raw(f'<p class="i2p-run">{cell(text)}</p>') + "\n"
            f"{{download}}`this notebook, with its outputs <executed/{name}.ipynb>`")


def execution(profile: Profile, records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return how long everything took, on which machine, with what, for `book/execution.md`."""
    rows = [[f'<a href="chapters/{cell(r["chapter"])}.html">{cell(r["chapter"])}</a>',
             cell(duration(r["seconds"])),
             cell(r["date"]),
             cell(f"{r['machine']['processor']}, {r['machine']['cores']} cores"),
             cell(f"{r['machine']['memory_gib']} GiB"),
             cell(r["machine"]["gpu"])]
            for r in records]
    chapters = table(["chapter", "time", "date", "processor", "memory", "GPU"], rows, [1])
    packages = sorted({(k, v) for r in records for k, v in r["versions"].items()})
    versions = table(["package", "version"], [[cell(k), cell(v)] for k, v in packages])
    rows = []
    for name, specs in profile.experiments.items():
        seconds = list(finished(specs).get("seconds_total", []))  # a damaged one is left out
        total, longest = (duration(of(seconds)) if seconds else "-" for of in (sum, max))
        rows.append([cell(name), str(len(specs)), str(len(seconds)), total, longest])
    columns = ["experiment", "runs", "trained", "time of all", "longest"]
    return {"profile": _about(profile), "chapters": chapters,
            "runs": table(columns, rows, [1, 2, 3, 4]), "versions": versions}
