"""Reading one cloud from a file as people have them: meshes, scans and tables of points."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

LARGEST = 2**31  # bytes that one file may unpack to
RED_GREEN_BLUE = ("red", "green", "blue")
USUAL = (*RED_GREEN_BLUE, "intensity")
"""Columns beside x, y and z that are taken as features where every file of a set has them."""
_NAMES = {"r": "red", "g": "green", "b": "blue", "i": "intensity", "reflectance": "intensity",
          "scalar_intensity": "intensity", "normal_x": "nx", "normal_y": "ny",
          "normal_z": "nz", "class": "label", "classification": "label"}  # fmt: skip


class BadCloud(ValueError):
    """A file that is no cloud; the message says what was expected and what was got."""


@dataclass(frozen=True)
class CloudFile:
    """What a file holds.

    points: [N, 3] float64, in the file's units.  columns: {name: [N]} of what else it says of
    each point; colours and intensity lie in 0..1.  dropped: points that were not finite.
    faces: [F, 3] of a mesh, whose points are its vertices; None of a cloud.
    """

    points: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    faces: np.ndarray | None = None
    dropped: int = 0

    def drawn(self, count: int, seed: int, names: tuple[str, ...] = ()) -> np.ndarray:
        """Return `count` points in random order, float64 [count, 3 + len(names)].

        Of a mesh they are drawn uniformly from its surface.  Of a cloud they are a random part or,
        where it has fewer points, all of them and random ones again.
        """
        random = np.random.default_rng(seed)
        if self.faces is not None:
            import trimesh

            mesh = trimesh.Trimesh(self.points, self.faces, process=False)
            return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])
        have = len(self.points)
        order = random.permutation(have)[:count]
        if have < count:
            order = np.concatenate([order, random.integers(0, have, count - have)])
        return np.column_stack([self.points, *(self.columns[name] for name in names)])[order]


def read_cloud(path: Path) -> CloudFile:
    """Return what a file of one of the `FORMATS` holds, checked.

    Raises BadCloud where it is damaged, empty or of another format, ImportError (what to install)
    where its format needs a package that is not here.
    """
    read = FORMATS[path.suffix.lower()]
    try:
        found = read(path)
    except (BadCloud, ImportError, FileNotFoundError):
        raise
    except Exception as error:  # what is damaged fails in many ways inside the libraries
        kind = path.suffix[1:]
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadCloud(f"expected a whole .{kind} file, which cannot be read ({text})") from error
    return checked(found)


def checked(found: CloudFile) -> CloudFile:
    """Return a cloud without the points that are not finite; BadCloud where nothing is left."""
    what = "points" if found.faces is None else "vertices"
    if found.points.ndim != 2 or found.points.shape[1] != 3:
        raise BadCloud(f"expected {what} [N, 3], got {list(found.points.shape)}")
    good = np.isfinite(np.column_stack([found.points, *found.columns.values()])).all(axis=1)
    if found.faces is not None:
        if not good.all():
            raise BadCloud(f"vertex {good.argmin()} is not finite")
        corners = found.points[found.faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        if not np.linalg.norm(area, axis=1).sum() > 0:
            raise BadCloud("expected a surface, got faces without area")
        return found
    points = found.points[good]
    if not len(points):
        raise BadCloud(f"expected at least one finite point, got {len(found.points)} points")
    if len(points) > 1 and (points == points[0]).all():
        raise BadCloud(f"all {len(points)} points are equal")
    columns = {name: values[good] for name, values in found.columns.items()}
    return CloudFile(points, columns, dropped=int((~good).sum()))


def _mesh(path: Path) -> CloudFile:
    """A mesh of any number of parts, or the vertices of a file without faces."""
    import trimesh

    scene = trimesh.load_scene(path, process=False)
    parts = [part for part in scene.geometry.values() if len(getattr(part, "vertices", ()))]
    if not parts:
        raise BadCloud("expected vertices, got none")
    if any(len(getattr(part, "faces", ())) for part in parts):
        whole = scene.to_mesh()
        return CloudFile(np.asarray(whole.vertices, float), faces=np.asarray(whole.faces))
    raw = parts[0].metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})
    columns = {name: np.asarray(values).reshape(-1) for name, values in raw.items()
               if np.size(values) == len(parts[0].vertices)}  # fmt: skip
    return _table(np.asarray(parts[0].vertices, float), columns)


def _table(points: np.ndarray, columns: dict[str, np.ndarray]) -> CloudFile:
    """A cloud from its columns: names as the field has them, colours and intensity in 0..1."""
    named = {_NAMES.get(name.lower(), name.lower()): values for name, values in columns.items()}
    kept = {name: values for name, values in named.items() if name not in ("x", "y", "z", "alpha")}
    colours = [name for name in RED_GREEN_BLUE if name in kept]
    for group in (colours, [name for name in kept if name == "intensity"]):
        top = max((_top(kept[name]) for name in group), default=1.0)
        kept |= {name: kept[name] / top for name in group}
    return CloudFile(points, {name: np.asarray(value, float) for name, value in kept.items()})


def _top(values: np.ndarray) -> float:
    """The value that stands for full: by the kind of number, else by what occurs."""
    if values.dtype == np.uint8:
        return 255.0
    most = float(np.nanmax(values, initial=0.0))
    return 1.0 if most <= 1 else 255.0 if most <= 255 else 65535.0


def columns_of(array: np.ndarray, names: list[str] | None = None) -> CloudFile:
    """A cloud from the rows [N, 3 + F] of a table, its columns named or guessed."""
    if array.ndim != 2 or array.shape[1] < 3:
        raise BadCloud(f"expected rows of x, y, z and more, [N, 3 or more], got "
                       f"{list(array.shape)}")  # fmt: skip
    if array.dtype.kind not in "fiu":
        raise BadCloud(f"expected numbers, got {array.dtype}")
    width, rest = array.shape[1], array[:, 3:]
    if names is None:
        lengths = np.linalg.norm(rest.astype(float), axis=1)
        normals = width == 6 and np.allclose(lengths, 1, atol=0.01)
        guessed = {4: ("intensity",), 6: ("nx", "ny", "nz") if normals else RED_GREEN_BLUE,
                   7: ("intensity", *RED_GREEN_BLUE)}.get(width)  # fmt: skip
        names = ["x", "y", "z", *(guessed or (f"column_{n}" for n in range(4, width + 1)))]
    place = {name.lower(): number for number, name in enumerate(names)}
    at = [place.get(axis, number) for number, axis in enumerate("xyz")]
    others = {name: array[:, n] for n, name in enumerate(names) if n not in at}
    return _table(array[:, at].astype(float), others)


def _numpy(path: Path) -> CloudFile:
    """The rows of an .npy file, or an .npz file of points and what else each of them has."""
    if path.suffix == ".npy":
        return columns_of(_native(np.load(path, mmap_mode="r", allow_pickle=False)))
    with zipfile.ZipFile(path) as archive:
        if (size := sum(item.file_size for item in archive.infolist())) > LARGEST:
            raise BadCloud(f"would unpack to {size / 1e9:.0f} GB; {LARGEST / 1e9:.0f} are allowed")
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name.lower(): _native(stored[name]) for name in stored.files}
    for name in ("points", "xyz", "pos", "data", "vertices", "coords", "arr_0"):
        if name in arrays:
            found = columns_of(arrays.pop(name))
            break
    else:
        raise BadCloud(f"expected an array named points, xyz, pos or data, got {sorted(arrays)}")
    more = {}
    for name, values in arrays.items():
        if name in ("colors", "colours", "rgb", "color") and values.shape[1:] == (3,):
            more |= dict(zip(RED_GREEN_BLUE, values.T, strict=True))
        elif values.shape == (len(found.points),):
            more[name] = values
    return CloudFile(found.points, found.columns | _table(found.points, more).columns)


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _text(path: Path) -> CloudFile:
    """A table of points: blanks, commas or semicolons between them, a header or none."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        head = list(islice(file, 50))
    skipped, names = 0, None
    for line in head:
        words = _words(line)
        if words and all(map(_number, words)) and len(words) > 1:
            break
        if words and len(words) >= 3 and {"x", "y", "z"} <= {word.lower() for word in words}:
            names = words
        elif words and not line.lstrip().startswith(("#", "//")) and len(words) > 1:
            raise BadCloud(f"line {skipped + 1}: expected numbers, got {line.strip()[:40]!r}")
        skipped += 1
    else:
        raise BadCloud("expected lines of x, y and z, got none")
    mark = next((mark for mark in ",;" if mark in head[skipped]), r"\s+")
    width = len(_words(head[skipped]))
    try:
        rows = pd.read_csv(
            path,
            sep=mark,
            header=None,
            skiprows=skipped,
            dtype=float,
            comment="#",
            usecols=range(width),
            encoding="utf-8-sig",
            encoding_errors="replace",
        )
    except (ValueError, pd.errors.ParserError):
        rows = None
    if rows is None or rows.isna().to_numpy().any():
        if fault := _fault(path, skipped, width):
            raise BadCloud(fault)
    if names and len(names) != width:
        raise BadCloud(f"the header names {len(names)} columns, the rows have {width}")
    return columns_of(rows.to_numpy(), names)


def _fault(path: Path, skipped: int, width: int) -> str:
    """What is wrong with the first bad line of a table."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            words = _words(line.partition("#")[0])
            if number <= skipped or not words:
                continue
            if len(words) != width or not all(map(_number, words)):
                return f"line {number}: expected {width} numbers, got {line.strip()[:40]!r}"
    return ""


def _words(line: str) -> list[str]:
    return re.split(r"[,;\s]+", line.strip().lstrip("#/ ").rstrip(",;")) if line.strip() else []


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _needed(package: str, path: Path):  # noqa: ANN202
    """The package that reads a format; ImportError says how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{path}: {path.suffix} files need the package {package}: "
                          "pip install 'image2point-book[clouds]'") from error  # fmt: skip


def _pcd(path: Path) -> CloudFile:
    cloud = _needed("pypcd4", path).PointCloud.from_path(path)
    columns = {name: cloud.pc_data[name] for name in cloud.fields}
    if "rgb" in columns:
        packed = columns.pop("rgb")
        packed = packed.view(np.uint32) if packed.dtype.itemsize == 4 else packed.astype(np.uint32)
        columns |= {name: ((packed >> shift) & 255).astype(np.uint8)
                    for name, shift in zip(RED_GREEN_BLUE, (16, 8, 0), strict=True)}  # fmt: skip
    return _table(np.column_stack([columns[axis] for axis in "xyz"]).astype(float), columns)


def _las(path: Path) -> CloudFile:
    las = _needed("laspy", path).read(path)
    here = [name for name in (*USUAL, "classification") if name in las.point_format.dimension_names]
    columns = {name: np.asarray(las[name]) for name in here}
    return _table(np.asarray(las.xyz, float), {k: v for k, v in columns.items() if v.any()})


FORMATS: dict[str, Callable[[Path], CloudFile]] = {
    **dict.fromkeys((".ply", ".off", ".obj", ".stl", ".glb", ".gltf"), _mesh),
    **dict.fromkeys((".npy", ".npz"), _numpy),
    **dict.fromkeys((".xyz", ".txt", ".csv", ".pts", ".asc"), _text),
    **dict.fromkeys((".las", ".laz"), _las),
    ".pcd": _pcd,
}
"""How the files of each ending are read."""


def seed_of(text: str) -> int:
    """Return a 32-bit seed for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
