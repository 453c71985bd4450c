"""What stands in a simulated street: each object as solids in its own frame.

x is forward (of a building: along the street), y left (of a building: away from the street), z up
from the ground.  Sizes are drawn from the ranges of the real things, by an explicit generator.
Labels are those of SemanticKITTI; a van is a car and a bus an "other-vehicle" by its rules.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from streets.lidar import BOX, CYLINDER, ELLIPSOID, Solids

CAR, BICYCLE, BUS, MOTORCYCLE, TRUCK, OTHER_VEHICLE = 10, 11, 13, 15, 18, 20
PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
BUILDING, FENCE, VEGETATION, TRUNK, POLE, TRAFFIC_SIGN, OTHER_OBJECT = 50, 51, 70, 71, 80, 81, 99
MOVING = {CAR: 252, BICYCLIST: 253, PERSON: 254, MOTORCYCLIST: 255, BUS: 257, TRUCK: 258}

Random = np.random.Generator


class Surface(NamedTuple):
    reflectance: float
    density: float = 0.0  # hits per metre inside, of what light enters; 0: hard
    lost: float = 0.0  # share of returns swallowed


GLASS = Surface(0.12, lost=0.7)
RUBBER, METAL, DARK = Surface(0.06), Surface(0.35), Surface(0.10)
PLATE, SIGN = Surface(0.95), Surface(0.97)  # retroreflective
BARK, SKIN = Surface(0.28), Surface(0.38)
SPOKES = Surface(0.2, density=12.0)


class Part(NamedTuple):
    shape: int
    label: int
    surface: Surface
    matrix: np.ndarray
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0)


def turned(yaw: float, pitch: float = 0.0, place=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the pose [4, 4] turned left by `yaw` and up by `pitch` at a place."""
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    pose = np.eye(4)
    pose[:3, :3] = [[c * cp, -s, -c * sp], [s * cp, c, -s * sp], [sp, 0, cp]]
    pose[:3, 3] = place
    return pose


def box(label, surface, x, y, z, taper=(0.0, 0.0, 0.0)) -> Part:
    """Return the box between two limits along each axis."""
    low, high = np.transpose([x, y, z]).astype(float)
    matrix = np.diag([*(high - low) / 2, 1.0])
    matrix[:3, 3] = (low + high) / 2
    return Part(BOX, label, surface, matrix, taper)


def ball(label, surface, centre, half, yaw: float = 0.0) -> Part:
    """Return the ellipsoid with three half sizes."""
    return Part(ELLIPSOID, label, surface, turned(yaw, 0.0, centre) @ np.diag([*half, 1.0]))


def limb(label, surface, start, end, radius: float, taper: float = 0.0) -> Part:
    """Return the round rod from one point to another; its radius falls by the share `taper`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / 2
    length = np.linalg.norm(axis)
    beside = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.7 * length else [0.0, 1.0, 0.0])
    beside *= radius / np.linalg.norm(beside)
    matrix = np.eye(4)
    matrix[:3, :3] = np.transpose([beside, np.cross(axis, beside) / length, axis])
    matrix[:3, 3] = (start + end) / 2
    return Part(CYLINDER, label, surface, matrix, (taper, 0.0, 0.0))


def solids(parts: list[Part], pose: np.ndarray | None = None, instance: int = 0) -> Solids:
    """Return parts as solids at a pose [4, 4] of the world, all of one instance."""
    shape, label, surface, matrix, taper = zip(*parts, strict=True)
    reflectance, density, lost = np.array(surface, dtype=float).T
    return Solids(
        np.array(shape), np.array(matrix) if pose is None else pose @ np.array(matrix),
        np.array(taper, dtype=float), np.array(label, dtype=np.uint32) | np.uint32(instance << 16),
        reflectance, density, lost,
    )  # fmt: skip


def _wheels(label: int, at, half_width: float, radius: float, wide: float = 0.22) -> list[Part]:
    return [limb(label, RUBBER, (x, y - wide / 2, radius), (x, y + wide / 2, radius), radius)
            for x in at for y in (wide / 2 - half_width, half_width - wide / 2)]  # fmt: skip


def car(rng: Random, label: int = CAR) -> list[Part]:
    """A hatchback, saloon, estate or van of hood, glazed cabin, roof, wheels, mirrors, plates."""
    style = rng.choice(4, p=[0.35, 0.25, 0.25, 0.15])
    half = (rng.uniform(3.7, 4.2), rng.uniform(4.4, 4.9), *rng.uniform(4.4, 5.1, 2))[style] / 2
    tall = (rng.uniform(1.42, 1.55), rng.uniform(1.4, 1.5), 1.5, rng.uniform(1.8, 2.05))[style]
    wide, belt, low = rng.uniform(0.84, 0.93), 0.62 * tall, rng.uniform(0.2, 0.28)
    paint = Surface(rng.choice([0.05, 0.12, 0.3, 0.5, 0.7]) * rng.uniform(0.8, 1.2))
    front = half * (0.45 if style < 3 else 0.7)  # where the windscreen begins
    back = (-0.93, -0.62, -0.96, -0.98)[style] * half
    slope, slant = (0.45, 0.5, 0.45, 0.3)[style], (0.22, 0.5, 0.15, 0.05)[style]
    roof = (back + slant * (front - back) / 2, front - slope * (front - back) / 2)
    return [
        box(label, paint, (-half, half), (-wide, wide), (low, 0.75 * belt), (0.03, 0.02, 0.02)),
        box(label, paint, (0.02 - half, half - 0.08), (-wide, wide), (0.75 * belt, belt),
            (0.25, 0.04, 0.05)),
        box(label, GLASS, (back, front), (-0.94 * wide, 0.94 * wide), (belt, tall - 0.05),
            (slope, slant, 0.22)),
        box(label, paint, roof, (-0.76 * wide, 0.76 * wide), (tall - 0.06, tall), (0.1, 0.1, 0.1)),
        box(label, PLATE, (half, half + 0.02), (-0.26, 0.26), (0.45, 0.56)),
        box(label, PLATE, (-half - 0.02, -half), (-0.26, 0.26), (0.6, 0.71)),
        *(ball(label, DARK, (0.8 * front, y, belt + 0.08), (0.08, 0.11, 0.08))
          for y in (-wide - 0.06, wide + 0.06)),
        *_wheels(label, (-0.6 * half, 0.62 * half), wide + 0.01, 0.32),
    ]  # fmt: skip


def truck(rng: Random, label: int = TRUCK) -> list[Part]:
    """A lorry: cabin with windscreen, a box or a flat bed behind it, chassis, six wheels."""
    bed, tall = rng.uniform(4.5, 7.0), rng.uniform(2.6, 3.6)
    front = bed / 2 + 1.2
    paint, side = Surface(rng.uniform(0.2, 0.6)), Surface(rng.uniform(0.25, 0.6))
    covered = rng.random() < 0.75
    return [
        box(label, paint, (front - 1.9, front), (-1.1, 1.1), (0.5, 2.6), (0.08, 0, 0.06)),
        box(label, GLASS, (front - 0.12, front - 0.02), (-0.95, 0.95), (1.5, 2.3)),
        box(label, DARK, (front - 2.2 - bed, front - 0.2), (-0.9, 0.9), (0.5, 0.95)),
        box(label, side, (front - 2.2 - bed, front - 2.1), (-1.25, 1.25),
            (0.95, tall if covered else 1.5)),
        *(limb(label, DARK, (front - 1.7, y, 2.0), (front - 1.3, y, 2.0), 0.12)
          for y in (-1.25, 1.25)),
        *_wheels(label, (front - 0.8, front - bed - 0.2, front - bed - 1.2), 1.2, 0.48, 0.3),
    ]  # fmt: skip


def bus(rng: Random, label: int = BUS) -> list[Part]:
    """A city bus with bands of windows."""
    half, paint = rng.uniform(5.0, 6.0), Surface(rng.uniform(0.25, 0.6))
    panes = [box(label, GLASS, (x, x + 1.5), (-1.27, 1.27), (1.3, 2.3))
             for x in np.arange(-half + 0.4, half - 1.6, 1.75)]  # fmt: skip
    return [
        box(label, paint, (-half, half), (-1.25, 1.25), (0.35, 3.0), (0.02, 0.01, 0.04)),
        box(label, GLASS, (half - 0.05, half + 0.01), (-1.1, 1.1), (1.1, 2.6)),
        *panes, *_wheels(label, (-0.45 * half, 0.6 * half), 1.26, 0.5, 0.3),
    ]  # fmt: skip


def trailer(rng: Random) -> list[Part]:
    """A caravan or an open trailer with its drawbar."""
    half = rng.uniform(1.4, 2.4)
    paint = Surface(rng.uniform(0.3, 0.65))
    top, taper = (2.5, (0.15, 0.1, 0.05)) if rng.random() < 0.7 else (1.1, (0.0, 0.0, 0.0))
    parts = [
        box(OTHER_VEHICLE, paint, (-half, half), (-1.05, 1.05), (0.45, top), taper),
        limb(OTHER_VEHICLE, DARK, (half, 0, 0.5), (half + 1.2, 0, 0.45), 0.06),
        limb(OTHER_VEHICLE, DARK, (half + 1.1, 0, 0), (half + 1.1, 0, 0.5), 0.05),
        *_wheels(OTHER_VEHICLE, (-0.1,), 1.06, 0.3),
    ]
    if top > 2:
        parts.append(box(OTHER_VEHICLE, GLASS, (-0.5, 0.6), (-1.06, 1.06), (1.3, 1.9)))
    return parts


def bicycle(rng: Random, label: int = BICYCLE) -> list[Part]:
    """Wheels with spokes, frame, saddle, handlebar."""
    paint, r = Surface(rng.uniform(0.15, 0.5)), 0.34
    crank, head, seat = (-0.05, 0, 0.3), (0.4, 0, 0.85), (-0.2, 0, 0.8)
    rods = [(crank, head), (crank, seat), (seat, head), ((-0.52, 0, r), crank),
            ((-0.52, 0, r), seat), ((0.53, 0, r), head), (head, (0.36, 0, 1.02)),
            ((0.36, -0.28, 1.04), (0.36, 0.28, 1.04))]  # fmt: skip
    return [
        *(limb(label, SPOKES, (x, -0.02, r), (x, 0.02, r), r) for x in (-0.52, 0.53)),
        *(limb(label, paint, start, end, 0.022) for start, end in rods),
        ball(label, DARK, (-0.22, 0, 0.9), (0.13, 0.08, 0.05)),
    ]


def motorcycle(rng: Random, label: int = MOTORCYCLE) -> list[Part]:
    """Wheels, engine, tank, seat, fork, handlebar; some with a windshield (scooters)."""
    paint, r = Surface(rng.uniform(0.1, 0.5)), 0.31
    parts = [
        *(limb(label, RUBBER, (x, -0.07, r), (x, 0.07, r), r) for x in (-0.68, 0.7)),
        box(label, METAL, (-0.3, 0.3), (-0.2, 0.2), (0.25, 0.6), (0.2, 0.2, 0.2)),
        ball(label, paint, (0.12, 0, 0.82), (0.32, 0.17, 0.17)),
        box(label, DARK, (-0.8, -0.1), (-0.15, 0.15), (0.68, 0.82), (0.0, 0.3, 0.2)),
        limb(label, METAL, (0.7, 0, r), (0.48, 0, 1.05), 0.07),
        limb(label, METAL, (0.42, -0.36, 1.08), (0.42, 0.36, 1.08), 0.03),
        ball(label, paint, (0.62, 0, 0.85), (0.12, 0.13, 0.14)),
    ]
    if rng.random() < 0.4:
        parts.append(box(label, paint, (0.5, 0.62), (-0.22, 0.22), (0.4, 1.35), (0, 0.5, 0.1)))
    return parts


def _body(rng, label, hip, neck, hands, feet) -> list[Part]:
    """A person between a hip and a neck; hands and feet are a left and a right place each."""
    coat, legs = Surface(rng.uniform(0.1, 0.6)), Surface(rng.uniform(0.08, 0.4))
    hip, neck = np.asarray(hip, float), np.asarray(neck, float)
    aside, up = np.array([0.0, 0.2, 0.0]), (neck - hip) / np.linalg.norm(neck - hip)
    parts = [
        limb(label, coat, hip - 0.05 * up, neck - 0.08 * up, rng.uniform(0.17, 0.21), 0.1),
        ball(label, coat, neck - 0.12 * up, (0.15, 0.23, 0.1)),
        limb(label, SKIN, neck - 0.05 * up, neck + 0.1 * up, 0.06),
        ball(label, SKIN, neck + 0.19 * up, (0.1, 0.085, 0.125)),
    ]
    for sign, hand, foot in zip((1, -1), np.asarray(hands, float), np.asarray(feet, float),
                                strict=True):  # fmt: skip
        shoulder, thigh = neck - 0.1 * up + sign * aside, hip + 0.5 * sign * aside
        elbow = (shoulder + hand) / 2 - [0.03, 0, 0.06]
        knee = (thigh + foot) / 2 + [0.25 * np.linalg.norm(thigh - hip) + 0.05, 0, 0.02]
        parts += [limb(label, coat, shoulder, elbow, 0.055), limb(label, coat, elbow, hand, 0.045),
                  limb(label, legs, thigh, knee, 0.085), limb(label, legs, knee, foot, 0.06),
                  ball(label, DARK, foot + [0.06, 0, 0.0], (0.13, 0.05, 0.05))]  # fmt: skip
    return parts


def person(rng: Random, label: int = PERSON) -> list[Part]:
    """A standing or walking person, 1.55 to 1.9 m tall, some with a bag."""
    tall = rng.uniform(1.55, 1.9)
    step, swing = rng.uniform(0, 0.32, 2) * rng.choice([-1, 1])
    hip, neck = (0, 0, 0.5 * tall), (0.03, 0, tall - 0.3)
    hands = [(-swing, 0.3, 0.46 * tall), (swing, -0.3, 0.46 * tall)]
    parts = _body(rng, label, hip, neck, hands, [(step, 0.1, 0.06), (-step, -0.1, 0.06)])
    if rng.random() < 0.3:
        parts.append(ball(label, Surface(0.3), (-0.2, 0, 0.72 * tall), (0.14, 0.16, 0.22)))
    return parts


def bicyclist(rng: Random, label: int = BICYCLIST) -> list[Part]:
    """A bicycle with its rider."""
    hands, feet = [(0.33, 0.27, 1.05), (0.33, -0.27, 1.05)], [(0.1, 0.1, 0.2), (-0.12, -0.1, 0.45)]
    neck = (rng.uniform(0.0, 0.15), 0, rng.uniform(1.42, 1.52))
    return bicycle(rng, label) + _body(rng, label, (-0.2, 0, 0.97), neck, hands, feet)


def motorcyclist(rng: Random, label: int = MOTORCYCLIST) -> list[Part]:
    """A motorcycle with its rider in a helmet."""
    hands, feet = [(0.4, 0.33, 1.08), (0.4, -0.33, 1.08)], [(0.0, 0.24, 0.3), (0.0, -0.24, 0.3)]
    neck = (rng.uniform(-0.15, 0.0), 0, rng.uniform(1.38, 1.46))
    helmet = ball(label, Surface(0.4), np.add(neck, (0.02, 0, 0.2)), (0.15, 0.13, 0.15))
    body = _body(rng, label, (-0.35, 0, 0.88), neck, hands, feet)
    return [*motorcycle(rng, label), *body, helmet]


def _leaves(rng: Random) -> Surface:
    return Surface(rng.uniform(0.3, 0.5), density=rng.uniform(0.9, 2.2))


def tree(rng: Random, tall: float) -> list[Part]:
    """A trunk, boughs, and a crown of overlapping clumps of leaves; one in six a conifer."""
    leaves, lean = _leaves(rng), rng.normal(0, 0.04, 2) * tall
    thick = rng.uniform(0.018, 0.03) * tall
    if rng.random() < 1 / 6:
        foot, wide = rng.uniform(0.4, 1.2), rng.uniform(0.16, 0.24) * tall
        return [
            limb(TRUNK, BARK, (0, 0, -0.3), (0, 0, foot + 0.5), thick),
            *(limb(VEGETATION, leaves, (0, 0, foot + i * 0.22 * tall),
                   (*lean * i / 4, min(foot + (i + 1.6) * 0.22 * tall, tall)),
                   wide * (1 - 0.22 * i), 0.75) for i in range(4)),
        ]  # fmt: skip
    fork = np.array([*lean, rng.uniform(0.1, 0.3) * tall + 0.5])
    wide = rng.uniform(0.2, 0.32) * tall
    middle = np.array([*lean * 1.5, (fork[2] + tall) / 2])
    spread = np.array([wide, wide, (tall - fork[2]) / 2])
    parts = [limb(TRUNK, BARK, (0, 0, -0.3), fork + [0, 0, 0.4], thick, 0.35)]
    for _ in range(rng.integers(9, 15)):
        way = rng.normal(size=3)
        at = middle + way / np.linalg.norm(way) * rng.uniform(0.35, 0.8) * spread
        size = rng.uniform(0.28, 0.5) * wide * rng.uniform(0.8, 1.2, 3)
        parts.append(ball(VEGETATION, leaves, at, size, rng.uniform(0, np.pi)))
        if rng.random() < 0.35:
            parts.append(limb(VEGETATION, BARK, fork, at, 0.25 * thick, 0.5))
    parts.append(ball(VEGETATION, leaves._replace(density=0.5), middle, 0.6 * spread))
    return parts


def bush(rng: Random, size: float, flat: float = 1.0) -> list[Part]:
    """Three to five clumps of leaves on the ground; high grass where `flat` is small."""
    leaves = Surface(rng.uniform(0.3, 0.5), density=rng.uniform(2.5, 5.0))
    parts = []
    for _ in range(rng.integers(3, 6)):
        x, y = rng.normal(0, 0.45 * size, 2)
        half = size * rng.uniform(0.4, 0.8, 3) * [1, 1, flat]
        parts.append(ball(VEGETATION, leaves, (x, y, 0.5 * half[2]), half, rng.uniform(0, 3)))
    return parts


def fence(rng: Random, length: float, kind: str) -> list[Part]:
    """A hedge, wall, picket fence, wire mesh or guard rail along x, in pieces of some metres."""
    tall = {"hedge": rng.uniform(1.1, 2.5), "wall": rng.uniform(0.6, 1.5), "rail": 0.8}.get(
        kind, rng.uniform(0.9, 1.5))  # fmt: skip
    stone = Surface(rng.uniform(0.2, 0.45))
    leaves = Surface(rng.uniform(0.3, 0.5), density=6.0)
    parts = []
    for x in np.arange(0, length - 0.3, 2.4):
        end = min(x + 2.4, length)
        if kind == "hedge":
            top = tall * rng.uniform(0.92, 1.08)
            parts.append(box(VEGETATION, leaves, (x, end), (-0.4, 0.4), (-0.3, top), (0, 0, 0.25)))
        elif kind == "wall":
            parts += [box(FENCE, stone, (x, end), (-0.12, 0.12), (-0.3, tall)),
                      box(FENCE, stone, (x, end), (-0.17, 0.17), (tall, tall + 0.08))]  # fmt: skip
        elif kind == "rail":
            parts += [box(FENCE, METAL, (x, end), (-0.04, 0.04), (0.45, tall)),
                      box(FENCE, METAL, (x, x + 0.1), (-0.06, 0.06), (-0.2, tall))]  # fmt: skip
        else:  # slats or wire: what a beam of a few centimetres meets by chance
            mesh = Surface(0.35, density=14.0 if kind == "picket" else 5.0)
            parts += [box(FENCE, mesh, (x, end), (-0.03, 0.03), (0.05, tall)),
                      box(FENCE, stone, (x, x + 0.1), (-0.06, 0.06), (-0.3, tall + 0.05)),
                      *(box(FENCE, stone, (x, end), (-0.03, 0.04), (z, z + 0.06))
                        for z in (0.25 * tall, 0.9 * tall))]  # fmt: skip
    return parts


def sign(rng: Random) -> list[Part]:
    """A pole with one or two round, square or wide plates, 2 to 3 m up."""
    top = rng.uniform(2.2, 3.0)
    parts = [limb(POLE, METAL, (0, 0, -0.2), (0, 0, top), 0.04)]
    for z in (top - 0.3, top - 1.0)[: rng.integers(1, 3)]:
        half = rng.uniform(0.25, 0.36)
        if rng.random() < 0.5:
            parts.append(limb(TRAFFIC_SIGN, SIGN, (-0.08, 0, z), (-0.05, 0, z), half))
        else:
            wide = half * rng.choice([1.0, 1.5])
            parts.append(
                box(TRAFFIC_SIGN, SIGN, (-0.08, -0.05), (-wide, wide), (z - half, z + half))
            )
    return parts


def lamp(rng: Random) -> list[Part]:
    """A street lamp of 5 to 8 m whose arm reaches along +y."""
    top, reach = rng.uniform(5.0, 8.0), rng.uniform(0.8, 1.8)
    return [
        limb(POLE, METAL, (0, 0, -0.2), (0, 0, top), rng.uniform(0.07, 0.11), 0.3),
        limb(POLE, METAL, (0, 0, top), (0, reach, top + 0.2), 0.04),
        ball(POLE, METAL, (0, reach, top + 0.15), (0.15, 0.4, 0.08)),
    ]


def bin_or_box(rng: Random) -> list[Part]:
    """A wheeled bin, a switch cabinet or a hydrant: "other-object" of the real set."""
    wide, tall = rng.choice([(0.3, 1.1), (0.6, 1.3), (0.15, 0.8)])
    return [box(OTHER_OBJECT, Surface(rng.uniform(0.1, 0.4)), (-wide, wide), (-0.3, 0.3),
                (0, tall), (0.05, 0.05, 0.05))]  # fmt: skip


def building(rng: Random, length: float, depth: float, floors: int, balconies: float) -> list[Part]:
    """A building whose front (y = 0, from x = 0 on) has windows, a door, ledges and balconies."""
    wall, roof = Surface(rng.uniform(0.22, 0.5)), Surface(rng.uniform(0.15, 0.35))
    storey = rng.uniform(2.7, 3.2)
    tall = floors * storey + 0.5
    bays = max(2, round(length / rng.uniform(2.4, 3.4)))
    bay, pane, out = length / bays, rng.uniform(0.4, 0.6), rng.uniform(0.12, 0.3)
    parts = [
        box(BUILDING, wall, (0, length), (out, depth), (-1.5, tall)),
        box(BUILDING, GLASS, (0.1, length - 0.1), (out - 0.03, out + 0.01), (0.5, tall)),
    ]
    for b in range(bays + 1):
        half = bay * (1 - pane) / 2
        ends = max(b * bay - half, 0), min(b * bay + half, length)
        parts.append(box(BUILDING, wall, ends, (0, out), (-1.5, tall)))
    for f in range(floors + 1):
        sill = f * storey + 0.5
        parts.append(box(BUILDING, wall, (0, length), (0, out),
                         (sill - 0.6 if f else -1.5, min(sill + 0.8, tall))))  # fmt: skip
    door = (rng.integers(bays) + 0.5) * bay
    parts.append(box(BUILDING, wall, (door - 0.9, door + 0.9), (-0.9, 0), (2.4, 2.55)))
    for f in range(1, floors):
        for b in range(bays):
            if rng.random() < balconies:
                x, z = (b * bay + 0.15, (b + 1) * bay - 0.15), f * storey + 0.4
                parts += [box(BUILDING, wall, x, (-1.1, 0), (z - 0.15, z)),
                          box(BUILDING, wall, x, (-1.12, -1.05), (z, z + 1.0))]  # fmt: skip
    if rng.random() < 0.75:  # a gable along the street, with chimneys and dormers
        rise = rng.uniform(0.3, 0.5) * depth
        parts.append(box(BUILDING, roof, (-0.3, length + 0.3), (-0.5, depth + 0.3),
                         (tall, tall + rise), (0, 0, 1.0)))  # fmt: skip
        for x in rng.uniform(1, length - 1, rng.integers(1, 3)):
            parts.append(box(BUILDING, wall, (x - 0.4, x + 0.4), (0.55 * depth, 0.65 * depth),
                             (tall, tall + rise + 0.6)))  # fmt: skip
        for b in range(0, bays, 2):
            parts.append(box(BUILDING, wall, (b * bay + 0.5, b * bay + 2.0), (0.1 * depth,
                             0.35 * depth), (tall, tall + 0.5 * rise)))  # fmt: skip
    else:
        parts.append(box(BUILDING, roof, (-0.2, length + 0.2), (-0.3, depth), (tall, tall + 0.4)))
    return parts
