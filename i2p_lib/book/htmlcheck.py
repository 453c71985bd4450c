"""Reading the built pages again: nothing is loaded from elsewhere, and no local link is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# what a browser fetches by itself; an ordinary <a href> is the reader's
_LOADS = ("src", "href", "xlink:href", "poster", "data")
# <link> relations that only name an address
_NAMES_ONLY = {"canonical", "license", "author", "next", "prev", "index", "search", "alternate"}
_CSS_LOAD = re.compile(r"""(?:url\(|@import\s+(?!url))\s*["']?([^"')\s;]+)""")
_IMPORT = re.compile(r"""\bimport\s*(?:\(|[^;"']*?\bfrom\b|)\s*["'](https?:)?//[^"']+["']""")


class _Page(HTMLParser):
    """Collects what a page loads, where it links, which anchors it offers, and what it imports."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"top"}
        self.imports: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value for key, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loads += _CSS_LOAD.findall(given.get("style", ""))
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        elif tag != "link" or not set(given.get("rel", "").split()) & _NAMES_ONLY:
            self.loads += [given[name].strip() for name in _LOADS if name in given]
            several = given.get("srcset", "").split(",")
            self.loads += [part.split()[0] for part in several if part.strip()]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.loads += _CSS_LOAD.findall(data)
        elif self.cdata_elem == "script":
            self.imports += [found.group(0)[:120] for found in _IMPORT.finditer(data)]

    def local(self, url: str) -> Path | None:
        """Return the file that a link of this page names, None where it leads outside."""
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            return None
        target = (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path
        return target / "index.html" if target.is_dir() else target


def check_html(folder: Path) -> list[str]:
    """Return what is wrong with the built pages, one sentence each; an empty list is good.

    Wrong is: a script, style, image or font loaded from another host; a local file that is
    missing; a link to an anchor that its page does not have.
    """
    found = (p for p in sorted(folder.resolve().rglob("*.html")) if "_static" not in p.parts)
    pages = {path: _Page(path) for path in found}  # the theme keeps templates in _static
    said = [(path, text) for path, page in pages.items() for text in _faults(page, pages)]
    for path in sorted(folder.resolve().rglob("*.css")):
        urls = _CSS_LOAD.findall(path.read_text(encoding="utf-8", errors="replace"))
        said += [(path, f"loads {url} from outside") for url in urls if urlsplit(url).netloc]
    problems = [f"{path.relative_to(folder.resolve()).as_posix()}: {text}" for path, text in said]
    return problems if pages else [f"{folder}: expected HTML pages, found none", *problems]


def _faults(page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    for text in page.imports:
        yield f"a script imports from outside: {text}"
    for url in page.loads:
        target = page.local(url)
        if urlsplit(url).netloc:
            yield f"loads {url} from outside"
        elif target is not None and not target.exists():
            yield f"loads {url}, which does not exist"
    for url in page.links:
        target, anchor = page.local(url), unquote(urlsplit(url).fragment)
        if target is not None and not target.exists():
            yield f"links to {url}, which does not exist"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"links to {url}, but that page has no anchor {anchor!r}"
