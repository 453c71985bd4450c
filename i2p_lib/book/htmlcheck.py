"""Reading the built pages again: nothing is loaded from elsewhere, and no local link is broken."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

# what a browser fetches by itself; an ordinary <a href> is the reader's
_LOADS = ("src", "href", "xlink:href", "poster", "data")
# <link> relations that only name an address
_NAMES_ONLY = {"canonical", "license", "author", "next", "prev", "index", "search", "alternate"}
_CSS_LOAD = re.compile(r"""(?:url\(|@import\s+(?!url))\s*["']?([^"')\s;]+)""")
_IMPORT = re.compile(r"""\bimport\s*(?:\(|[^;"']*?\bfrom\b|)\s*["'](https?:)?//[^"']+["']""")


def check_html(folder: Path) -> list[str]:
    """Return what is wrong with the built pages, one sentence each; an empty list is good.

    Wrong is: a script, style, image or font loaded from another host; a local file that is
    missing; a link to an anchor that its page does not have.
    """
    folder = folder.resolve()
    # the theme keeps templates in _static
    found = (p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts)
    pages, anchors = {}, {}
    for path in found:
        tags = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find_all(True)
        pages[path] = tags
        anchors[path] = {"top"} | {t[key] for t in tags for key in ("id", "name") if t.get(key)}
    said = [(path, text) for path, tags in pages.items() for text in _faults(path, tags, anchors)]
    for path in sorted(folder.rglob("*.css")):
        urls = _CSS_LOAD.findall(path.read_text(encoding="utf-8", errors="replace"))
        said += [(path, f"loads {url} from outside") for url in urls if urlsplit(url).netloc]
    problems = [f"{path.relative_to(folder).as_posix()}: {text}" for path, text in said]
    return problems if pages else [f"{folder}: expected HTML pages, found none", *problems]


def _faults(path: Path, tags: list[Tag], anchors: dict[Path, set[str]]) -> Iterator[str]:
    for tag in tags:
        if tag.name == "script":
            for text in _IMPORT.finditer(tag.text):
                yield f"a script imports from outside: {text[0][:120]}"
        for url in _loads(tag):
            target = _local(path, url)
            if urlsplit(url).netloc:
                yield f"loads {url} from outside"
            elif target is not None and not target.exists():
                yield f"loads {url}, which does not exist"
        if tag.name == "a" and (url := tag.get("href")):
            target, anchor = _local(path, url), unquote(urlsplit(url).fragment)
            if target is not None and not target.exists():
                yield f"links to {url}, which does not exist"
            elif anchor and anchor not in anchors.get(target, {anchor}):
                yield f"links to {url}, but that page has no anchor {anchor!r}"


def _loads(tag: Tag) -> Iterator[str]:
    """Yield the addresses that a browser fetches by itself for this element."""
    yield from _CSS_LOAD.findall(tag.get("style", ""))
    if tag.name == "style":
        yield from _CSS_LOAD.findall(tag.text)
    if tag.name != "a" and not (tag.name == "link" and _NAMES_ONLY & set(tag.get("rel", ()))):
        yield from (tag[name].strip() for name in _LOADS if tag.get(name))
        yield from (part.split()[0] for part in tag.get("srcset", "").split(",") if part.strip())


def _local(page: Path, url: str) -> Path | None:
    """Return the file that a link of a page names, None where it leads outside."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return target / "index.html" if target.is_dir() else target
