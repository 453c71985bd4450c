"""The book's look: style, colours of the methods, and the parts that every kind of plot needs."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from i2p_lib.analysis.methods import CONTROLS, METHODS, present
from i2p_lib.show.picture import as_svg

_CHOSEN = {
    "scratch": "#374151",
    "FIP-IO": "#0f9d76", "control IO": "#08775a",
    "FIP-IO, moving statistics": "#c2559a", "control IO, moving statistics": "#a94488",
    "FIP-IO+BN": "#cf6f1b", "control IO+BN": "#b45309",
    "FIP-ALL": "#2563c9",
}  # fmt: skip
COLOURS: dict[str, str] = {
    method: _CHOSEN.get(method, f"C{number}") for number, method in enumerate(METHODS)
}
"""Name of each method -> its colour, readable on white and on the dark page, and for the colour
blind.  A control is its regime's colour, darker, and its bars are hatched, its lines dash-dotted:
the same layers trained, on a frozen backbone of random weights.  A regime without a chosen colour
takes one of matplotlib's cycle."""
HATCHED = {COLOURS[control] for control in CONTROLS.values()} - {COLOURS["scratch"]}
"""The colours of the controls."""

INK, GREY = "#111827", "#6b7280"  # of lines that are no method's; of what stays behind
TOP1 = "top-1 accuracy on test clouds (%)"
COLLAPSE_TITLES = {
    "cdnv": "CDNV (0 = collapsed)",
    "nc1": "NC1: within / between (0)",
    "nc2_equinorm": "NC2: spread of centre norms (0)",
    "nc2_equiangle": "NC2: spread of centre angles (0)",
    "nc3": "NC3: classifier against centres (0)",
    "nc4": "NC4: nearest centre disagrees (0)",
}
"""Measure of collapse -> what panels and columns call it."""


def use_style() -> None:
    """Give every matplotlib figure that follows the book's look; a notebook shows it `as_svg`."""
    sns.set_theme(style="whitegrid", context="notebook", rc={
        "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold",
        "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.labelsize": 9, "font.size": 9,
        "grid.color": "#e7e9ee", "axes.edgecolor": "#868d99", "legend.frameon": False,
        "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5,
        "legend.handlelength": 3, "figure.labelsize": 9, "font.family": "DejaVu Sans",
        "hatch.linewidth": 1.6, "svg.hashsalt": "i2p",
    })  # fmt: skip
    if hasattr(shell := get_ipython(), "kernel"):  # of a notebook
        shell.run_line_magic("matplotlib", "inline")
        formatters = shell.display_formatter.formatters
        formatters["image/png"].pop(Figure, None)
        formatters["image/svg+xml"].for_type(Figure, as_svg)


def line_style(colour: str) -> str:
    """Return the line style of a method's colour."""
    return "-." if colour in HATCHED else "-"


def plain_log(axis: Axes, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with plain numbers."""
    getattr(axis, f"set_{which}scale")("log")
    side = getattr(axis, f"{which}axis")
    side.set_major_locator(LogLocator(subs=(1, 2, 5)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())


def chance_line(axes: Iterable[Axes], chance: float | None) -> None:
    """Draw the accuracy of guessing (0..1) as a line through all panels, named at the right.

    Vertical grid lines go, as in all plots of bars; nothing else happens where chance is None.
    """
    axes = list(axes)
    for axis in axes:
        axis.grid(axis="x", visible=False)
        if chance is not None:
            axis.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1.2, zorder=4)
    if chance is not None:
        axes[-1].annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"),
                          xytext=(4, 0), textcoords="offset points", va="center",
                          color=GREY, annotation_clip=False)


def method_legend(figure: Figure, methods: Iterable[str],
                  extra: Sequence[tuple[str, Mapping[str, object]]] = (),
                  loc: str = "outside right center", ncols: int = 1) -> None:
    """Put one legend beside all panels: the methods' colours, then what else a line may mean.

    extra: (name, properties of the line), such as ("chance", {"linestyle": ":"}).
    """
    keys = [(m, {"color": COLOURS[m], "linewidth": 2.5, "linestyle": line_style(COLOURS[m])})
            for m in present(methods)] + [*extra]
    handles = [plt.Line2D([], [], label=name, **({"color": INK} | dict(style)))
               for name, style in keys]
    figure.legend(handles=handles, loc=loc, ncols=min(ncols, len(handles)))
