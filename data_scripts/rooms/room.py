"""One simulated room: how large, what is built in, its furniture, its lamps and its scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rooms.furniture import THINGS, WOODS, furnish, varied
from rooms.plan import Box, Plan
from rooms.scanner import Look, Scan, scan

TEST_AREA = 5
POINTS = (30_000, 60_000)  # rays of a small and of a large room
_SHADOWS = 3  # lamps whose light is traced

WALLS = ((0.88, 0.87, 0.83), (0.83, 0.85, 0.86), (0.87, 0.82, 0.73), (0.78, 0.82, 0.78))
FLOORS = (Look((0.42, 0.42, 0.45)), Look((0.52, 0.37, 0.24), pattern="planks"),
          Look((0.62, 0.59, 0.54), (0.45, 0.43, 0.40), "tiles", 0.40),
          Look((0.33, 0.37, 0.42), (0.28, 0.31, 0.36), "tiles", 0.50))  # fmt: skip
DOORS = (*WOODS, (0.75, 0.75, 0.72), (0.40, 0.45, 0.52))


@dataclass(frozen=True)
class Building:
    """What the rooms of one area share: heights in metres and the looks of what is built in."""

    height: float
    wall: tuple[float, float, float]
    floor: Look
    ceiling: Look
    door: Look
    frame: Look
    column: Look


@dataclass(frozen=True)
class RoomKind:
    """A kind of room: the ranges of its width and depth in metres, and what is built into it.

    Columns, beams and boards are at most so many.
    """

    width: tuple[float, float]
    depth: tuple[float, float]
    doors: int
    windows: int
    boards: int
    columns: int
    beams: int
    signs: int  # pictures, notices and the like: clutter


ROOM_KINDS = {
    "office": RoomKind((3.2, 5.0), (3.6, 5.6), 1, 1, 1, 1, 1, 3),
    "hallway": RoomKind((1.9, 2.7), (7.0, 12.0), 6, 1, 1, 2, 2, 5),
    "conferenceRoom": RoomKind((4.2, 5.8), (5.5, 8.0), 2, 2, 1, 1, 2, 3),
    "storage": RoomKind((2.8, 3.8), (3.4, 5.0), 1, 0, 0, 1, 1, 2),
    "lounge": RoomKind((5.0, 7.0), (5.5, 8.0), 2, 2, 1, 3, 2, 3),
}


def building(seed: int, area: int) -> Building:
    """Return what the rooms of an area have in common."""
    generator = np.random.default_rng([seed, area])

    def one(of: Sequence) -> tuple:
        return of[generator.integers(len(of))]

    wall = varied(one(WALLS), generator)
    return Building(
        height=float(generator.uniform(2.7, 3.2)),
        wall=wall,
        floor=one(FLOORS),
        ceiling=Look(varied((0.86, 0.86, 0.84), generator), (0.55, 0.55, 0.55), "tiles", 0.6),
        door=Look(varied(one(DOORS), generator)),
        frame=Look(varied(one((*WOODS, (0.5, 0.5, 0.52), (0.85, 0.85, 0.85))), generator)),
        column=Look(varied(tuple(0.88 * c for c in wall), generator)),
    )


def furnished_room(kind: str, seed: int, area: int, number: int) -> tuple[Plan, np.ndarray]:
    """Return a room with all that stands in it, and the positions of its lamps [L, 3].

    kind: one of ROOM_KINDS; the room is fixed by (seed, area, number).
    """
    generator = np.random.default_rng([seed, area, number])
    of, house = ROOM_KINDS[kind], building(seed, area)
    width, depth = generator.uniform(*of.width), generator.uniform(*of.depth)
    size = (float(width), float(depth), house.height)
    plan = Plan(size, generator)
    floor, ceiling, up = plan.instance("floor"), plan.instance("ceiling"), house.height
    plan.rectangle(floor, (0, 0, 0), (width, 0, 0), (0, depth, 0), house.floor)
    plan.rectangle(ceiling, (0, 0, up), (width, 0, 0), (0, depth, 0), house.ceiling)
    _build_in(plan, of, house)
    lamps = _lamps(plan, ceiling)
    furnish(kind, plan, "test" if area == TEST_AREA else "train")
    plan.close_walls(Look(varied(house.wall, generator, 0.03)))
    return plan, lamps


def _build_in(plan: Plan, of: RoomKind, house: Building) -> None:
    """Add columns, doors, windows, boards and beams."""
    generator, high = plan.generator, house.height
    walls = generator.permutation(4)
    long = (1, 3) if plan.size[1] > plan.size[0] else (0, 2)
    for _ in range(generator.integers(of.columns + 1)):
        plan.column(long[generator.integers(2)], float(generator.uniform(0.3, 0.5)), house.column)
    for k in range(of.doors):
        wide, top = float(generator.uniform(0.85, 1.0)), min(2.1, high - 0.4)
        number = long[generator.integers(2)] if of.doors > 2 else walls[k % 4]
        plan.opening(number, "door", wide, 0.0, top, house.door, house.frame)
    glass = Look((0.62, 0.72, 0.80), kept=0.6)
    blind = Look((0.80, 0.80, 0.76), (0.55, 0.55, 0.52), "stripes", 0.05)
    for k in range(of.windows):
        wide = float(generator.uniform(1.2, 2.2))
        bottom, top = float(generator.uniform(0.85, 1.0)), float(generator.uniform(1.9, 2.25))
        look = (glass, blind)[generator.integers(2)]
        plan.opening(walls[(of.doors + k) % 4], "window", wide, bottom, top, look, house.frame, 2)
    for _ in range(generator.integers(of.boards + 1)):
        bottom, wide = float(generator.uniform(0.85, 1.0)), float(generator.uniform(1.2, 2.4))
        colour = ((0.93, 0.94, 0.94), (0.93, 0.94, 0.94), (0.12, 0.25, 0.18))[generator.integers(3)]
        for number in generator.permutation(4):
            if plan.board(number, wide, bottom, bottom + 1.15, Look(varied(colour, generator))):
                break
    for _ in range(of.signs):
        bottom = float(generator.uniform(1.2, 1.5))
        wide, tall = generator.uniform(0.3, 0.9, 2).tolist()
        look = Look(varied(THINGS[generator.integers(len(THINGS))], generator))
        plan.board(generator.integers(4), wide, bottom, bottom + tall, look, "clutter")
    across = 0 if plan.size[1] > plan.size[0] else 1  # beams span the shorter side
    beams = generator.integers(of.beams + 1)
    for k in range(beams):
        along = plan.size[1 - across] * (k + 1) / (beams + 1)
        half = [plan.size[across] / 2, float(generator.uniform(0.12, 0.20))]
        middle = [plan.size[across] / 2, along]
        low = high - float(generator.uniform(0.22, 0.38))
        order = slice(None) if across == 0 else slice(None, None, -1)
        plan.block(plan.instance("beam"), Box(*middle[order], *half[order], 0.0, low, high),
                   house.column)  # fmt: skip


def _lamps(plan: Plan, ceiling: int) -> np.ndarray:
    """Add lamps to the ceiling in rows; return those, of at most _SHADOWS, that throw shadows."""
    width, depth, up = plan.size
    columns, rows = max(1, round(width / 2.4)), max(1, round(depth / 2.4))
    places = [((i + 0.5) * width / columns, (j + 0.5) * depth / rows)
              for i in range(columns) for j in range(rows)]  # fmt: skip
    for x, y in places:
        plan.rectangle(ceiling, (x - 0.15, y - 0.5, up - 0.004), (0.3, 0, 0), (0, 1.0, 0),
                       Look((0.97, 0.97, 0.93), glow=True))  # fmt: skip
    chosen = np.unique(np.linspace(0, len(places) - 1, _SHADOWS).astype(int))
    return np.array([(*places[k], up - 0.45) for k in chosen])


def scanned_room(kind: str, seed: int, area: int, number: int) -> tuple[Plan, Scan]:
    """Return a room and its scan: 2 to 5 scanners at 1.2 to 1.6 m, each ray's first hit."""
    plan, lamps = furnished_room(kind, seed, area, number)
    ground = plan.size[0] * plan.size[1]
    rays = int(np.clip(24_000 + 900 * ground, *POINTS))
    viewpoints = plan.viewpoints(int(np.clip(round(ground / 9), 2, 5)))
    return plan, scan(plan.surfaces(), viewpoints, lamps, rays, plan.generator)
