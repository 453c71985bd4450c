"""Make a folder of your own clouds to try the book on: letters of fonts, as solid meshes.

Contract: from the fonts that matplotlib brings the script writes

    {train,val,test}/A/DejaVuSans.ply ...    one closed mesh a letter and font, z up

in the formats .ply, .off, .obj, .stl and .glb by turn, as folders of people are mixed.  Families of
fonts are the splits, so that the test asks for letters in handwriting that was not in training:
train has DejaVu Sans, DejaVu Serif and Computer Modern, val DejaVu Sans Mono, test STIX.
--faults adds two files that cannot be used: a mesh cut short and a table with a bad line.
The same fonts give the same files.  It takes a few seconds.

Examples:
    python data_scripts/make_letters.py
    python data_scripts/make_letters.py --output my_letters --letters ABCD --faults
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import trimesh
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from scipy.spatial import Delaunay

from i2p_lib.data.making import data_folder

LETTERS = "ABCDEGHKMNOPRSTX"
FONTS = {
    "train": ("DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSans-BoldOblique "
              "DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSerif-BoldItalic "
              "cmr10 cmb10 cmss10 cmti10 cmtt10 cmmi10").split(),
    "val": ("DejaVuSansMono DejaVuSansMono-Bold DejaVuSansMono-Oblique "
            "DejaVuSansMono-BoldOblique").split(),
    "test": "STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta".split(),
}  # fmt: skip
FORMATS = ("ply", "off", "obj", "stl", "glb")
DEPTH = 0.25  # of a letter, as a share of its height
STEP = 0.03  # between points of an outline, as a share of its height


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__[__doc__.index("Examples:"):],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="folder (default: letters, among the data)")
    parser.add_argument("--letters", default=LETTERS, help=f"default: {LETTERS}")
    parser.add_argument("--faults", action="store_true", help="add two files that are damaged")
    options = parser.parse_args()
    if not options.letters.isalpha() or len(set(options.letters)) < 2:
        parser.error(f"--letters: expected two or more letters, got {options.letters!r}")
    write(options.output or data_folder("letters"), options.letters, options.faults)


def write(folder: Path, letters: str, faults: bool = False) -> None:
    """Write a mesh of each letter in each font."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for split, names in FONTS.items():
        for letter in dict.fromkeys(letters):
            place = folder / split / letter
            place.mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(names):
                mesh = solid(outline(letter, fonts / f"{name}.ttf"))
                mesh.export(place / f"{name}.{FORMATS[number % len(FORMATS)]}")
    if faults:
        first = folder / "train" / letters[0]
        (first / "cut short.off").write_text("OFF\n8 12 0\n0 0 0\n1 0\n", encoding="utf-8")
        (first / "bad line.xyz").write_text("0 0 0\n0 0 1\n0 one 0\n", encoding="utf-8")
    print(f"{folder}: {sum(map(len, FONTS.values()))} fonts of {len(set(letters))} letters")


def outline(letter: str, font: Path) -> list[np.ndarray]:
    """Return the closed curves of a letter of height about 1, each [K, 2], evenly spaced."""
    path = TextPath((0, 0), letter, size=100, prop=FontProperties(fname=str(font)))
    curves = [curve[:-1] for curve in path.to_polygons(closed_only=True) if len(curve) > 3]
    height = np.ptp(np.concatenate(curves)[:, 1])
    return [_evenly(curve / height) for curve in curves]


def _evenly(curve: np.ndarray) -> np.ndarray:
    """Points along a closed curve, STEP apart."""
    whole = np.vstack([curve, curve[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(whole, axis=0), axis=1))])
    places = np.linspace(0, along[-1], max(4, round(along[-1] / STEP)), endpoint=False)
    return np.column_stack([np.interp(places, along, whole[:, axis]) for axis in (0, 1)])


def solid(curves: list[np.ndarray]) -> trimesh.Trimesh:
    """Return a letter as a closed body: front, back, and walls along its curves."""
    flat = np.concatenate(curves)
    triangles = Delaunay(flat).simplices
    middles = flat[triangles].mean(axis=1)
    inside = np.sum([Outline(curve).contains_points(middles) for curve in curves], axis=0) % 2 == 1
    front, count = triangles[inside], len(flat)
    walls, start = [], 0
    for curve in curves:
        one = start + np.arange(len(curve))
        two = start + np.roll(np.arange(len(curve)), -1)
        for corners in ([one, two, one + count], [two, two + count, one + count]):
            walls.append(np.stack(corners, 1))
        start += len(curve)
    faces = np.concatenate([front, front[:, ::-1] + count, *walls])
    x, z = flat.T
    points = [np.column_stack([x, np.full(count, y), z]) for y in (-DEPTH / 2, DEPTH / 2)]
    return trimesh.Trimesh(np.concatenate(points), faces, process=False)


if __name__ == "__main__":
    main()
