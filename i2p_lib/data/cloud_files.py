"""Reading one cloud from a file as people have them: meshes, scans and tables of points."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from i2p_lib.data.text_tables import BadCloud, read_table

LARGEST = 2**31  # bytes that one file may unpack to
LARGE = 1e15  # coordinates; their squares must be numbers in float32
MOST_COLUMNS = 64
RED_GREEN_BLUE = ("red", "green", "blue")
USUAL = (*RED_GREEN_BLUE, "intensity")
"""Columns beside x, y and z that are taken as features where every file of a set has them."""
GUESSED = {4: ("intensity",), 6: RED_GREEN_BLUE, 7: ("intensity", *RED_GREEN_BLUE)}
"""What columns behind x, y and z are where no header names them, by the number of all columns."""
Guessed = Mapping[int, Sequence[str]]
_NAMES = {"r": "red", "g": "green", "b": "blue", "i": "intensity", "reflectance": "intensity",
          "scalar_intensity": "intensity", "normal_x": "nx", "normal_y": "ny",
          "normal_z": "nz", "class": "label", "classification": "label"}  # fmt: skip


@dataclass(frozen=True)
class CloudFile:
    """What a file holds.

    points: [N, 3] float64, in the file's units.  columns: {name: [N]} of what else it says of
    each point; colours and intensity lie in 0..1.  faces: [F, 3] of a mesh, whose points are its
    vertices; None of a cloud.  dropped: points that were not finite.
    """

    points: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    faces: np.ndarray | None = None
    dropped: int = 0

    @property
    def features(self) -> frozenset[str]:
        """The columns that points drawn from it have: none, of a mesh."""
        return frozenset(self.columns if self.faces is None else ())

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


def read_cloud(path: Path, guessed: Guessed = GUESSED) -> CloudFile:
    """Return what a file of one of the `FORMATS` holds, checked; guessed: as `GUESSED` is.

    Raises BadCloud where it is damaged, empty or of another format, ImportError (what to install)
    where its format needs a package that is not here.
    """
    read = FORMATS[path.suffix.lower()]
    try:
        found = read(path, guessed)
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
    if np.abs(found.points).max(initial=0, where=np.isfinite(found.points)) > LARGE:
        raise BadCloud(f"expected coordinates below {LARGE:g}, got larger ones")
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
    if (points == points[0]).all():
        raise BadCloud(f"all {len(points)} points are equal")
    columns = {name: values[good] for name, values in found.columns.items()}
    return CloudFile(points, columns, dropped=int((~good).sum()))


def _mesh(path: Path, guessed: Guessed) -> CloudFile:
    """A mesh of any number of parts, or the vertices of a file without faces."""
    import trimesh

    scene = trimesh.load_scene(path, process=False)
    parts = [part for part in scene.geometry.values() if len(getattr(part, "vertices", ()))]
    if not parts:
        raise BadCloud("expected vertices, got none")
    said = parts[0].metadata.get("_ply_raw", {}).get("vertex", {})
    if (count := said.get("length", 0)) > len(parts[0].vertices):
        raise BadCloud(f"its header says {count} vertices, got {len(parts[0].vertices)}: it is cut")
    raw = said.get("data", {})
    names = raw if isinstance(raw, dict) else raw.dtype.names or ()
    columns = {name: np.asarray(raw[name]).reshape(-1) for name in names
               if np.size(raw[name]) == len(parts[0].vertices)}  # fmt: skip
    if any(len(getattr(part, "faces", ())) for part in parts):
        whole = scene.to_mesh()
        columns = columns if len(parts) == 1 else {}
        table = _table(np.asarray(whole.vertices, float), columns)
        return CloudFile(table.points, table.columns, np.asarray(whole.faces))
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


def columns_of(array: np.ndarray, names: list[str] | None = None,
               guessed: Guessed = GUESSED) -> CloudFile:
    """Return a cloud of the rows [N, 3 + F] of a table, its columns named or guessed."""
    if array.ndim != 2 or array.shape[1] < 3:
        raise BadCloud("expected rows of x, y, z and more, [N, 3 or more], got "
                       f"{list(array.shape)}")  # fmt: skip
    if array.shape[1] > MOST_COLUMNS:
        raise BadCloud(f"expected at most {MOST_COLUMNS} columns, [N, 3 or more], got "
                       f"{list(array.shape)}: is it transposed?")
    if array.dtype.kind not in "fiu":
        raise BadCloud(f"expected numbers, got {array.dtype}")
    width, rest = array.shape[1], array[:, 3:]
    if names is None:
        names = guessed.get(width, [f"column_{n}" for n in range(4, width + 1)])
        if guessed is GUESSED and width == 6:
            lengths = np.linalg.norm(rest.astype(float), axis=1)
            names = ("nx", "ny", "nz") if np.allclose(lengths, 1, atol=0.01) else names
        names = ["x", "y", "z", *names]
    place = {name.lower(): number for number, name in enumerate(names)}
    at = [place.get(axis, number) for number, axis in enumerate("xyz")]
    others = {name: array[:, n] for n, name in enumerate(names) if n not in at}
    return _table(array[:, at].astype(float), others)


def _numpy(path: Path, guessed: Guessed) -> CloudFile:
    """The rows of an .npy file, or an .npz file of points and what else each of them has."""
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return columns_of(_native(array), guessed=guessed)
    with zipfile.ZipFile(path) as archive:
        if (size := sum(item.file_size for item in archive.infolist())) > LARGEST:
            raise BadCloud(f"would unpack to {size / 1e9:.0f} GB; {LARGEST / 1e9:.0f} are allowed")
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name.lower(): _native(stored[name]) for name in stored.files}
    for name in ("points", "xyz", "pos", "data", "vertices", "coords", "arr_0"):
        if name in arrays:
            found = columns_of(arrays.pop(name), guessed=guessed)
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


def _needed(package: str, path: Path):  # noqa: ANN202
    """The package that reads a format; ImportError says how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{path}: {path.suffix} files need the package {package}: "
                          "pip install 'image2point-book[clouds]'") from error  # fmt: skip


def _pcd(path: Path, guessed: Guessed) -> CloudFile:
    cloud = _needed("pypcd4", path).PointCloud.from_path(path)
    columns = {name: cloud.pc_data[name] for name in cloud.fields}
    if "rgb" in columns:
        packed = columns.pop("rgb")
        packed = packed.view(np.uint32) if packed.dtype.itemsize == 4 else packed.astype(np.uint32)
        columns |= {name: ((packed >> shift) & 255).astype(np.uint8)
                    for name, shift in zip(RED_GREEN_BLUE, (16, 8, 0), strict=True)}  # fmt: skip
    return _table(np.column_stack([columns[axis] for axis in "xyz"]).astype(float), columns)


def _las(path: Path, guessed: Guessed) -> CloudFile:
    las = _needed("laspy", path).read(path)
    here = [name for name in (*USUAL, "classification") if name in las.point_format.dimension_names]
    columns = {name: np.asarray(las[name]) for name in here}
    return _table(np.asarray(las.xyz, float), {k: v for k, v in columns.items() if v.any()})


FORMATS: dict[str, Callable[[Path, Guessed], CloudFile]] = {
    **dict.fromkeys((".ply", ".off", ".obj", ".stl", ".glb", ".gltf"), _mesh),
    **dict.fromkeys((".npy", ".npz"), _numpy),
    **dict.fromkeys((".xyz", ".txt", ".csv", ".pts", ".asc"),
                    lambda path, guessed: columns_of(*read_table(path), guessed)),
    **dict.fromkeys((".las", ".laz"), _las),
    ".pcd": _pcd,
}
"""How the files of each ending are read."""


def seed_of(text: str) -> int:
    """Return a 32-bit seed for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
