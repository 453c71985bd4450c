"""A seeded street world: road, plots along it, what stands at the kerb, traffic, and the drive.

A world's x runs along the drive; distances from the road's middle are positive to the left.
The sensor drives in the right lane, ten metres and one second from scan to scan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from streets import objects as made
from streets.lidar import (
    HEIGHT,
    OTHER_GROUND,
    PARKING,
    SIDEWALK,
    TERRAIN,
    Ground,
    Solids,
    ground_at,
)
from streets.objects import solids, turned

STRIDE, SECOND = 10.0, 1.0  # from scan to scan, along x and in time
_SIGHT = 95.0  # metres of street before the first and behind the last scan
_PLOTS = {"house": TERRAIN, "row": SIDEWALK, "green": TERRAIN, "lot": PARKING, "yard": OTHER_GROUND}
_BORDERS = ("hedge", "hedge", "hedge", "hedge", "wall", "picket", "picket", "mesh")


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
        after, before = np.interp([x + 1, x - 1], place, ground.centre)
        heading = np.arctan2(after - before, 2)
        return np.array([x, y, ground_at(ground, x, y)[0]]), float(heading)

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
        """Return the pose [4, 4] of the sensor at a scan, in the middle of the right lane."""
        x, across = number * STRIDE, -self.ground.half_road / 2
        (ahead, heading), (behind, _) = self.place(x + 1, across), self.place(x - 1, across)
        rise = ahead - behind
        pitch = np.arctan2(rise[2], np.hypot(rise[0], rise[1]))
        return turned(heading, pitch, self.place(x, across)[0] + [0, 0, HEIGHT])


def build_street(generator: np.random.Generator, scans: int) -> Street:
    """Return a world for a drive of some scans: ground, plots, kerbside, traffic."""
    rng, path = generator, (scans - 1) * STRIDE
    street = Street(_ground(rng, path))
    for side, rare in zip((-1, 1), rng.permutation(["lot", "yard"]), strict=True):
        _kerbside(street, rng, side, path)
        _plots(street, rng, side, path, str(rare))
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
    crossing = [[rng.uniform(20, path + 60), rng.uniform(2.3, 3.2)]]
    if rng.random() < 0.6:
        crossing.append([-rng.uniform(30, 60), rng.uniform(2.3, 3.2)])
    return Ground(
        start, step, centre, 1 / np.hypot(1, np.gradient(centre, step)), level,
        rng.uniform(2.6, 3.4), parking, rng.uniform(1.4, 2.6, 2),
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
    """Parked vehicles at the kerb; lamps, signs, trees, people, bicycles on the pavement."""
    facing = 0.0 if side < 0 else np.pi  # with the traffic, and +y toward the road
    fill = rng.uniform(0.35, 0.85)
    x = -_SIGHT
    while x < path + _SIGHT:
        x += 3.2
        widths = [_edge(street, side, x + dx)[0] for dx in (-3, 0, 3)]
        if min(widths) > 0 and _clear(street, x, 9) and rng.random() < fill:
            kind = rng.choice(4, p=[0.85, 0.03, 0.02, 0.10])
            parts = (made.car, made.trailer, made.truck, made.motorcycle)[kind](rng)
            x += (0, 0.5, 3.0, -1.0)[kind]
            across = side * (_edge(street, side, x)[1] - 1.15 + rng.normal(0, 0.06))
            if kind < 2 or min(_edge(street, side, x + dx)[0] for dx in (-5, 5)) > 0:
                turn = facing + rng.normal(0, 0.03) + np.pi * (kind == 0 and rng.random() < 0.1)
                street.put(parts, x, across, turn, True)
            x += (2.2, 3.2, 4.4, 0.5)[kind]
    row = (side + 1) // 2
    wide = street.ground.sidewalk[row]
    with_trees, between = rng.random() < 0.6, rng.uniform(20, 32)
    wheels = (made.bicycle, made.motorcycle)  # in turns
    for x in np.arange(-_SIGHT, path + _SIGHT, 4.0) + rng.uniform(0, 4):
        if not _clear(street, x, 3):
            continue
        kerb = _edge(street, side, x)[1]
        if _edge(street, side, x + 1)[1] != kerb or _edge(street, side, x - 1)[1] != kerb:
            continue
        strip, draw = side * (kerb + 0.4), rng.random()
        if x % between < 4.0:
            street.put(made.lamp(rng), x, strip, facing)
        elif draw < 0.16:
            street.put(made.sign(rng), x, strip, facing + np.pi * (rng.random() < 0.2))
        elif draw < 0.45 and with_trees:
            street.put(made.tree(rng, rng.uniform(4.5, 8)), x, side * (kerb + 0.6))
        elif draw < 0.49:
            street.put(made.bin_or_box(rng), x, strip)
        elif draw < 0.64:
            wheels = wheels[::-1]
            street.put(wheels[0](rng), x, side * (kerb + 0.45), rng.normal(0, 0.15), True)
        elif draw < 0.70:
            across = side * (kerb + rng.uniform(0.7, wide - 0.4))
            street.put(made.person(rng), x, across, rng.uniform(0, 2 * np.pi), True)
        elif draw < 0.85:
            street.put(made.bush(rng, rng.uniform(0.4, 0.8)), x, side * (kerb + 0.5))


def _plots(street: Street, rng, side: int, path: float, rare: str) -> None:
    """Divide the land along one side into plots and fill them, one near the drive with `rare`."""
    deck = ["house"] * 5 + ["row"] * 2 + ["green"] * 6
    if rng.random() < 0.4:  # a denser town
        deck += ["row"] * 3
    x, row, ground = -_SIGHT, (side + 1) // 2, street.ground
    drawn: list[str] = []
    due = rng.uniform(-25, path / 2)  # where the rare plot begins, at the earliest
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
        kind = drawn.pop() if length > 13 else "green"
        if x >= due and length > 13:
            kind, due = rare, np.inf
        label = _PLOTS[kind]
        first = int((x - ground.start) / ground.step)
        ground.beyond[row, first : first + int(length / ground.step)] = label
        edges = [_edge(street, side, x + t * length)[1] for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
        _fill(street, rng, side, kind, x, length, max(edges) + ground.sidewalk[row])
        x += length + (0.0 if kind == "row" else rng.uniform(0.5, 2))


def _fill(street: Street, rng, side: int, kind: str, x: float, length: float, edge: float) -> None:
    """Put what belongs on a plot that begins at x and `edge` metres from the road's middle."""

    def front(parts, along, away, wide):
        """Parts that begin at `along` and are `wide`, their front toward the road."""
        pose = street.pose(x + along + wide / 2, side * (edge + away), 0.0 if side > 0 else np.pi)
        pose[:3, 3] -= pose[:3, 0] * wide / 2
        street.parts.append(solids(parts, pose))

    def garden(count, near, far, taken=()):
        """Trees, bushes and high grass, none within a place taken: (along, away, half sizes)."""
        placed = list(taken)
        for _ in range(count):
            along, away = rng.uniform(1, length - 1), rng.uniform(near, far)
            if all(abs(along - a) > w or abs(away - b) > d for a, b, w, d in placed):
                placed.append((along, away, 1.6, 1.6))
                draw = rng.random()
                if draw < 0.35:
                    parts = made.tree(rng, rng.uniform(3, 11))
                elif draw < 0.8:
                    parts = made.bush(rng, rng.uniform(0.6, 2.0))
                else:
                    parts = made.bush(rng, rng.uniform(1.0, 2.5), 0.3)
                street.put(parts, x + along, side * (edge + away))

    if kind != "row":  # the border to the neighbour
        border = made.fence(rng, 15.0, rng.choice(_BORDERS))
        street.put(border, x, side * (edge + 0.5), side * np.pi / 2)
    if kind == "row":
        front(made.building(rng, length, rng.uniform(9, 12), rng.integers(2, 6), 0.2), 0,
              rng.uniform(0.3, 0.8), length)  # fmt: skip
    elif kind == "house":
        wide, away = min(rng.uniform(8.5, 13), length - 4.2), rng.uniform(3.5, 7.5)
        left = rng.uniform(0.5, length - wide - 3.5)
        front(made.building(rng, wide, rng.uniform(8, 10.5), rng.integers(1, 4), 0.15),
              left, away, wide)  # fmt: skip
        gate = length - 3.2
        front(made.fence(rng, gate, rng.choice(_BORDERS)), 0, 0.35, gate)
        if rng.random() < 0.7:
            street.put(made.car(rng), x + gate + 1.6, side * (edge + rng.uniform(3.2, 6)),
                       np.pi / 2, True)  # fmt: skip
        house = (left + wide / 2, away + 5, wide / 2 + 1.5, 7.0)
        drive = (gate + 1.6, 4.0, 2.2, 6.5)
        garden(20, 1.5, 22, [house, drive])
    elif kind == "green":
        if rng.random() < 0.6:
            border = rng.choice(["rail", "mesh", "wall", "hedge"])
            front(made.fence(rng, length, border), 0, 0.4, length)
        garden(int(3 * length), 1.0, 18)
    elif kind == "lot":
        for along in np.arange(2.0, length - 1.5, 2.7):
            for away, other in ((4.2, made.trailer), (12.5, made.truck)):
                if rng.random() < 0.6:
                    parts = (made.car if rng.random() < 0.75 else other)(rng)
                    turn = np.pi / 2 * rng.choice([-1, 1])
                    street.put(parts, x + along, side * (edge + away), turn, True)
        front(made.fence(rng, length, "hedge"), 0, 18, length)
        garden(8, 20, 28)
    else:
        front(made.building(rng, length - 1, 14, 2, 0.0), 0.5, rng.uniform(13.5, 16), length - 1)
        for along in np.arange(4.5, length - 4, 5.0):
            parts = (made.truck, made.trailer, made.bus, made.car)[rng.integers(4)](rng)
            if rng.random() < 0.4:
                street.put(parts, x + along, side * (edge + 6.9), np.pi / 2, True)
        front(made.fence(rng, length / 2, "mesh"), 0, 0.4, length / 2)


def _background(street: Street, rng, path: float) -> None:
    """Trees and buildings behind the plots, and along the side roads."""
    for side in (-1, 1):
        for x in np.arange(-_SIGHT - 20, path + _SIGHT + 20, 4.0):
            if not _clear(street, x, 6):
                continue
            if rng.random() < 0.15:
                parts = made.building(rng, 11.0, 10.0, rng.integers(2, 5), 0.0)
                street.put(parts, x, side * rng.uniform(40, 55), rng.choice([0, np.pi / 2]))
            else:
                bushy = rng.random() < 0.4
                parts = made.bush(rng, 3.0) if bushy else made.tree(rng, rng.uniform(5, 14))
                street.put(parts, x, side * rng.uniform(31, 50))
        for middle, half in street.ground.crossing:
            for away in np.arange(15, 65, 9.0):
                for bank in (-1, 1):
                    x = middle + bank * (half + 2.6)
                    parts = made.fence(rng, 9.0, rng.choice(_BORDERS))
                    if rng.random() < 0.8:
                        street.put(parts, x, side * away, side * np.pi / 2)
                    if rng.random() < 0.4:
                        street.put(made.car(rng), middle + bank * (half - 1.0), side * (away + 4),
                                   -bank * np.pi / 2, True)  # fmt: skip
            street.put(made.tree(rng, 10.0), middle + rng.uniform(-2, 2), side * 75)
        street.put(made.tree(rng, 12.0), -_SIGHT - 25, side * 5)
        street.put(made.tree(rng, 12.0), path + _SIGHT + 25, side * 5)


def _traffic(street: Street, rng, scans: int) -> None:
    """Vehicles and riders in both lanes, walkers on the pavements; none meets another."""
    path, half_road = (scans - 1) * STRIDE, street.ground.half_road
    times = np.arange(scans) * SECOND
    pace = STRIDE / SECOND  # of the sensor, and of all that drive with it
    kinds = [(made.bicyclist, made.BICYCLIST, 1.0, 4.0)] * 3
    kinds += [(made.motorcyclist, made.MOTORCYCLIST, 1.1, pace)] * 3
    kinds += [(made.car, made.CAR, 2.5, pace)] * 5
    kinds += [(made.truck, made.TRUCK, 4.6, pace), (made.bus, made.BUS, 6.0, pace)]
    for make, label, half, speed in kinds:
        thing = solids(make(rng, made.MOVING[label]))
        for _ in range(10):  # draws of a place before this one stays away
            side, time = rng.choice([-1, 1]), rng.choice(times)  # when it is near the sensor
            across = side * (half_road - 0.5 if label == made.BICYCLIST else half_road / 2)
            x = (pace + side * speed) * time + rng.uniform(-25, 35) * (2 if half > 4 else 1)
            mover = Mover(thing, x, across, -side * speed, half)
            others = [(m.at(times), m.half, m.across) for m in street.movers]
            others.append((times * pace, 3.5, -half_road / 2))  # the sensor's own car
            aside = 1.3 if half < 1.5 else 2.2
            if all((abs(at - mover.at(times)) > half + other + 1.5).all()
                   or abs(a - across) > aside for at, other, a in others):  # fmt: skip
                street.movers.append(mover)
                break
    for _ in range(3 + scans // 2):
        side = rng.choice([-1, 1])
        x = rng.uniform(-20, path + 25)
        kerb = max(_edge(street, side, x + dx)[1] for dx in (-10, -5, 0, 5, 10))
        across = side * (kerb + rng.uniform(1.0, 1.2))
        speed = rng.choice([-1, 1]) * rng.uniform(0.8, 1.5)
        walker = solids(made.person(rng, made.MOVING[made.PERSON]))
        street.movers.append(Mover(walker, x, across, speed, 0.4))
    for number, mover in enumerate(street.movers, start=street.things + 1):
        mover.solids.label[:] |= np.uint32(number << 16)
