"""Everybody can tell the colours apart, on white and on dark pages; figures say what they show."""

from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from i2p_lib.analysis.methods import CONTROLS
from i2p_lib.show import bars, lines, picture, style, turning

matplotlib.use("agg")
PAGES = {"light": "#ffffff", "dark": "#14181e"}  # the background of the theme
# how dichromats see linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)
SEEN = {
    "all": np.eye(3),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                          [-0.011820, 0.042940, 0.968881]]),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    parts = np.array([*bytes.fromhex(colour[1:])]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2: 1 to 21."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def distance(one: str, other: str, seen: np.ndarray) -> float:
    """How far two colours are apart in CIELAB, as somebody sees them."""
    both = [TO_XYZ @ np.clip(seen @ linear(c), 0, 1) / (0.9505, 1, 1.089) for c in (one, other)]
    f = [np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116) for xyz in both]
    lab = [np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]) for x, y, z in f]
    return float(np.linalg.norm(lab[0] - lab[1]))


def on_page(colour: str, page: str) -> str:
    """A colour as the page shows it: greys of an SVG are turned round on the dark one."""
    grey = page == "dark" and picture.greys(colour)
    return picture.at_night(colour) if grey else colour


@pytest.mark.parametrize("page", PAGES)
def test_graphics_and_texts_of_figures_stand_out_from_the_page(page: str) -> None:
    """Promise: 3 : 1 for graphics, 4.5 : 1 for texts, by WCAG 2, in light and dark mode."""
    drawn = [c for c in style.COLOURS.values() if c.startswith("#")]
    for colour in [*drawn, *turning.PALETTE, turning.UNCOUNTED, "#868d99"]:
        assert contrast(on_page(colour, page), PAGES[page]) >= 3, colour
    for colour in (style.INK, style.GREY, "#262626"):
        assert contrast(on_page(colour, page), PAGES[page]) >= 4.5, colour


@pytest.mark.parametrize("seen", SEEN)
def test_methods_differ_for_the_colour_blind(seen: str) -> None:
    """Promise: no two methods look alike, except where one is hatched and dash-dotted."""
    chosen = [c for c in style.COLOURS.values() if c.startswith("#")]
    sides = [[c for c in chosen if (c in style.HATCHED) == hatched] for hatched in (False, True)]
    for one, other in (pair for side in sides for pair in combinations(side, 2)):
        assert distance(one, other, SEEN[seen]) > 15, (one, other)


def test_controls_are_hatched_and_dash_dotted() -> None:
    controls = {style.COLOURS[name] for name in CONTROLS.values() if name != "scratch"}
    assert controls == style.HATCHED
    runs = pd.DataFrame({"weights": ["random", "imagenet1k"], "regime": "io", "top1": [0.4, 0.6]})
    (axis,) = bars.method_bars(runs).axes
    assert [bar.get_hatch() for bar in axis.patches] == [None, "///"]  # FIP-IO, control IO
    figure, axis = plt.subplots()
    table = pd.DataFrame({"x": [0, 1, 0, 1], "y": [0, 1, 1, 0],
                          "method": ["FIP-IO", "FIP-IO", "control IO", "control IO"]})
    lines.method_lines(axis, table, "x", "y")
    assert [line.get_linestyle() for line in axis.lines] == ["-", "-."]
    plt.close("all")


def test_a_figure_is_an_svg_of_the_pages_width_that_is_said_in_words() -> None:
    style.use_style()
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.scatter(*np.random.default_rng(0).normal(size=(2, picture.MOST_DOTS + 1)), label="dots")
    axis.set(title="many dots", xlabel="how far", ylabel="how high")
    axis.legend()
    svg, about = picture.as_svg(figure)
    assert f'width="{72 * picture.WIDTH:g}pt" height="216pt"' in svg
    assert svg.count("<image") == 1, "many dots are a picture"
    assert about["alt"] == "Panels: many dots. Across: how far. Up: how high. Legend: dots."
    assert "@media (prefers-color-scheme: dark)" in svg
    assert picture.as_svg(figure)[0] == svg, "the same figure gives the same bytes"
    plt.close(figure)


def test_a_title_is_wrapped_to_its_panel() -> None:
    figure, axes = plt.subplots(1, 5, layout="constrained")
    axes[0].set_title("as long a title as no panel so narrow could ever hold", loc="left")
    picture.as_svg(figure)
    assert "\n" in axes[0].get_title("left")
    plt.close(figure)
