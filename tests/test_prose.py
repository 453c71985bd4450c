"""No number stands in prose without a source: a citation, a place in code, or a computation.

`python tests/test_prose.py` lists the numerals that have none.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEAR = 3  # a number of a chapter may stand in the code of so many cells before or behind it
NO_PROSE = (
    r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"\$[^$\n]*\$", r"<[^>]+>", r"\]\([^)]*\)", r"https?://\S+",
    r"(?m)^\d+\. ", r"(?m)^:\w+:.*$", r"(?m)^\([\w-]+\)=$",
)  # fmt: skip
NAMES = (
    r"(?i)\b(?:tables?|figures?|sections?|chapters?|area|sequence|python|torch|debian|version)\s+"
    r"\d+(?:\.\d+)*(?:(?:,| and| to|, or| or)\s\d+(?:\.\d+)*)*",
    r"[A-Za-z+]+[-:]?\d[\w.-]*", r"-\d+\b", r"\b\d+(?:\s?[x×]\s?\d+)+\b", r"\b\d?D\b",
    r"\b(?:19|20)\d\d\b",
    r"\bCC(?:0|-BY[-\w]*)?[ -]\d\.\d\b", r"95 %",  # the level of all intervals
)  # fmt: skip
SOURCE = re.compile(r"\{cite|\{doc\}|\{term\}`95|\[[^\]]+\]\(|\blines? \d|https?://|`[\w/.-]+\.(?:py|yml|md|csv)`")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+")


def pieces() -> Iterator[tuple[str, str, str]]:
    """Yield (place, Markdown, code nearby) of all pages and chapters."""
    for path in (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))):
        yield path.name, path.read_text(encoding="utf-8"), ""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "markdown":
                near = cells[max(0, number - NEAR) : number + NEAR + 1]
                code = "\n".join("".join(c["source"]) for c in near if c["cell_type"] == "code")
                yield f"{path.name}, cell {number}", "".join(cell["source"]), code


def unsourced(text: str, code: str = "") -> list[tuple[str, str]]:
    """Return (number, sentence) of what a text states and no source of its paragraph covers.

    A whole number below ten is a count or a definition, not a finding.
    """
    code = re.sub(r"(?<=\d)_(?=\d)", "", code)
    stated, found = {number.lstrip("0") for number in NUMBER.findall(code)}, []
    text = re.sub(r"\n\n(?=\|)", "\n", re.sub(NO_PROSE[0], "", text))  # a table, its lead
    for paragraph in re.split(r"\n\s*\n", text):
        if SOURCE.search(paragraph):
            continue
        for pattern in (*NO_PROSE[1:], r"`[^`]*`", *NAMES):
            paragraph = re.sub(pattern, " ", paragraph)
        for sentence in re.split(r"(?<=[.!?])\s+|\n", paragraph):
            for number in NUMBER.findall(sentence):
                plain = number.replace(",", "").lstrip("0")
                small = "." not in number and int(number.replace(",", "")) < 10
                if not small and plain not in stated:
                    found.append((number, sentence.strip()))
    return found


def listed() -> list[tuple[str, str, str]]:
    return [(place, *one) for place, text, code in pieces() for one in unsourced(text, code)]


def test_a_number_without_a_source_is_found_and_one_with_a_source_is_not() -> None:
    assert unsourced("It gains 12.5 points.\n\nOf 40.") == [("12.5", "It gains 12.5 points."),
                                                            ("40", "Of 40.")]  # fmt: skip
    for text in ("Gains 12.5 points {cite:p}`x`.", "See chapter 12 and Table 11, of ResNet-50.",
                 "Run `n=50`.", "$x = 50$", "```\n50\n```", "A 27 x 27 image of 2022.",
                 "*`a/b.py`, lines 10-16*", "Three of 4 arms."):  # fmt: skip
        assert unsourced(text) == [], text
    assert unsourced("Within 25 m.", "far = 25.0\nreach < 25") == []


def test_no_number_stands_in_prose_without_a_source() -> None:
    assert listed() == []


if __name__ == "__main__":
    for row in listed():
        print(*row, sep=" | ")
