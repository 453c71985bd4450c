"""Check SemanticKITTI in its official folder, where its scans stay, and write a manifest.

You download data_odometry_velodyne.zip (80 GB) from
https://www.cvlibs.net/datasets/kitti/eval_odometry.php and data_odometry_labels.zip from
https://semantic-kitti.org/dataset.html and unpack both into one folder; it holds `sequences`.
Every scan of sequences 00 to 10 is read: a whole number of points, as many labels, finite metres,
intensities 0 to 1, raw labels of the official map.  23,201 scans, 4,071 of them in sequence 08,
and the classes' shares must be found.  Stop it at any moment: it goes on where it was, and
without manifest.json, written last, the set counts as absent.

examples:
  python data_scripts/build_semantic_kitti.py ~/kitti/dataset --workers 8
  python data_scripts/build_semantic_kitti.py FOLDER --output /data/semantic_kitti
  python data_scripts/build_semantic_kitti.py SIMULATED_STREETS --part --output /tmp/streets
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
from _scenes import do_all, histogram, run, unlike_published

from i2p_lib.data.manifests import MANIFEST, write_manifest
from i2p_lib.data.scenes import IGNORED, Scene
from i2p_lib.data.semantic_kitti import (
    CLASS_NAMES,
    LEARNING_MAP,
    read_scene,
    scan_files,
)
from i2p_lib.files import sha256, write_text

# Scans of the labelled sequences: 23,201 in all, 4,071 in sequence 08 (Behley et al., ICCV 2019,
# and the lengths of KITTI's odometry sequences).
SCANS = {"00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761, "06": 1101,
         "07": 1101, "08": 4071, "09": 1591, "10": 1201}  # fmt: skip
# How large a part of all points has a raw label: `content` of semantic-kitti.yaml
# (github.com/PRBonn/semantic-kitti-api).
CONTENT = {
    0: 0.01888985, 1: 0.00029372, 10: 0.04081852, 11: 0.00016610, 13: 2.78797e-05,
    15: 0.00039839, 16: 0.0, 18: 0.00206336, 20: 0.00162182, 30: 0.00017699, 31: 1.10659e-08,
    32: 5.53295e-09, 40: 0.19874939, 44: 0.01471717, 48: 0.14392298, 49: 0.00390486,
    50: 0.13268619, 51: 0.07235922, 52: 0.00239513, 60: 4.70841e-05, 70: 0.26681502,
    71: 0.00603501, 72: 0.07814222, 80: 0.00285550, 81: 0.00061560, 99: 0.00992313,
    252: 0.00178931, 253: 0.00012710, 254: 0.00016060, 255: 3.74555e-05, 256: 0.0,
    257: 0.00011352, 258: 0.00010158, 259: 4.38401e-05,
}  # fmt: skip
_FARTHEST = 200.0  # metres; the sensor measures up to 120
_TOGETHER = 100  # scans that are checked, and noted as checked, at once


def find_scenes(source: Path) -> dict[str, tuple[str, str]]:
    """Return {name: its files} of the labelled scans, such as 08/000123, in an official folder.

    Sequences 11 to 21 have no labels and are left out.
    Raises FileNotFoundError for a folder without labelled scans, and for a scan without its
    labels or labels without their scan.
    """
    scans, labels = (
        {f"{path.parts[-3]}/{path.stem}" for path in source.glob(f"sequences/*/{pattern}")
         if path.parts[-3] in SCANS and not path.name.startswith(".")}
        for pattern in ("velodyne/*.bin", "labels/*.label")
    )  # fmt: skip
    if alone := sorted(scans ^ labels):
        has, lacks = ("scan", "labels") if alone[0] in scans else ("labels", "scan")
        raise FileNotFoundError(
            f"{source}: {len(alone)} scans and labels without the other, the first is {alone[0]}: "
            f"its {has} is there, its {lacks} not; unpack both archives into one folder"
        )
    if not scans:
        raise FileNotFoundError(
            f"{source}: expected sequences/00 to 10, each with velodyne/*.bin and "
            "labels/*.label, found no labelled scan; give the folder that holds `sequences`"
        )
    if odd := sorted(name for name in scans if not re.fullmatch(r"\d\d/\d{6}", name)):
        raise ValueError(f"{source}: expected scans named by six digits, got {odd[0]}")
    return {name: scan_files(name) for name in sorted(scans)}


def convert(
    source: Path, output: Path, part: bool = False, workers: int = 1, progress: bool = True
) -> dict:  # fmt: skip
    """Check every labelled scan of an official folder and write the manifest; return it.

    Scans stay where they are; `output` gets the manifest, last.  What was checked is noted there
    each hundred scans, so that an interrupted check goes on.  Memory: one scan for each worker.

    part: a part of SemanticKITTI, or other scans in its layout; else the official counts must be
    found.

    Raises FileNotFoundError and ValueError, naming the file, for what is missing or wrong.
    """
    names = list(find_scenes(source))
    if not part:
        _check_counts(source, names)
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)
    chunks = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    notes = output / ".checked"
    found = do_all(partial(_check_scans, source, notes), chunks, workers, progress,
                   f"x {_TOGETHER} scans")  # fmt: skip
    manifest = {
        "layout": "semantic_kitti",
        "scenes_in": "." if source.samefile(output) else str(source.resolve()),
        "scenes": {name: points for one in found for name, points in one["points"].items()},
        "class_points": np.sum([one["class_points"] for one in found], axis=0).tolist(),
        "repairs": [],
        "files": {name: digest for one in found for name, digest in one["files"].items()},
    }
    if not part:
        published = np.zeros(len(CLASS_NAMES))
        for label, share in CONTENT.items():
            if LEARNING_MAP[label] != IGNORED:
                published[LEARNING_MAP[label]] += share
        unlike_published(source, CLASS_NAMES, manifest["class_points"], published, factor=2)
    write_manifest(output, manifest)
    shutil.rmtree(notes)
    return manifest


def _check_counts(source: Path, names: list[str]) -> None:
    counts = {sequence: 0 for sequence in SCANS}
    for name in names:
        counts[name[:2]] += 1
    if counts != SCANS:
        raise ValueError(
            f"{source}: expected {sum(SCANS.values()):,} labelled scans, {SCANS}, got {counts}; "
            "unpack the set again (--part takes a part of it)"
        )


def _check_scans(source: Path, notes: Path, names: list[str]) -> dict:
    """Read some scans; return their points, classes and hashes, from the notes where they are."""
    files = [file for name in names for file in scan_files(name)]
    stamps = [[file, *_stamp(source / file)] for file in files]
    note = notes / f"{names[0].replace('/', '_')}.json"
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["stamps"] == stamps:
            return known
    points, counts = {}, np.zeros(len(CLASS_NAMES) + 1, np.int64)
    for name in names:
        scan = Scene(name, *read_scene(source, name))
        if (far := np.abs(scan.points).max()) > _FARTHEST:
            raise ValueError(
                f"{source / scan_files(name)[0]}: expected metres from the sensor, got {far:g}"
            )
        points[name] = len(scan)
        counts += histogram(scan.labels, len(CLASS_NAMES))
    hashes = {file: sha256(source / file) for file in files}
    found = {
        "stamps": stamps, "points": points, "class_points": counts.tolist(), "files": hashes
    }  # fmt: skip
    write_text(note, json.dumps(found))
    return found


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run("semantic_kitti", __doc__, convert, arguments)


if __name__ == "__main__":
    sys.exit(main())
