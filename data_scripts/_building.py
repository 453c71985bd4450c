"""What the build scripts share: Debian packages, clouds from surfaces, groups, splits, files."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import trimesh
from scipy.spatial import cKDTree
from tqdm.auto import tqdm

from i2p_lib.files import atomic_write, sha256

POINTS = 2048
GRID = 4096  # coordinates are multiples of 1/GRID: exact in float32, and they compress well
SPLITS = {"train": 0.60, "val": 0.15, "test": 0.25}
SAME_SHAPE = 1.10  # Chamfer distance, in units of what two draws of one surface differ by
SAME_EXTENT = 0.10  # the sides of the two boxes may differ by this much
LARGEST_MEMBER = 2**28  # bytes of one file of a package


def download(package: str, scratch: Path) -> Path:
    """Return the .deb of a Debian package, fetched by apt-get into `scratch`.

    Raises FileNotFoundError where that does not work.
    """
    try:
        subprocess.run(["apt-get", "download", package], cwd=scratch, check=True)
        return next(scratch.glob(f"{package}*.deb"))
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        raise FileNotFoundError(
            f"{package} is not installed and `apt-get download {package}` did not work ({error}); "
            "fetch the .deb from a Debian mirror and give its path"
        ) from error


def unpack_deb(deb: Path, folder: Path, endings: tuple[str, ...]) -> None:
    """Unpack the files of a .deb whose names end so: an `ar` archive with a member data.tar.*.

    Raises ValueError for what is no Debian package, and for a file above LARGEST_MEMBER.
    """
    with open(deb, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{deb} is not a Debian package (no `ar` header)")
        while header := file.read(60):
            name, size = header[:16].decode().strip(), int(header[48:58])
            if name.startswith("data.tar"):
                with tqdm.wrapattr(file, "read", total=size, desc="unpack") as data:
                    _unpack_tar(data, deb, folder, endings)
                return
            file.seek(size + size % 2, 1)
    raise ValueError(f"{deb} has no data.tar member")


def _unpack_tar(data, deb: Path, folder: Path, endings: tuple[str, ...]) -> None:
    try:
        with tarfile.open(fileobj=data, mode="r|*") as tar:
            for member in tar:
                if not (member.isfile() and member.name.endswith(endings)):
                    continue
                if member.size > LARGEST_MEMBER:
                    raise ValueError(f"{deb}: {member.name} has {member.size} bytes, "
                                     f"more than {LARGEST_MEMBER}")
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{deb} is damaged or cut short ({error}): fetch it again") from error


def seed_of(text: str) -> int:
    """Return a 32-bit seed that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def cloud_of(mesh: trimesh.Trimesh, name: str) -> np.ndarray:
    """Return a mesh's cloud: [2048, 3] float32, drawn by `name`, normalised, on the grid.

    Uniform over the surface, mean at the origin, farthest point on the unit sphere, rounded
    towards zero to multiples of 1/GRID.
    """
    points, _ = trimesh.sample.sample_surface(mesh, POINTS, seed=seed_of(name))
    points = points - points.mean(axis=0)
    points = points / np.linalg.norm(points, axis=1).max()
    return (np.trunc(points * GRID) / GRID).astype(np.float32)


# --- groups and splits ------------------------------------------------------------------------

def shape_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the least mean Chamfer distance over quarter turns about z, in units of chance.

    The unit is the distance between the two halves of one cloud, so that two draws from one
    surface are about 1.0 apart.
    """
    unit = (_chamfer(a[::2], a[1::2]) + _chamfer(b[::2], b[1::2])) / 2
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=a.dtype)
    best = np.inf
    for _ in range(4):
        best = min(best, _chamfer(a[::2], b[1::2]))
        b = b @ turn
    return float(best / unit)


def _chamfer(a: np.ndarray, b: np.ndarray) -> float:
    return float(cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2


def extent(cloud: np.ndarray) -> np.ndarray:
    """Return the sides of a cloud's box, rising."""
    return np.sort(np.ptp(cloud, axis=0))


def same_shape(a: np.ndarray, b: np.ndarray, extent_a: np.ndarray, extent_b: np.ndarray) -> bool:
    """Say whether two clouds are one shape: closer than SAME_EXTENT and SAME_SHAPE."""
    near = np.abs(extent_a - extent_b).max() < SAME_EXTENT
    return bool(near and shape_distance(a, b) < SAME_SHAPE)


def group_objects(
    clouds: dict[str, np.ndarray], labels: dict[str, int], known: Iterable[list[str]]
) -> dict[str, str]:
    """Return the group of every object, named by its first member.

    Two objects of one class are grouped when a list of `known` holds both, or when their shapes
    are closer than SAME_SHAPE and SAME_EXTENT; groups are closed under that relation.
    """
    group = {name: name for name in clouds}
    members = {name: [name] for name in clouds}

    def join(a: str, b: str) -> None:
        first, second = sorted((group[a], group[b]))
        if first != second:
            group.update(dict.fromkeys(members[second], first))
            members[first] += members.pop(second)

    for together in known:
        here = [name for name in together if name in clouds]
        for other in here[1:]:
            join(here[0], other)
    names = sorted(clouds)
    extents = {name: extent(clouds[name]) for name in names}
    for i, a in enumerate(tqdm(names, desc="compare shapes", unit="object")):
        for b in names[i + 1 :]:
            if labels[a] != labels[b] or group[a] == group[b]:
                continue
            if same_shape(clouds[a], clouds[b], extents[a], extents[b]):
                join(a, b)
    return group


def split_class(groups: dict[str, str], draw: str = "") -> dict[str, str]:
    """Return the split of each object of one class; `groups` maps object -> group.

    Larger groups first, equal ones in the order of the hash of `draw` and their name; each goes
    where most is missing.
    """
    members = defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    missing = {split: share * len(groups) for split, share in SPLITS.items()}
    chosen = {}
    for group in sorted(members, key=lambda name: (-len(members[name]), seed_of(draw + name))):
        split = max(missing, key=missing.__getitem__)
        missing[split] -= len(members[group])
        chosen.update(dict.fromkeys(members[group], split))
    return chosen


def file_order(split: dict[str, str]) -> list[str]:
    """Return the objects in the order of the files: by split, then by the hash of their name."""
    return sorted(split, key=lambda name: (list(SPLITS).index(split[name]), seed_of(name)))


# --- writing ----------------------------------------------------------------------------------

def write_set(
    output: Path, rows: list[dict], clouds: dict, class_names: list[str], licence: str
) -> None:
    """Write clouds, listings, licence and provenance; `rows` are the provenance, in file order."""
    for split in SPLITS:
        chosen = [row for row in rows if row["split"] == split]
        data = np.stack([clouds[row["id"]] for row in chosen])
        label = np.array([[class_names.index(row["class"])] for row in chosen], dtype=np.uint8)
        with atomic_write(output / f"ply_data_{split}0.h5") as temp:
            with h5py.File(temp, "w") as file:
                file.create_dataset(
                    "data", data=data, chunks=(1, POINTS, 3), shuffle=True,
                    compression="gzip", compression_opts=9,
                )
                file.create_dataset("label", data=label)
        _write(output / f"{split}_files.txt", f"ply_data_{split}0.h5\n")
    _write(output / "shape_names.txt", "".join(name + "\n" for name in class_names))
    _write(output / "LICENSE.md", licence)
    with atomic_write(output / "provenance.csv") as temp:
        with open(temp, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def write_manifest(output: Path, name: str, source: str, skipped: dict[str, str]) -> None:
    """Write manifest.json over every file of the folder; `skipped`: object -> why."""
    files = sorted(p for p in output.iterdir() if p.is_file() and p.name != "manifest.json")
    manifest = {
        "name": name, "source": source, "points": POINTS,
        "grid": GRID, "skipped": skipped, "files": {p.name: sha256(p) for p in files},
    }
    _write(output / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temp:
        temp.write_text(text, encoding="utf-8")
