"""Reader of the triangles in a VRML 2.0 file, for files that are plain lists of face sets.

trimesh reads no VRML, and the libraries that do are a whole VTK or unmaintained.
"""

from __future__ import annotations

import re

import numpy as np

LARGEST = 16 * 2**20  # bytes of a file
HEADER = b"#VRML V2.0"
# What would change or hide a face set; a file that has one is refused rather than read wrongly.
UNKNOWN = re.compile(
    rb"\b(Transform|Inline|PROTO|Switch|LOD|Box|Cone|Cylinder|Sphere|Extrusion|ElevationGrid)\b"
)


def read_triangles(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return (vertices [V, 3] float64, triangles [T, 3] int64) of all IndexedFaceSets of a file.

    Polygons are cut into fans.  Every face set brings its own coordinates.

    Raises ValueError for a file that is no VRML 2.0, too large, cut short, without a face, with
    nodes other than these, with a coordinate that is no number, or with an index out of range.
    """
    if not content.startswith(HEADER):
        raise ValueError(f"expected a file that begins with {HEADER.decode()}, "
                         f"got {content[:16]!r}")
    if len(content) > LARGEST:
        raise ValueError(f"expected at most {LARGEST} bytes, got {len(content)}")
    text = re.sub(rb"#[^\n]*", b"", content)
    if node := UNKNOWN.search(text):
        raise ValueError(f"the node {node[0].decode()} is not read: only face sets in the file's "
                         "own frame are")
    vertices, polygons, first = [], [], 0
    for number, body in enumerate(text.split(b"IndexedFaceSet")[1:]):
        points = _numbers(body, b"point", number, np.float64)
        if len(points) % 3 or not np.isfinite(points).all():
            raise ValueError(f"face set {number}: expected finite x y z for each point, "
                             f"got {len(points)} numbers")
        index = np.append(_numbers(body, b"coordIndex", number, np.int64), -1)
        count = len(points) // 3
        if not -1 <= index.min() <= index.max() < count:
            raise ValueError(f"face set {number}: expected indices 0 to {count - 1}, or -1, "
                             f"got {index.min()} to {index.max()}")
        vertices.append(points.reshape(-1, 3))
        polygons.append(np.where(index == -1, -1, index + first))
        first += count
    triangles = _fans(np.concatenate(polygons)) if polygons else ()
    if not len(triangles):
        raise ValueError("no face in any IndexedFaceSet")
    return np.concatenate(vertices), triangles


def _numbers(body: bytes, field: bytes, number: int, kind: type) -> np.ndarray:
    """Return the numbers of the one list `field [...]` of a face set."""
    found = re.findall(rb"\b" + field + rb"\s*\[([^\[\]]*)\]", body)
    if len(found) != 1:
        raise ValueError(f"face set {number}: expected one list '{field.decode()} [...]', "
                         f"got {len(found)}")
    try:
        return np.array(found[0].replace(b",", b" ").split(), dtype=kind)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"face set {number}: {field.decode()}: {error}") from error


def _fans(index: np.ndarray) -> np.ndarray:
    """Return the triangles [T, 3] of polygons that are lists of indices, each ended by -1."""
    ends = np.flatnonzero(index == -1)
    starts = np.append(0, ends[:-1] + 1)
    corners = np.maximum(ends - starts - 2, 0)  # triangles of each polygon
    hub = np.repeat(starts, corners)
    step = np.arange(corners.sum()) - np.repeat(corners.cumsum() - corners, corners)
    return np.stack([index[hub], index[hub + step + 1], index[hub + step + 2]], axis=1)
