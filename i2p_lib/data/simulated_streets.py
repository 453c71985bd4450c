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
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from i2p_lib.data import street_lidar, street_objects
from i2p_lib.data.street_lidar import (
    HEIGHT, OTHER_GROUND, PARKING, SIDEWALK, TERRAIN, Ground, Solids, ground_at, scan,
)  # fmt: skip
from i2p_lib.data.street_objects import (
    BUS, CAR, MOVING, TRUCK, bicycle, bicyclist, bin_or_box, building, bus, bush, car, fence, lamp,
    motorcycle, motorcyclist, person, sign, solids, trailer, tree, truck, turned,
)  # fmt: skip

DEMO_SCANS = {f"{number:02d}": 10 if number == 8 else 3 for number in range(11)}
DEMO_AZIMUTH = 512  # a turn of the real sensor has about 2,000
STRIDE, SECOND = 10.0, 1.0  # from scan to scan, along x and in time
SETTINGS = "simulated.json"  # marks a sequence as simulated, and says how it was made
_SIGHT = 95.0  # metres of street before the first and behind the last scan
_PLOTS = ("house", "row", "green", "lot", "yard")


@dataclass(frozen=True)
class Mover:
    """Something that moves along the street: `solids` in its own frame, x against time."""

    solids: Solids
    x: float
    across: float
    speed: float  # metres per second along x; its sign is the direction
    half: float  # of its length, metres

    def at(self, time: float) -> float:
        return self.x + self.speed * time


@dataclass
class Street:
    """A world: the ground, what stands on it, what moves."""

    ground: Ground
    parts: list[Solids] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)
    things: int = 0

    def place(self, x: float, across: float) -> tuple[np.ndarray, float]:
        """Return the point [3] on the ground at a distance from the road's middle, and heading."""
        ground = self.ground
        place = ground.start + ground.step * np.arange(len(ground.centre))
        cosine = np.interp(x, place, ground.cosine)
        y = np.interp(x, place, ground.centre) + across / cosine
        slope = (np.interp(x + 1, place, ground.centre) - np.interp(x - 1, place, ground.centre)) / 2
        return np.array([x, y, ground_at(ground, x, y)[0]]), float(np.arctan(slope))

    def pose(self, x: float, across: float, turn: float = 0.0) -> np.ndarray:
        """Return the pose [4, 4] of something upright there, `turn` from the road's heading."""
        point, heading = self.place(x, across)
        return turned(heading + turn, 0.0, point)

    def put(self, parts, x: float, across: float, turn: float = 0.0, thing: bool = False) -> None:
        """Stand parts on the ground; a thing gets an instance of its own."""
        self.things += thing
        self.parts.append(solids(parts, self.pose(x, across, turn), self.things * thing))

    def solids_at(self, time: float) -> Solids:
        """Return everything in the world at a time in seconds."""
        moved = [m.solids.moved(self.pose(m.at(time), m.across, 0.0 if m.speed > 0 else np.pi))
                 for m in self.movers]  # fmt: skip
        return reduce(add, [*self.parts, *moved])

    def sensor(self, number: int) -> np.ndarray:
        """Return the pose [4, 4] of the sensor at scan `number`, in the middle of the right lane."""
        x, across = number * STRIDE, -self.ground.half_road / 2
        (ahead, heading), (behind, _) = self.place(x + 1, across), self.place(x - 1, across)
        rise = ahead - behind
        pitch = np.arctan2(rise[2], np.hypot(rise[0], rise[1]))
        return turned(heading, pitch, self.place(x, across)[0] + [0, 0, HEIGHT])


def build_street(generator: np.random.Generator, scans: int) -> Street:
    """Return a world for a drive of some scans: ground, plots, kerbside, traffic."""
    rng, path = generator, (scans - 1) * STRIDE
    street = Street(_ground(rng, path))
    for side in (-1, 1):
        _kerbside(street, rng, side, path)
        _plots(street, rng, side, path)
    _background(street, rng, path)
    _traffic(street, rng, scans)
    return street


def _ground(rng, path: float) -> Ground:
    start, step = -_SIGHT - 30, 0.5
    x = np.arange(start, path + _SIGHT + 30, step)
    wave, phase = rng.uniform(150, 280, 2), rng.uniform(0, 2 * np.pi, 4)
    bend, hill = rng.uniform(1, 9), rng.uniform(0.2, 1.2)
    centre = bend * np.sin(2 * np.pi * x / wave[0] + phase[0])
    centre += 0.1 * bend * np.sin(4 * np.pi * x / wave[1] + phase[1])
    level = hill * np.sin(2 * np.pi * x / wave[1] + phase[2])
    parking = np.zeros((2, len(x)))
    for side in (0, 1):  # stretches of parking lane
        parking[side] = np.where(np.sin(x / rng.uniform(12, 25) + phase[3] + side) > -0.3, 2.2, 0)
    if rng.random() < 0.3:
        parking[0] = 0
    crossing = [[rng.uniform(12, path + 28), rng.uniform(2.8, 4.0)]]
    if rng.random() < 0.6:
        crossing.append([-rng.uniform(30, 60), rng.uniform(2.5, 3.5)])
    return Ground(
        start, step, centre, 1 / np.hypot(1, np.gradient(centre, step)), level,
        rng.uniform(3.4, 4.2), parking, rng.uniform(1.7, 3.2, 2),
        np.full((2, len(x)), TERRAIN, np.uint8), rng.choice([0, 0.03, 0.1], 2), np.array(crossing),
    )  # fmt: skip


def _clear(street: Street, x: float, margin: float) -> bool:
    """Return whether a place is that far from every side road."""
    middle, half = street.ground.crossing.T
    return bool((abs(x - middle) > half + margin).all())


def _edge(street: Street, side: int, x: float) -> tuple[float, float]:
    """Return the width of the parking lane at x and the distance of the kerb from the middle."""
    ground, row = street.ground, (side + 1) // 2
    wide = ground.parking[row, int((x - ground.start) / ground.step)]
    return wide, ground.half_road + wide


def _kerbside(street: Street, rng, side: int, path: float) -> None:
    """Parked vehicles in the parking lane; lamps, signs, trees, people, bicycles on the pavement."""
    facing = 0.0 if side < 0 else np.pi
    toward_road = 0.0 if side < 0 else np.pi  # +y of a lamp
    fill = rng.uniform(0.35, 0.85)
    x = -_SIGHT
    while x < path + _SIGHT:
        x += 3.2
        widths = [_edge(street, side, x + dx)[0] for dx in (-3, 0, 3)]
        if min(widths) > 0 and _clear(street, x, 9) and rng.random() < fill:
            kind = rng.choice(4, p=[0.86, 0.05, 0.05, 0.04])
            parts = (car, trailer, truck, motorcycle)[kind](rng)
            x += (0, 0.5, 3.0, -1.0)[kind]
            across = side * (_edge(street, side, x)[1] - 1.15 + rng.normal(0, 0.06))
            if kind < 2 or min(_edge(street, side, x + dx)[0] for dx in (-5, 5)) > 0:
                turn = facing + rng.normal(0, 0.03) + (np.pi if rng.random() < 0.1 else 0)
                street.put(parts, x, across, turn, True)
            x += (2.2, 2.4, 4.0, 0.0)[kind]
    row = (side + 1) // 2
    wide = street.ground.sidewalk[row]
    with_trees, between = rng.random() < 0.45, rng.uniform(20, 32)
    for x in np.arange(-_SIGHT, path + _SIGHT, 4.0) + rng.uniform(0, 4):
        if not _clear(street, x, 3):
            continue
        kerb = _edge(street, side, x)[1]
        if _edge(street, side, x + 1)[1] != kerb or _edge(street, side, x - 1)[1] != kerb:
            continue
        strip, draw = side * (kerb + 0.4), rng.random()
        if x % between < 4.0:
            street.put(lamp(rng), x, strip, toward_road)
        elif draw < 0.16:
            street.put(sign(rng), x, strip, facing + np.pi * (rng.random() < 0.2))
        elif draw < 0.45 and with_trees:
            street.put(tree(rng, rng.uniform(4.5, 8)), x, side * (kerb + 0.6))
        elif draw < 0.52:
            street.put(bin_or_box(rng), x, strip)
        elif draw < 0.62:
            parts = (bicycle if rng.random() < 0.65 else motorcycle)(rng)
            street.put(parts, x, side * (kerb + wide - 0.45), rng.normal(0, 0.15), True)
        elif draw < 0.74:
            across = side * (kerb + rng.uniform(0.8, wide - 0.6))
            street.put(person(rng), x, across, rng.uniform(0, 2 * np.pi), True)


def _plots(street: Street, rng, side: int, path: float) -> None:
    """Divide the land along one side into plots and fill them."""
    deck = ["house"] * 4 + ["row"] * 2 + ["green"] * 3 + ["lot", "yard"]
    if rng.random() < 0.4:  # a denser town
        deck += ["row"] * 3
    x, row, ground = -_SIGHT, (side + 1) // 2, street.ground
    drawn: list[str] = []
    while x < path + _SIGHT:
        length = rng.uniform(14, 24)
        drawn = drawn or list(rng.permutation(deck))
        blocked = [c for c, half in ground.crossing if x - half - 4 < c < x + length + half + 4]
        if blocked:  # a plot ends before the side road and the next begins behind it
            half = ground.crossing[ground.crossing[:, 0] == blocked[0], 1][0]
            length = blocked[0] - half - 4 - x
            if length < 8:
                x = max(x + 1, blocked[0] + half + 4)
                continue
        kind = drawn.pop()
        label = {"lot": PARKING, "yard": OTHER_GROUND, "row": SIDEWALK}.get(kind, TERRAIN)
        first = int((x - ground.start) / ground.step)
        ground.beyond[row, first : first + int(length / ground.step)] = label
        edges = [_edge(street, side, x + t * length)[1] for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
        _fill(street, rng, side, kind, x, length, max(edges) + ground.sidewalk[row])
        x += length + (0.0 if kind == "row" else rng.uniform(0.5, 2))


def _fill(street: Street, rng, side: int, kind: str, x: float, length: float, edge: float) -> None:
    """Put what belongs on a plot that begins at x and `edge` metres from the road's middle."""

    def front(parts, along, away, wide, thing=False):
        """Parts that begin at `along` and are `wide`, their front toward the road."""
        start = along if side > 0 else along + wide
        # the middle decides height and heading, so that a long front follows the road
        pose = street.pose(x + along + wide / 2, side * (edge + away), 0.0 if side > 0 else np.pi)
        pose[:3, 3] += pose[:3, :3] @ [-wide / 2, 0, 0]
        del start
        street.things += thing
        street.parts.append(solids(parts, pose, street.things * thing))

    def garden(count, near, far, taken=()):
        placed = list(taken)
        for _ in range(count):
            along, away = rng.uniform(1, length - 1), rng.uniform(near, far)
            if all(abs(along - a) > w or abs(away - b) > d for a, b, w, d in placed):
                placed.append((along, away, 2.2, 2.2))
                size = rng.random()
                parts = (tree(rng, rng.uniform(4, 11)) if size < 0.5
                         else bush(rng, rng.uniform(0.6, 1.5)))  # fmt: skip
                street.put(parts, x + along, side * (edge + away))

    if kind == "row":
        front(building(rng, length, rng.uniform(9, 12), rng.integers(2, 6), 0.2), 0,
              rng.uniform(0.3, 0.8), length)  # fmt: skip
    elif kind == "house":
        wide, away = min(rng.uniform(8.5, 13), length - 4.2), rng.uniform(3.5, 7.5)
        left = rng.uniform(0.5, length - wide - 3.5)
        front(building(rng, wide, rng.uniform(8, 10.5), rng.integers(1, 4), 0.15), left, away, wide)
        border = rng.choice(["hedge", "wall", "picket", "mesh", "picket"])
        gate = length - 3.2
        front(fence(rng, gate, border), 0, 0.35, gate)
        if rng.random() < 0.7:
            street.put(car(rng), x + gate + 1.6, side * (edge + rng.uniform(3.2, 6)),
                       np.pi / 2, True)  # fmt: skip
        house = (left + wide / 2, away + 5, wide / 2 + 1.5, 7.0)
        drive = (gate + 1.6, 4.0, 2.2, 6.5)
        garden(7, 1.8, 20, [house, drive])
    elif kind == "green":
        if rng.random() < 0.6:
            front(fence(rng, length, rng.choice(["rail", "mesh", "wall", "hedge"])), 0, 0.4, length)
        garden(int(length), 1.8, 22)
    elif kind == "lot":
        for along in np.arange(2.0, length - 1.5, 2.7):
            for away, kinds in ((3.2, (car, car, car, trailer)), (13.5, (car, car, car, truck))):
                if rng.random() < 0.6:
                    parts = kinds[rng.integers(4)](rng)
                    turn = np.pi / 2 * rng.choice([-1, 1])
                    street.put(parts, x + along, side * (edge + away), turn, True)
        front(fence(rng, length, "hedge"), 0, 18, length)
        garden(4, 20, 26)
    else:
        front(building(rng, length - 1, 14, 2, 0.0), 0.5, rng.uniform(11, 15), length - 1)
        for along in np.arange(4.5, length - 4, 5.0):
            parts = (truck, trailer, bus, car)[rng.integers(4)](rng)
            if rng.random() < 0.6:
                street.put(parts, x + along, side * (edge + 6.2), np.pi / 2, True)
        front(fence(rng, length / 2, "mesh"), 0, 0.4, length / 2)


def _background(street: Street, rng, path: float) -> None:
    """Trees and buildings behind the plots, and along the side roads."""
    for side in (-1, 1):
        for x in np.arange(-_SIGHT - 20, path + _SIGHT + 20, 7.0):
            across = side * rng.uniform(36, 58)
            if not _clear(street, x, 6):
                continue
            if rng.random() < 0.25:
                parts = building(rng, 11.0, 10.0, rng.integers(2, 5), 0.0)
                street.put(parts, x, across, rng.choice([0, np.pi / 2]))
            else:
                street.put(tree(rng, rng.uniform(6, 14)), x, across)
        for middle, half in street.ground.crossing:
            for away in np.arange(14, 60, 9.0):
                if rng.random() < 0.4:
                    parts = car(rng)
                    turn = np.pi / 2 * rng.choice([-1, 1])
                    street.put(parts, middle + rng.choice([-0.5, 0.5]) * half, side * away, turn, True)
            street.put(tree(rng, 10.0), middle + rng.uniform(-2, 2), side * 75)
        street.put(tree(rng, 12.0), -_SIGHT - 25, side * 5)
        street.put(tree(rng, 12.0), path + _SIGHT + 25, side * 5)


def _traffic(street: Street, rng, scans: int) -> None:
    """Vehicles and riders in both lanes, walkers on the pavements; none meets another."""
    path, half_road = (scans - 1) * STRIDE, street.ground.half_road
    times = np.arange(scans) * SECOND
    kinds = [(bicyclist, 31, 1.0, 4.0)] * 3 + [(motorcyclist, 32, 1.1, 9.0)] * 3 + [
        (car, CAR, 2.5, STRIDE / SECOND)] * 5 + [(truck, TRUCK, 4.6, STRIDE / SECOND),
        (bus, BUS, 6.0, STRIDE / SECOND)]  # fmt: skip
    for index in rng.permutation(len(kinds)):
        make, label, half, speed = kinds[index]
        side = rng.choice([-1, 1])
        small = half < 1.5
        across = side * (half_road - 0.5 if label == 31 else half_road / 2)
        # each is near the sensor at some scan
        x = rng.choice(times) * STRIDE / SECOND + rng.uniform(-30, 40)
        direction = -side
        x -= direction * speed * rng.choice(times)
        mover = Mover(solids(make(rng, MOVING[label])), x, across, direction * speed, half)
        others = [(m.at(times), m.half, m.across) for m in street.movers]
        others.append((times * STRIDE / SECOND, 3.5, -half_road / 2))  # the sensor's own car
        wide = 0.6 if small else 1.5
        if all((abs(at - mover.at(times)) > half + other + 1.5).all() or abs(a - across) > wide + 0.7
               for at, other, a in others):  # fmt: skip
            street.movers.append(mover)
    for _ in range(4 + scans):
        side = rng.choice([-1, 1])
        x = rng.uniform(-20, path + 25)
        kerb = max(_edge(street, side, x + dx)[1] for dx in (-10, -5, 0, 5, 10))
        across = side * (kerb + rng.uniform(0.9, 1.3))
        speed = rng.choice([-1, 1]) * rng.uniform(0.8, 1.5)
        street.movers.append(Mover(solids(person(rng, 254)), x, across, speed, 0.4))
    for number, mover in enumerate(street.movers, start=street.things + 1):
        mover.solids.label[:] |= np.uint32(number << 16)


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
    code = [Path(module.__file__).read_bytes() for module in (street_lidar, street_objects)]
    return hashlib.sha256(b"".join([*code, Path(__file__).read_bytes()])).hexdigest()[:16]


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
