"""Small copies of S3DIS, SemanticKITTI and ModelNet40's archive in their official layouts."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from i2p_lib.data.semantic_kitti import LEARNING_MAP

TEXTS = {"ceiling_1": 40, "wall_1": 30, "wall_2": 20, "chair_1": 10, "stairs_1": 5}


def make_s3dis(folder: Path, rooms: dict[str, tuple[str, ...]] | None = None) -> Path:
    """Write rooms of 105 points each: `rooms` names those of each area."""
    generator = np.random.default_rng(0)
    rooms = rooms or {f"Area_{n}": ("hallway_6", "office_1", "office_2") for n in range(1, 7)}
    for area, names in rooms.items():
        for room in names:
            home = folder / area / room / "Annotations"
            home.mkdir(parents=True)
            for text, count in TEXTS.items():
                rows = zip(generator.uniform(-9, 9, (count, 3)),
                           generator.integers(0, 256, (count, 3)), strict=True)  # fmt: skip
                lines = ["{:.3f} {:.3f} {:.3f} {} {} {}\n".format(*p, *c) for p, c in rows]
                (home / f"{text}.txt").write_text("".join(lines))
            (home.parent / f"{room}.txt").write_text("not read\n")
        (folder / area / f"{area}_alignmentAngle.txt").write_text("## not read ##\n")
    return folder


def make_kitti(folder: Path, scans: dict[str, int] | None = None) -> Path:
    """Write scans of 50 points with all raw labels: `scans` is how many each sequence has."""
    generator = np.random.default_rng(0)
    for sequence, count in (scans or {"00": 4, "04": 2, "08": 3}).items():
        for kind in ("velodyne", "labels"):
            (folder / "sequences" / sequence / kind).mkdir(parents=True)
        for number in range(count):
            points = generator.uniform(-50, 50, (50, 4)).astype("<f4")
            points[:, 3] = generator.uniform(0, 1, 50)
            raw = np.resize(list(LEARNING_MAP), 50).astype("<u4") | np.uint32(7 << 16)
            points.tofile(folder / f"sequences/{sequence}/velodyne/{number:06d}.bin")
            raw.tofile(folder / f"sequences/{sequence}/labels/{number:06d}.label")
    return folder


def make_archive(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """Write a zip archive with a small set in ModelNet40's layout, and the members of `extra`."""
    members = {"shape_names.txt": b"airplane\nbathtub\n",
               "train_files.txt": b"data/x/ply_data_train0.h5\n"}  # fmt: skip
    for split in ("train", "test"):
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            h5["data"] = np.random.default_rng(0).standard_normal((6, 16, 3)).astype(np.float32)
            h5["label"] = np.arange(6, dtype=np.uint8)[:, None] % 2
        members[f"ply_data_{split}0.h5"] = file.getvalue()
    members["ply_data_train_0_id2file.json"] = b"[]"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"modelnet40_ply_hdf5_2048/{name}", content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """The system refuses to write beyond `limit` bytes of any file, as a disk that fills does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
