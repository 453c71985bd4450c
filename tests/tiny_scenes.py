"""Tiny scenes in the official layouts of S3DIS and SemanticKITTI, and a spec to segment them."""

from pathlib import Path

import build_s3dis
import build_semantic_kitti
import numpy as np

from i2p_lib.runs.spec import SegmentSpec

ROOM = SegmentSpec(
    scenes="s3dis", model="unet:efficientnet_lite0", voxel_size=0.4, decoder_width=0.125,
    epochs=2, batch_size=4, lr=5e-3, test_limit=2,
)  # fmt: skip
OBJECTS = {"ceiling_1": (2.4, 240), "floor_1": (0.0, 120), "wall_1": (None, 200),
           "chair_1": (0.5, 60), "stairs_1": (1.2, 90)}  # fmt: skip


def write_rooms(folder: Path) -> Path:
    """Write two rooms of each area as the official texts `x y z red green blue`."""
    random = np.random.default_rng(0)
    for area in range(1, 7):
        for number in (1, 2):
            room = folder / f"Area_{area}" / f"office_{number}"
            (room / "Annotations").mkdir(parents=True)
            for name, (height, grey) in OBJECTS.items():
                xyz = random.uniform(0, 1, (60, 3)) * (4, 3, 2.4)
                if height is None:
                    xyz[:, 0] = 0
                else:
                    xyz[:, 2] = height
                colours = random.integers(grey - 9, grey + 9, (60, 3))
                lines = [f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}"
                         for (x, y, z), (r, g, b) in zip(xyz, colours, strict=True)]  # fmt: skip
                text = "\n".join(lines) + "\n"
                (room / "Annotations" / f"{name}.txt").write_text(text)
    return folder


def write_scans(folder: Path) -> Path:
    """Write two scans of each labelled sequence: a road (40), vegetation (70), a car (10)."""
    random = np.random.default_rng(0)
    for sequence in range(11):
        place = folder / "sequences" / f"{sequence:02d}"
        for part in ("velodyne", "labels"):
            (place / part).mkdir(parents=True)
        for number in range(2):
            turn, far = random.uniform(-np.pi, np.pi, 600), random.uniform(3, 30, 600)
            label = random.choice([40, 70, 10], 600)
            height = np.where(label == 40, -1.7, random.uniform(-1.6, 0.8, 600))
            scan = np.stack([far * np.cos(turn), far * np.sin(turn), height, label / 100], 1)
            scan.astype("<f4").tofile(place / "velodyne" / f"{number:06d}.bin")
            label.astype("<u4").tofile(place / "labels" / f"{number:06d}.label")
    return folder


def tiny_scene_sets(root: Path) -> Path:
    """Make both sets from tiny official files below `root`; return their data folder."""
    made = (("s3dis", write_rooms, build_s3dis), ("semantic_kitti", write_scans,
                                                  build_semantic_kitti))  # fmt: skip
    for name, write, script in made:
        official = write(root / "official" / name)
        script.convert(official, root / "data" / name, part=True, progress=False)
    return root / "data"
