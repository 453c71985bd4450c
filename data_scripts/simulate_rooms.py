"""Simulate rooms in S3DIS's layout: home objects, furnished, scanned, and read like S3DIS.

The rooms are first written in the layout of `Stanford3dDataset_v1.2_Aligned_Version`:

    Area_1/office_1/office_1.txt                 all points of the room
    Area_1/office_1/Annotations/chair_1.txt      those of one instance, named by its class

one point a line, `x y z r g b`: metres, z up, colours 0 to 255.  Nothing here was measured;
SIMULATED.json says so in the folder.  Areas 1, 2, 3, 4 and 6 show only objects of home_objects'
train split, and Area_5 only those of its test split.  Then build_s3dis.py's own conversion makes
the set that `i2p_lib.data.scenes` reads.  `i2p data get simulated_rooms` does both, once.

examples:
  python data_scripts/simulate_rooms.py --output /tmp/rooms
  python data_scripts/simulate_rooms.py --output /tmp/official --official --rooms 2
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import build_s3dis
import numpy as np
from _scenes import status_of
from rooms.room import scanned_room
from rooms.scanner import Scan
from tqdm.auto import tqdm

from i2p_lib.files import atomic_write

AREAS = (1, 2, 3, 4, 5, 6)
ROOMS_PER_AREA = 7
NOTE = "SIMULATED.json"
_UNFINISHED = ".unfinished"
ORDER = ("office", "hallway", "conferenceRoom", "office", "lounge", "storage", "office")


def room_names(rooms: int) -> list[tuple[str, str]]:
    """Return the (kind, name) of the first rooms of an area, as office, office_1."""
    seen: Counter[str] = Counter()
    names = []
    for kind in islice(cycle(ORDER), rooms):
        seen[kind] += 1
        names.append((kind, f"{kind}_{seen[kind]}"))
    return names


def simulate_rooms(
    folder: str | Path, areas: Sequence[int] = AREAS, rooms_per_area: int = ROOMS_PER_AREA,
    seed: int = 0, progress: bool = True,
) -> list[Path]:  # fmt: skip
    """Write simulated rooms in S3DIS's layout; return their folders, `folder/Area_k/name`.

    A room depends on (seed, area, its number in the area) alone.  Each is written aside and
    renamed whole, so an interrupted call goes on where it stopped; only one may run at a time.

    Raises ValueError for an unknown area, no rooms, a negative seed, and a folder with rooms of
    another seed or none of its own.
    """
    areas = tuple(areas)
    if not areas or not set(areas) <= set(AREAS) or len(set(areas)) < len(areas):
        raise ValueError(f"areas: expected different ones of {AREAS}, got {areas}")
    if rooms_per_area < 1 or seed < 0:
        raise ValueError(
            f"expected 1 room or more and a seed of 0 or more, got {rooms_per_area} and {seed}"
        )
    folder = Path(folder)
    _claim(folder, seed)
    wanted = [(area, number, kind, folder / f"Area_{area}" / name) for area in areas
              for number, (kind, name) in enumerate(room_names(rooms_per_area))]  # fmt: skip
    aside = folder / _UNFINISHED
    try:
        for area, number, kind, home in tqdm(wanted, "simulate rooms", disable=not progress):
            if not home.exists():
                shutil.rmtree(aside, ignore_errors=True)
                plan, seen = scanned_room(kind, seed, area, number)
                shift = np.array([9.0 * number - 20, 14.0 * area - 50, 0])
                write_room(aside / home.name, plan.instances, seen, shift)
                home.parent.mkdir(exist_ok=True)
                (aside / home.name).rename(home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [home for *_, home in wanted]


def _claim(folder: Path, seed: int) -> None:
    """Write the note into an empty folder, or check that the folder's own note agrees."""
    note = {"simulated": True, "layout": "Stanford3dDataset_v1.2_Aligned_Version",
            "seed": seed}  # fmt: skip
    path = folder / NOTE
    if not path.exists():
        if folder.is_dir() and any(folder.glob("Area_*")):
            raise ValueError(f"{folder} holds rooms but no {NOTE}: choose an empty folder")
        with atomic_write(path) as temp:
            temp.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; remove {folder}") from None
    if found != note:
        raise ValueError(f"{path}: expected {note}, got {found}; remove {folder} or choose another")


def write_room(home: Path, instances: Sequence[str], seen: Scan, shift: np.ndarray) -> None:
    """Write a scan as one text file an instance, and one of all; instances never seen have none.

    instances: their classes; shift: [3], added to the points, in metres.
    """
    (home / "Annotations").mkdir(parents=True)
    edges = np.searchsorted(seen.instances, np.arange(len(instances) + 1))
    count: Counter[str] = Counter()
    blocks = []
    for label, first, last in zip(instances, edges[:-1], edges[1:], strict=True):
        if last > first:
            count[label] += 1
            block = lines(seen.points[first:last] + shift, seen.colours[first:last])
            (home / "Annotations" / f"{label}_{count[label]}.txt").write_bytes(block)
            blocks.append(block)
    (home / f"{home.name}.txt").write_bytes(b"".join(blocks))


def lines(points: np.ndarray, colours: np.ndarray) -> bytes:
    """Return `x y z r g b` lines: millimetres, and whole numbers.  One format for all is fast."""
    values = np.concatenate([points, colours], axis=1)
    return (("%.3f %.3f %.3f %d %d %d\n" * len(values)) % tuple(values.ravel().tolist())).encode()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--rooms", type=int, default=ROOMS_PER_AREA, help="of each area "
                        "(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--official", action="store_true", help="stop at the official layout")
    options = parser.parse_args(arguments)
    texts = options.output if options.official else options.output / "official"

    def work() -> None:
        simulate_rooms(texts, AREAS, options.rooms, options.seed)
        if not options.official:
            build_s3dis.convert(texts, options.output, part=True)
            shutil.rmtree(texts)

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
