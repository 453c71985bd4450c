"""Own rooms and scans: a folder of labelled scenes becomes a set that runs take by name.

The set holds one HDF5 file a scene, in a folder train, val or test:

    train/office.h5    points [N, 3] float32, features [N, F] float32 in 0..1, labels [N] int16
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm.auto import tqdm

from i2p_lib.data.cloud_files import FORMATS, RED_GREEN_BLUE, CloudFile, read_cloud
from i2p_lib.data.making import built
from i2p_lib.data.manifests import write_manifest
from i2p_lib.data.own import hashes_of, set_name
from i2p_lib.data.own_building import BadClouds, drawn_splits
from i2p_lib.data.own_files import SPLIT_NAMES, split_of
from i2p_lib.data.registry import CARD, read_card
from i2p_lib.data.scenes import IGNORED, Scene, SceneCard
from i2p_lib.data.text_tables import BadCloud
from i2p_lib.files import sha256, write_text

CLASS_NAMES: tuple[str, ...] = ()  # of a set; see its card
FEATURE_NAMES: tuple[str, ...] = ()
ABOUT = ("scenes.yml", "scenes.yaml")
GUESSED = {4: ("label",), 5: ("intensity", "label"), 7: (*RED_GREEN_BLUE, "label")}
"""What columns behind x, y and z are where nothing names them, by the number of all columns."""
PLAIN = "constant"  # the feature of points that have none


def read_scene(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points [N, 3] float32, features [N, F] float32, labels [N] int64 of a scene."""
    path = folder / f"{name}.h5"
    try:
        with h5py.File(path, "r") as file:
            points, features, labels = (file[key][()] for key in ("points", "features", "labels"))
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a whole scene ({error}): remove {folder} and build it "
                         "again with Scenes.from_folder") from error  # fmt: skip
    return points, features, labels.astype(np.int64)


class About(BaseModel):
    """What `scenes.yml` beside the scenes may say of them.

    classes: names by label, as a list or as {label: name}; without it, the labels that occur.
    ignored: labels that are not counted.  columns: names of all columns of files without a header.
    label: the column of the labels.  scale: factor to metres.
    """

    model_config = ConfigDict(extra="forbid")

    classes: dict[int, str] | list[str] | None = None
    ignored: list[int] = []
    columns: list[str] | None = None
    label: str = "label"
    scale: float = Field(1.0, gt=0)

    @property
    def guessed(self) -> Mapping[int, Sequence[str]]:
        """See `GUESSED`."""
        return {len(self.columns): self.columns[3:]} if self.columns else GUESSED

    @property
    def names(self) -> dict[int, str] | None:
        """The name of each label."""
        if isinstance(self.classes, list):
            return dict(enumerate(self.classes))
        return self.classes

    @classmethod
    def beside(cls, folder: Path) -> About:
        """Read the file of a folder, if it has one; ValueError names it and what is wrong."""
        file = next((folder / name for name in ABOUT if (folder / name).is_file()), None)
        try:
            facts = yaml.safe_load(file.read_text(encoding="utf-8-sig")) if file else {}
            about = cls.model_validate(facts or {})
        except (yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"{file}: expected classes, ignored, columns, label, scale: "
                             f"{error}") from error  # fmt: skip
        if about.columns and [name.lower() for name in about.columns[:3]] != ["x", "y", "z"]:
            raise ValueError(f"{file}: columns: expected x, y, z first, got {about.columns}")
        return about


@dataclass(frozen=True)
class Scenes:
    """A set of scenes built from a folder of your own; `name` is what runs take as `scenes`.

    card: what is known of it.  sources: a row per scene: file, split, points, unlabelled.
    """

    card: SceneCard
    sources: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def name(self) -> str:
        """The name of the set."""
        return self.card.name

    def __str__(self) -> str:
        """What the set is, for people."""
        counts = self.sources["split"].value_counts()
        sizes = ", ".join(f"{counts.get(one, 0)} {one}" for one in ("train", "val", "test"))
        lines = [f"{self.name}: {len(self.sources)} scenes ({sizes}), "
                 f"{self.sources['points'].sum():,} points",
                 f"  classes: {', '.join(self.card.class_names)}",
                 f"  features: x, y, z, {', '.join(self.card.feature_names)}; z is up",
                 f"  not counted: {self.sources['unlabelled'].sum():,} points"]  # fmt: skip
        if len(self.skipped):
            lines.append(f"  {len(self.skipped)} files were left out")
        return "\n".join(lines)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, seed: int = 0, skip_bad: bool = False, progress: bool = True
    ) -> Scenes:
        """Build a set of scenes from a folder, or find it where it was built before.

        Each file is one room or scan: .ply (also the vertices of a mesh), .npy, .npz, .txt, .csv,
        .pcd, .las, with a column `label` beside x, y, z [m], and colours or intensity if they are
        there.  Files without names have x, y, z, then red, green, blue or intensity, then the
        label.  `scenes.yml` there says more, see `About`.  Folders train, val and test are splits;
        without them a fifth of the scenes, at least one, is test, and a tenth val.

        Raises FileNotFoundError, BadClouds with all files that cannot be used, ValueError for
        fewer than three scenes and a wrong scenes.yml, ImportError.
        """
        root = Path(path).expanduser().resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: expected a folder of scenes, got none")
        about = About.beside(root)
        files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in FORMATS
                 and not any(part.startswith((".", "__")) for part in file.relative_to(root).parts)]
        if len(files) < 3:
            raise ValueError(f"{root}: expected three scenes or more (to train, to validate, to "
                             f"test), files of {' '.join(FORMATS)}, got {len(files)}")  # fmt: skip
        options = {"about": about.model_dump(), "seed": seed, "skip_bad": skip_bad}
        hashes = hashes_of(files, progress)
        rows = [(file.relative_to(root).as_posix(), hashes[file]) for file in files]
        name = set_name(root, [rows, options])
        folder = built(name, CARD, lambda whole: _build(
            root, whole, files, about, options, progress))  # fmt: skip
        card = read_card(SceneCard, folder / CARD, name)
        return cls(card, *(pd.read_csv(folder / f"{file}.csv", keep_default_na=False)
                           for file in ("sources", "skipped")))  # fmt: skip


def read_file(file: Path, about: About) -> tuple[np.ndarray, CloudFile]:
    """Return points [N, 3] float32 in metres, from their lowest corner, and what the file holds.

    Raises BadCloud as `read_cloud` does.
    """
    found = read_cloud(file, about.guessed)
    points = found.points * about.scale
    return (points - points.min(0)).astype(np.float32), found


def features_of(found: CloudFile, names: Sequence[str]) -> np.ndarray:
    """Return the features [N, F] float32 of those names; BadCloud where a file lacks one."""
    if tuple(names) == (PLAIN,):
        return np.full((len(found.points), 1), 0.5, np.float32)
    if lacks := [name for name in names if name not in found.columns]:
        raise BadCloud(f"expected the features {', '.join(names)}, lacks {', '.join(lacks)}")
    return np.stack([found.columns[name] for name in names], 1).clip(0, 1).astype(np.float32)


def _build(
    root: Path, folder: Path, files: Sequence[Path], about: About, options: Mapping[str, Any],
    progress: bool,
) -> None:  # fmt: skip
    """Read all files twice, once for their columns and labels, and write the set."""
    facts, faults = {}, []
    for file in tqdm(files, desc="look at scenes", leave=False, disable=not progress):
        try:
            columns = read_file(file, about)[1].columns
            if (labels := columns.get(about.label)) is None:
                raise BadCloud(f"expected a column {about.label}, got {sorted(columns) or 'none'}")
            if not (labels == labels.round()).all():
                raise BadCloud(f"{about.label}: expected whole numbers, got {labels[0]}")
            found = set(np.unique(labels).astype(int).tolist()) - set(about.ignored)
            if about.names and (odd := sorted(found - set(about.names))):
                raise BadCloud(f"labels {odd} have no name in scenes.yml, nor are they ignored")
            facts[file] = set(columns), found
        except BadCloud as error:
            faults.append({"file": file.relative_to(root).as_posix(), "reason": str(error)})
    if faults and not options["skip_bad"]:
        raise BadClouds(root, pd.DataFrame(faults))
    shared = set.intersection(*(columns for columns, _ in facts.values()))
    features = next((names for names in (RED_GREEN_BLUE, ("intensity",)) if shared >= set(names)),
                    (PLAIN,))  # fmt: skip
    names = about.names or {n: f"class {n}" for n in sorted(set().union(
        *(found for _, found in facts.values())))}  # fmt: skip
    number = {label: place for place, label in enumerate(names)}
    places = [file.relative_to(root) for file in facts]
    named = pd.DataFrame({"file": [place.as_posix() for place in places], "class": "scene",
                          "split": [split_of(place.parts[:-1]) for place in places]})  # fmt: skip
    splits = dict(zip(facts, drawn_splits(named, options["seed"], enough=3), strict=True))
    rows = []
    counted = np.zeros(len(names) + 1, int)
    for file in tqdm(facts, desc="write scenes", leave=False, disable=not progress):
        points, found = read_file(file, about)
        given = found.columns[about.label]
        labels = np.array([number.get(int(one), IGNORED) for one in given], np.int64)
        inside = file.relative_to(root).with_suffix("").as_posix().replace("/", "_")
        scene = Scene(f"{splits[file]}/{inside}", points, features_of(found, features), labels)
        (folder / splits[file]).mkdir(exist_ok=True)
        with h5py.File(folder / f"{scene.name}.h5", "w") as out:
            out["points"], out["features"] = scene.points, scene.features
            out["labels"] = labels.astype(np.int16)
        counted += np.bincount(np.where(labels < 0, len(names), labels), minlength=len(counted))
        rows.append((file.relative_to(root).as_posix(), splits[file], scene.name, len(points),
                     int((labels < 0).sum())))  # fmt: skip
    table = pd.DataFrame(rows, columns=["file", "split", "scene", "points", "unlabelled"])
    table.to_csv(folder / "sources.csv", index=False)
    pd.DataFrame(faults, columns=["file", "reason"]).to_csv(folder / "skipped.csv", index=False)
    write_manifest(folder, {
        "layout": "own_scenes", "scenes_in": ".", "class_points": counted.tolist(), "repairs": [],
        "scenes": dict(zip(table["scene"], table["points"].tolist(), strict=True)),
        "files": {f"{name}.h5": sha256(folder / f"{name}.h5") for name in table["scene"]},
    })  # fmt: skip
    card = {
        "title": f"{root.name}, scenes of your own", "source": str(root), "licence": "your own",
        "splits": {one: f"{(table['split'] == one).sum()} scenes" for one in SPLIT_NAMES.values()},
        "size_mb": round(sum(file.stat().st_size for file in folder.rglob("*.h5")) / 1e6, 1),
        "how_to_get": f"build it again with Scenes.from_folder({str(root)!r})",
        "layout": "own_scenes", "augment": {"flip_p": 0.95, "clip": 4.0}, "test_part": "test",
        "typical_points": int(table["points"].median()), "names": list(names.values()),
        "features": list(features),
    }  # fmt: skip
    write_text(folder / CARD, yaml.safe_dump(card, allow_unicode=True, sort_keys=False))
