"""Simulate driving scenes: seeded streets, scanned on a drive, in SemanticKITTI's layout.

A sequence is one world; its scans are ten metres and one second apart, about every tenth scan of
the real set, because neighbouring scans teach little and a demo has few.  Rare classes (people,
riders, bicycles, trucks, trailers) are more frequent than in the real set, so that forty scans
hold all 19 classes.  Scans are read where they are made; their manifest is that of
build_semantic_kitti.py.  `i2p data get simulated_streets` calls this, once.

examples:
  python data_scripts/simulate_streets.py --output /tmp/streets
  python data_scripts/simulate_streets.py --output /tmp/dense --azimuth 2048
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import build_semantic_kitti
import numpy as np
from _scenes import status_of
from streets.lidar import scan
from streets.world import SECOND, build_street
from tqdm.auto import tqdm

from i2p_lib.data.making import sources_hash

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
    sequences, sources = Path(folder) / "sequences", sources_hash(Path(__file__).resolve())
    settings = {name: {"simulated": True, "sequence": name, "scans": count, "beams": beams,
                       "azimuth": azimuth, "seed": seed, "generator": sources}
                for name, count in scans.items()}  # fmt: skip
    missing = [name for name in scans if not _is_made(sequences / name, settings[name])]
    sequences.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(scans[name] for name in missing), desc="simulate streets", unit="scan",
              disable=not progress) as bar:  # fmt: skip
        for name in missing:
            _write_sequence(sequences / name, settings[name], bar)
    return Path(folder)


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


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--azimuth", type=int, default=DEMO_AZIMUTH,
                        help="steps of one turn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)

    def work() -> None:
        simulate_streets(options.output, azimuth=options.azimuth, seed=options.seed)
        build_semantic_kitti.convert(options.output, options.output, part=True)

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
