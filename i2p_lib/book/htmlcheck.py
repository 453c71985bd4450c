"""Reading the built pages again: nothing is loaded from elsewhere, and no local link is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# attributes whose target the browser fetches by itself (an ordinary <a href> is the reader's)
_LOADS = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
# <link> relations that only name an address
_NAMES_ONLY = {"canonical", "license", "author", "next", "prev", "index", "search", "alternate"}
_CSS_LOAD = re.compile(r"""(?:url\(|@import\s+(?!url))\s*["']?([^"')\s;]+)""")
_IMPORT = re.compile(r"""\bimport\s*(?:\(|[^;"']*?\bfrom\b|)\s*["'](https?:)?//[^"']+["']""")


class _Page(HTMLParser):
    """Collects what a page loads, where it links, and which anchors it offers."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        self._inside = tag if tag in ("style", "script") else ""
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and set(given.get("rel", "").split()) & _NAMES_ONLY:
            return
        for attribute in _LOADS.get(tag, ()):
            if given.get(attribute):
                several = attribute == "srcset"
                parts = given[attribute].split(",") if several else [given[attribute]]
                self.loads += [part.split()[0] if several else part.strip() for part in parts]
        if given.get("style"):
            self.styles.append(given["style"])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside == "script":
            self.scripts.append(data)


def check_html(folder: Path) -> list[str]:
    """Return what is wrong with the built pages, one sentence each; an empty list is good.

    Wrong is: a script, style, image or font loaded from another host; a local file that is
    missing; a link to an anchor that its page does not have.
    """
    found = (p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts)
    pages = {path: _read(path) for path in found}  # the theme keeps templates in _static
    problems = [] if pages else [f"{folder}: expected HTML pages, found none"]
    for path, page in pages.items():
        name = path.relative_to(folder).as_posix()
        problems += [f"{name}: {text}" for text in _loads(path, page)]
        problems += [f"{name}: {text}" for text in _links(path, page, pages)]
    for path in sorted(folder.rglob("*.css")):
        name = path.relative_to(folder).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        problems += [f"{name}: loads {url} from outside" for url in _outside(_css_loads(text))]
    return problems


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def _loads(path: Path, page: _Page) -> Iterator[str]:
    urls = page.loads + [url for style in page.styles for url in _css_loads(style)]
    for url in _outside(urls):
        yield f"loads {url} from outside"
    for script in page.scripts:
        found = _IMPORT.search(script)
        if found:
            yield f"a script imports from outside: {found.group(0)[:120]}"
    for url in page.loads:
        target = _local(path, url)
        if target is not None and not target.exists():
            yield f"loads {url}, which does not exist"


def _links(path: Path, page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    for url in page.links:
        target = _local(path, url)
        if target is None:
            continue
        anchor = unquote(urlsplit(url).fragment)
        if not target.exists():
            yield f"links to {url}, which does not exist"
        elif anchor and target in pages and anchor not in pages[target].anchors | {"top"}:
            yield f"links to {url}, but that page has no anchor {anchor!r}"


def _local(path: Path, url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    return target / "index.html" if target.is_dir() else target


def _outside(urls: list[str]) -> list[str]:
    return [url for url in urls if urlsplit(url).netloc]


def _css_loads(text: str) -> list[str]:
    return _CSS_LOAD.findall(text)
