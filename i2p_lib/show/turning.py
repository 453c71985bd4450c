"""Labelled clouds side by side that turn together: HTML that needs only the book's plotly.js."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

UNCOUNTED = "#8b929c"
PALETTE = (
    "#5e94d0", "#9c755f", "#859866", "#914ab3", "#e15759", "#399e9e", "#c17aae", "#dc740e",
    "#2f6fb7", "#ae8d16", "#4c9f50", "#516b8f", "#b07aa1", "#d4405f", "#3c8d7d", "#8c6d31",
    "#87993d", "#7a58ad", "#c026d3",
)  # fmt: skip
"""Colour of each class, by its number; as many as SemanticKITTI has classes."""
MOST_POINTS = 9000
_LINKED = Path(__file__).with_name("linked.js")


def clouds_html(clouds: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: Sequence[str],
                title: str) -> str:
    """Return labelled clouds side by side, turned together, and a legend, as HTML.

    clouds: heading -> (points [P, 3], classes [P], negative where not counted).  At most
    MOST_POINTS points of each are drawn, evenly thinned out.  Texts are escaped.
    """
    from plotly.subplots import make_subplots

    if not clouds:
        return "<p>This profile ran no network on such scenes.</p>"
    colours = [UNCOUNTED, *PALETTE[: len(class_names)]]
    steps = np.arange(len(colours) + 1) / len(colours)
    scale = [[edge, c] for i, c in enumerate(colours) for edge in (steps[i], steps[i + 1])]
    figure = make_subplots(1, len(clouds), specs=[[{"type": "scene"}] * len(clouds)],
                           horizontal_spacing=0, subplot_titles=[escape(name) for name in clouds])
    for column, (points, classes) in enumerate(clouds.values(), start=1):
        chosen = np.linspace(0, len(points) - 1, min(MOST_POINTS, len(points))).round().astype(int)
        x, y, z = points[chosen].astype(np.float32).T
        figure.add_scatter3d(
            x=x, y=y, z=z, mode="markers", hoverinfo="skip", showlegend=False, row=1, col=column,
            marker={"size": 1.8, "color": classes[chosen].astype(np.int16), "colorscale": scale,
                    "cmin": -1.5, "cmax": len(class_names) - 0.5})  # fmt: skip
    hidden = {"visible": False}
    figure.update_scenes(aspectmode="data", xaxis=hidden, yaxis=hidden, zaxis=hidden,
                         camera_eye={"x": 1.6, "y": 1.6, "z": 1.4})
    figure.update_annotations(font_size=12)
    figure.update_layout(title={"text": escape(title), "font": {"size": 14}}, height=430,
                         paper_bgcolor="rgba(0,0,0,0)", margin={"l": 0, "r": 0, "t": 64, "b": 0})
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False},
                           post_script=_LINKED.read_text(encoding="utf-8"))
    seen = np.unique(np.concatenate([classes for _, classes in clouds.values()])).tolist()
    entries = [(PALETTE[c], class_names[c]) if c >= 0 else (UNCOUNTED, "not counted") for c in seen]
    legend = "".join(
        f'<span style="white-space:nowrap;margin-right:1em"><span style="display:inline-block;'
        f"width:.8em;height:.8em;border-radius:50%;background:{colour};margin-right:.35em"
        f'"></span>{escape(name)}</span> '
        for colour, name in entries
    )
    return f'{drawn}<p style="font-size:.85em">{legend}</p>'
