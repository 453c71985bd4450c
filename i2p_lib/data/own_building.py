"""Building a point set from the files of a folder: points drawn, splits drawn, all written down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import yaml
from tqdm.auto import tqdm

from i2p_lib.data.cloud_files import USUAL, BadCloud, CloudFile, seed_of
from i2p_lib.data.manifests import MANIFEST
from i2p_lib.data.own_files import OwnFile
from i2p_lib.data.registry import CARD, SOURCES, DatasetCard
from i2p_lib.files import sha256, write_text
from i2p_lib.sparse.voxelize import GRID

SHARES = {"test": 0.2, "val": 0.1}  # of each class, where a folder has no splits
FILL = 0.6  # voxels per point at most, so that voxels have more than one point
LISTED = 100  # faults that a message names
SKIPPED, NAMES = "skipped.csv", "shape_names.txt"


class BadClouds(ValueError):
    """Files that cannot be used; `faults` is a table of file and reason."""

    def __init__(self, root: Path, faults: pd.DataFrame) -> None:
        self.faults = faults
        lines = [f"  {row.file}: {row.reason}" for row in faults.head(LISTED).itertuples()]
        more = [f"  and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        super().__init__("\n".join([
            f"{len(faults)} files of {root} cannot be used:", *lines, *more,
            "mend or remove them, or go on without them: skip_bad=True, or --skip-bad",
        ]))  # fmt: skip


def suggest_voxel_size(points: np.ndarray) -> tuple[float, str]:
    """Return a voxel's edge for clouds [N, P, 3], in their unit, and why, for people.

    Clouds want about GRID voxels along their longest side, so that something is left behind the
    network's strides, and more points than voxels: FILL voxels per point at most.
    """
    longest = float(np.median(np.ptp(points, axis=1).max(axis=1)))
    size = longest / GRID
    while (filled := _sites(points, size) / points.shape[1]) > FILL:
        size *= 1.1
    size = float(f"{size:.2g}") or 1.0
    return size, (f"clouds are about {longest:.3g} long: {longest / size:.0f} voxels along, "
                  f"{filled * points.shape[1]:.0f} filled by {points.shape[1]} points")  # fmt: skip


def _sites(points: np.ndarray, size: float) -> float:
    """The median number of voxels of that size that clouds fill."""
    cells = np.floor(points / size).astype(np.int64)
    return float(np.median([len(np.unique(cloud, axis=0)) for cloud in cells]))


def build(
    root: Path, folder: Path, files: Sequence[OwnFile], skipped: list[dict],
    hashes: Mapping[Path, str], options: dict, progress: bool,
) -> None:  # fmt: skip
    """Read all files into `folder`, in ModelNet40's layout, the card last."""
    wanted = USUAL if options["features"] is None else tuple(options["features"])
    facts = {
        "title": f"{root.name}, clouds of your own", "source": str(root), "licence": "your own",
        "classes": 0, "points": options["points"], "splits": {}, "size_mb": 0.0, "up": "z",
        "how_to_get": f"build it again with PointClouds.from_folder({str(root)!r})",
        "features": wanted, "source_up": options["up"],
        **{name: options[name] for name in ("center", "unit_sphere")},
    }  # fmt: skip
    card = DatasetCard(name=folder.name, **facts)
    faults, rows, seen, shared, dropped = [], [], {}, set(wanted), Counter()
    with h5py.File(folder / "all.h5", "w") as store:
        shape = (card.points, card.channels)
        every = store.create_dataset("data", (0, *shape), "f4", maxshape=(None, *shape),
                                     chunks=(1, *shape))  # fmt: skip
        for file in tqdm(files, desc="read clouds", unit="file", leave=False,
                         disable=not progress or len(files) < 20):  # fmt: skip
            name, content = file.name(root), (hashes[file.path], file.item)
            twin = seen.setdefault(content, file)
            if twin is not file:
                same = f"holds the same bytes as {twin.name(root)}"
                other = "" if twin.label == file.label else " of another class"
                (faults if other else skipped).append({"file": name, "reason": same + other})
                continue
            try:
                cloud, lost = _read(file, card, f"{options['seed']} {name}", shared, options)
            except BadCloud as error:
                faults.append({"file": name, "reason": str(error)})
                continue
            every.resize(len(rows) + 1, axis=0)
            every[len(rows)] = cloud
            dropped.update({"points": lost.dropped, "files": lost.dropped > 0})
            size = 0 if lost.faces is not None else len(lost.points)
            rows.append((name, file.label, file.split, size))
        if faults and not options["skip_bad"]:
            raise BadClouds(root, pd.DataFrame(faults))
        table = pd.DataFrame(rows, columns=["file", "class", "split", "file_points"])
        table["split"] = drawn_splits(table, options["seed"])
        kept = [*range(3), *(3 + n for n, name in enumerate(wanted) if name in shared)]
        names = sorted(table["class"].unique())
        for split, members in table.groupby("split", sort=False):
            with h5py.File(folder / f"ply_data_{split}0.h5", "w") as out:
                chosen = members.index.to_numpy()
                out["data"] = every[chosen][..., kept]
                out["label"] = np.array([[names.index(one)] for one in members["class"]], "u2")
        train = np.flatnonzero(table["split"] == "train")[:200]
        size, note = suggest_voxel_size(every[train][..., :3])
    (folder / "all.h5").unlink()
    table.to_csv(folder / SOURCES, index=False)
    pd.DataFrame([*skipped, *faults], columns=["file", "reason"]).to_csv(
        folder / SKIPPED, index=False)  # fmt: skip
    write_text(folder / NAMES, "".join(f"{name}\n" for name in names))
    made = sorted(folder.glob("ply_data_*.h5"))
    hashed = {path.name: sha256(path) for path in [*made, folder / NAMES]}
    write_text(folder / MANIFEST, json.dumps({"files": hashed}, indent=1))
    counted = table["split"].value_counts()
    lost = (
        f"{dropped['points']} points of {dropped['files']} files were not finite and are left out"
    )
    facts |= {
        "classes": len(names), "features": [name for name in wanted if name in shared],
        "splits": {split: int(counted.get(split, 0)) for split in ("train", "val", "test")},
        "size_mb": round(sum(path.stat().st_size for path in made) / 1e6, 1),
        "voxel_size": size, "voxel_note": note, "notes": [lost] if dropped["files"] else [],
    }  # fmt: skip
    write_text(folder / CARD, yaml.safe_dump(facts, allow_unicode=True, sort_keys=False))


def _read(
    file: OwnFile, card: DatasetCard, seed: str, shared: set[str], options: Mapping
) -> tuple[np.ndarray, CloudFile]:
    """Return a cloud as the set has it, and the file; `shared` keeps the columns of all files."""
    found, wanted = file.read(), card.features
    if options["features"] is None:
        shared &= found.features
        card = card.model_copy(update={"features": tuple(found.features & set(card.features))})
    elif lacks := sorted(set(card.features) - found.features):
        has = ", ".join(sorted(found.features)) or "none"
        raise BadCloud(f"lacks the features {', '.join(lacks)}; it has {has}")
    cloud = card.prepared(found, seed_of(seed))
    every = np.zeros((len(cloud), 3 + len(wanted)), np.float32)
    every[:, [0, 1, 2, *(3 + wanted.index(name) for name in card.features)]] = cloud
    return every, found


def drawn_splits(table: pd.DataFrame, seed: int, enough: int = 4) -> list[str]:
    """Return the split of each row (class, split, file): given ones stay, missing ones are drawn.

    What is missing of test and val is drawn from each class's train clouds, SHARES of them and at
    least one where `enough` are there; two are one to train and one to test.
    Raises ValueError where nothing would be left to test or to train on.
    """
    splits = table["split"].replace("", "train").to_numpy(dtype=object)
    given = set(splits)
    for members in table.groupby("class").groups.values():
        order = sorted((row for row in members if splits[row] == "train"),
                       key=lambda row: seed_of(f"{seed} split {table['file'][row]}"))  # fmt: skip
        count = len(order)
        for split, share in SHARES.items():
            if split in given:
                continue
            least = count >= enough or (split == "test" and count >= 2)
            for _ in range(max(least, round(share * count)) if count > 1 else 0):
                splits[order.pop()] = split
    for split, what in (("train", "train on"), ("test", "test")):
        if split not in splits:
            raise ValueError(f"no cloud is left to {what}: give classes two clouds or more")
    return list(splits)
