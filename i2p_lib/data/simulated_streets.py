"""Simulated driving scenes: seeded streets, scanned on a drive, in SemanticKITTI's layout.

A sequence is one world; its scans are ten metres and one second apart, about every tenth scan of
the real set, because neighbouring scans teach little and a demo has few.  Rare classes (people,
riders, bicycles, trucks, trailers) are more frequent than in the real set, so that forty scans
hold all 19 classes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from i2p_lib.data import street_lidar, street_objects, street_world
from i2p_lib.data.street_lidar import scan
from i2p_lib.data.street_world import SECOND, build_street

DEMO_SCANS = {f"{number:02d}": 10 if number == 8 else 3 for number in range(11)}
DEMO_AZIMUTH = 512  # a turn of the real sensor has about 2,000
SETTINGS = "simulated.json"  # marks a sequence as simulated, and says how it was made


def simulate_streets(
    folder: str | Path, scans: Mapping[str, int] = DEMO_SCANS, beams: int = 64,
    azimuth: int = DEMO_AZIMUTH, seed: int = 0, progress: bool = True,
) -> Path:  # fmt: skip
    """Write simulated scans in SemanticKITTI's layout under `folder`, and return it.

    scans: how many of each sequence, by two digits.  beams, azimuth: rays of one turn.
    A sequence becomes `sequences/NN` when all of it is written; one that was made with the same
    settings is kept, so an interrupted call goes on where it was.  The same arguments give the
    same files.

    Raises ValueError for a setting outside its range, and FileExistsError where `sequences/NN`
    holds something else than a simulated sequence.
    """
    bad = [name for name, count in scans.items() if not re.fullmatch(r"\d\d", name) or count < 1]
    if bad or not scans or beams < 2 or azimuth < 4:
        raise ValueError(
            "expected sequences of two digits with 1 scan or more, 2 beams and 4 azimuth steps or "
            f"more, got scans={dict(scans)}, beams={beams}, azimuth={azimuth}"
        )
    sequences = Path(folder) / "sequences"
    settings = {name: {"simulated": True, "sequence": name, "scans": count, "beams": beams,
                       "azimuth": azimuth, "seed": seed, "generator": _generator()}
                for name, count in scans.items()}  # fmt: skip
    missing = [name for name in scans if not _is_made(sequences / name, settings[name])]
    sequences.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(scans[name] for name in missing), desc="simulate streets", unit="scan",
              disable=not progress) as bar:  # fmt: skip
        for name in missing:
            _write_sequence(sequences / name, settings[name], bar)
    return Path(folder)


def _generator() -> str:
    """Return a fingerprint of the code that makes the scenes."""
    files = [module.__file__ for module in (street_lidar, street_objects, street_world)]
    code = b"".join(Path(file).read_bytes() for file in [*files, __file__])
    return hashlib.sha256(code).hexdigest()[:16]


def _is_made(sequence: Path, settings: dict) -> bool:
    """Return whether a sequence is there with these settings."""
    if not sequence.exists():
        return False
    mark = sequence / SETTINGS
    if not mark.is_file():
        raise FileExistsError(
            f"{sequence} is not a simulated sequence (it has no {SETTINGS}) and is left alone: "
            "choose another folder for the simulated scenes"
        )
    return json.loads(mark.read_text()) == settings


def _write_sequence(sequence: Path, settings: dict, bar: tqdm) -> None:
    seeds = [settings["seed"], int(settings["sequence"])]
    street = build_street(np.random.default_rng(seeds), settings["scans"])
    temp = Path(tempfile.mkdtemp(prefix=f".{sequence.name}-", dir=sequence.parent))
    try:
        for part in ("velodyne", "labels"):
            (temp / part).mkdir()
        for number in range(settings["scans"]):
            points, labels = scan(
                street.solids_at(number * SECOND), street.ground, street.sensor(number),
                settings["beams"], settings["azimuth"], np.random.default_rng([*seeds, number]),
            )  # fmt: skip
            points.astype("<f4").tofile(temp / "velodyne" / f"{number:06d}.bin")
            labels.astype("<u4").tofile(temp / "labels" / f"{number:06d}.label")
            bar.update()
        (temp / SETTINGS).write_text(json.dumps(settings, indent=1))
        temp.chmod(0o755)
        if sequence.exists():
            shutil.rmtree(sequence)
        temp.rename(sequence)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
