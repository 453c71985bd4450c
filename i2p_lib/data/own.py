"""Own clouds: a folder of files becomes a point set that runs take by name, built once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from i2p_lib.data.cloud_files import seed_of
from i2p_lib.data.making import built, data_folder
from i2p_lib.data.own_building import NAMES, SKIPPED, build
from i2p_lib.data.own_files import found_files
from i2p_lib.data.registry import CARD, SOURCES, DatasetCard, read_card
from i2p_lib.files import sha256


@dataclass(frozen=True)
class PointClouds:
    """A point set built from a folder of your own; `name` is what runs take as `data`.

    card     what is known of it, see `DatasetCard`
    sources  a row per cloud: file, class, split, file_points (0 of a mesh)
    skipped  a row per file that was left out: file, reason
    """

    card: DatasetCard
    class_names: tuple[str, ...]
    sources: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def name(self) -> str:
        """The name of the set, made of the folder's and its content's."""
        return self.card.name

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.card.classes

    @property
    def channels(self) -> int:
        """The number of features of a point: x, y, z and what the files have besides."""
        return self.card.channels

    @property
    def voxel_size(self) -> float:
        """The suggested edge of a voxel, see `suggest_voxel_size`."""
        return self.card.voxel_size

    def counts(self) -> pd.DataFrame:
        """Return the number of clouds of each class (a row) in each split (a column)."""
        table = pd.crosstab(self.sources["class"], self.sources["split"])
        return table.reindex(index=self.class_names, columns=["train", "val", "test"], fill_value=0)

    def __str__(self) -> str:
        """What the set is, for people."""
        card, counts = self.card, self.counts()
        sizes = ", ".join(f"{count} {split}" for split, count in card.splits.items())
        treated = "mean at the origin, " if card.center else "not moved, "
        treated += "scaled to the unit sphere" if card.unit_sphere else "in the units of the files"
        lines = [
            f"{self.name}: {len(self.sources)} clouds in {self.classes} classes ({sizes})",
            f"  each: {card.points} points, {treated}; the files' {card.source_up} axis is up",
            f"  features: {', '.join(('x', 'y', 'z', *card.features))}",
            f"  suggested voxel size: {card.voxel_size:g} ({card.voxel_note})",
            *(f"  {note}" for note in card.notes),
        ]
        if few := [name for name, row in counts.iterrows() if row["train"] < 5]:
            lines.append(f"  fewer than 5 training clouds: {', '.join(few)}")
        if len(self.skipped):
            lines.append(f"  left out: {len(self.skipped)} files, see {SKIPPED} in its folder")
        return "\n".join(lines)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, points: int = 2048, center: bool = True,
        unit_sphere: bool = True, up: str = "z", features: Sequence[str] | None = None,
        seed: int = 0, skip_bad: bool = False, progress: bool = True,
    ) -> PointClouds:  # fmt: skip
        """Build a point set from a folder, or find it where it was built before.

        The folder holds one folder for each class; ``train``, ``val`` and ``test`` may stand above
        or below these.  Or it is an .h5 file with `data` [N, P, 3 + F], `label` [N] and, if it
        likes, `class_names`.  Files are meshes (.ply, .off, .obj, .stl, .glb, .gltf), from whose
        surface points are drawn, or clouds (.ply, .npy, .npz, .xyz, .txt, .csv, .pts, .asc, .pcd,
        .las, .laz).  Hidden files and files of other kinds are left alone.

        Where no test split is given, a fifth of each class is test, where no val is, a tenth of it
        is val, both drawn by `seed`.  Files with the same bytes count once.

        Args:
            points: kept of each cloud, in random order.
            center: whether the mean of a cloud is moved to the origin.
            unit_sphere: whether its farthest point is then brought to the unit sphere.
            up: the axis that is up in the files, "x", "y" or "z"; clouds are turned so that z is.
            features: names of columns beside x, y and z; None: colours and intensity, where all
                files have them.
            skip_bad: go on without files that cannot be used, which `skipped` then lists.

        The set lies in the folder of data sets (`I2P_DATA`), under the name of its folder and eight
        digits of a hash of its content; SOURCES there says what became of each file.

        Raises FileNotFoundError for no such folder, BadClouds (a ValueError) with all files that
        cannot be used, ValueError for a folder without classes, ImportError where a format needs a
        package that is not here.

        >>> i2p.PointClouds.from_folder("my_clouds").counts()  # doctest: +SKIP
        """
        root = Path(path).expanduser().resolve()
        options = {"points": points, "center": center, "unit_sphere": unit_sphere, "up": up,
                   "features": None if features is None else list(features), "seed": seed,
                   "skip_bad": skip_bad}  # fmt: skip
        _check(root, options)
        files, skipped = found_files(root)
        hashes = hashes_of([file.path for file in files], progress)
        rows = [(file.name(root), file.label, file.split, hashes[file.path]) for file in files]
        name = set_name(root, [rows, options])
        built(name, CARD, lambda whole: build(
            root, whole, files, skipped, hashes, options, progress))  # fmt: skip
        return cls.named(name)

    @classmethod
    def named(cls, name: str) -> PointClouds:
        """Return a set that was built before; FileNotFoundError where there is none."""
        folder = data_folder(name)
        if not (folder / CARD).is_file():
            raise FileNotFoundError(f"{folder}: no point set of your own was built there")
        names = (folder / NAMES).read_text(encoding="utf-8").splitlines()
        sources, skipped = (pd.read_csv(folder / file, keep_default_na=False, dtype={"class": str})
                            for file in (SOURCES, SKIPPED))  # fmt: skip
        return cls(read_card(DatasetCard, folder / CARD, name), tuple(names), sources, skipped)


def _check(root: Path, options: Mapping) -> None:
    """Refuse what cannot be before anything is read."""
    if not root.exists():
        raise FileNotFoundError(f"{root}: expected a folder of clouds or an .h5 file, got nothing")
    if root.is_file() and root.suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(f"{root}: expected a folder of clouds or an .h5 file")
    if options["up"] not in ("x", "y", "z"):
        raise ValueError(f"up: expected x, y or z, got {options['up']!r}")
    if not 16 <= options["points"] <= 1_000_000:
        raise ValueError(f"points: expected 16 to 1000000, got {options['points']}")
    if options["unit_sphere"] and not options["center"]:
        raise ValueError("unit_sphere is about the origin: leave center on, or turn both off")


def hashes_of(paths: Sequence[Path], progress: bool) -> dict[Path, str]:
    """Return the SHA-256 of each file; of many files a bar shows how far it is."""
    once = dict.fromkeys(paths)
    quiet = not progress or len(once) < 500
    bar = tqdm(once, desc="look at the files", unit="file", leave=False, disable=quiet)
    return {path: sha256(path) for path in bar}


def set_name(root: Path, content: object) -> str:
    """Return the name of the set that a folder becomes: its own, and digits of its content."""
    slug = re.sub(r"[^a-z0-9]+", "_", root.stem.lower()).strip("_")[:40] or "clouds"
    return f"{slug}_{seed_of(json.dumps(content)):08x}"
