"""A figure as the pages take it: SVG of one width, for light and dark pages, and said in words."""

import io
import re
import textwrap

from matplotlib.collections import Collection, QuadMesh
from matplotlib.figure import Figure

WIDTH = 8.2  # inches: the column of a page, so that all figures have one size of letters
MOST_DOTS = 400  # more of one collection become a picture inside the SVG


def as_svg(figure: Figure) -> tuple[str, dict[str, str]]:
    """Return a figure as SVG, WIDTH wide, and metadata: its written alternative ("alt").

    Plots keep their height, pictures and clouds their shape.  On a dark page the greys are light.
    """
    (width, height), axes = figure.get_size_inches(), figure.axes
    shaped = any(axis.get_aspect() != "auto" or axis.name == "3d" for axis in axes)
    figure.set_size_inches(WIDTH, height * min(1, WIDTH / width if shaped else 1))
    for drawn in figure.findobj(Collection):
        solid = isinstance(drawn, QuadMesh) or hasattr(drawn, "do_3d_projection")
        drawn.set_rasterized(solid or len(drawn.get_offsets()) > MOST_DOTS)
    figure.draw_without_rendering()  # which lays it out
    for axis in axes:
        for text in (axis.title, axis._left_title, axis.xaxis.label):
            share = axis.bbox.width / max(text.get_window_extent().width, 1)
            if share < 0.95:
                text.set_text(textwrap.fill(text.get_text(), int(share * len(text.get_text()))))
    made = io.StringIO()
    figure.savefig(made, format="svg", transparent=True, dpi=160,
                   metadata={"Date": None, "Creator": None})
    svg = made.getvalue()
    night = "".join(f'[style*="{part}: {grey}"]{{{part}:{at_night(grey)}!important}}'
                    for grey in sorted(greys(svg)) for part in ("fill", "stroke"))
    style = f"<style>@media (prefers-color-scheme: dark){{{night}}}</style>"
    return svg.replace("<defs>", f"{style}<defs>", 1), {"alt": in_words(figure)}


def greys(svg: str) -> set[str]:
    """Return the colours of an SVG that are nearly grey."""
    found = {colour: bytes.fromhex(colour[1:]) for colour in re.findall(r"#[0-9a-f]{6}\b", svg)}
    return {colour for colour, parts in found.items() if max(parts) - min(parts) < 32}


def at_night(grey: str) -> str:
    """Return what a grey is on a dark page: black becomes nearly white, white nearly black.

    >>> at_night("#000000"), at_night("#ffffff")
    ('#f0f0f0', '#282828')
    """
    return "#" + "".join(f"{240 - round(200 * part / 255):02x}" for part in bytes.fromhex(grey[1:]))


def in_words(figure: Figure) -> str:
    """Return what a figure has: its panels, axes and legends, or else the texts drawn in it."""
    axes = figure.axes
    legends = [*figure.legends, *(axis.get_legend() for axis in axes)]
    said = {
        "Panels": [axis.get_title(where) for axis in axes for where in ("left", "center")],
        "Across": [figure.get_supxlabel(), *(axis.get_xlabel() for axis in axes)],
        "Marks": [text for axis in axes for side in (axis.xaxis, axis.yaxis) for text in
                  (label.get_text() for label in side.get_ticklabels()) if text[:1].isalpha()],
        "Up": [figure.get_supylabel(), *(axis.get_ylabel() for axis in axes)],
        "Legend": [text.get_text() for legend in legends if legend for text in legend.get_texts()],
    }
    if not any(any(texts) for texts in said.values()):
        said = {"Drawn": [text.get_text() for axis in axes for text in axis.texts]}
    parts = {name: dict.fromkeys(filter(None, texts)) for name, texts in said.items()}
    lines = (f"{name}: {', '.join(texts)}." for name, texts in parts.items() if texts)
    return re.sub(r"\s+", " ", " ".join(lines))
