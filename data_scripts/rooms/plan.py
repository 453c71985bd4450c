"""A room under construction: walls with openings, and furniture placed so that nothing overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rooms.scanner import Look, Part, Surfaces
from scipy.spatial import cKDTree

GAP = 0.03  # metres that stay free between things side by side
TRIES = 30
RECESS = 0.10  # doors and windows lie this deep in the wall


@dataclass(frozen=True)
class Box:
    """An upright box: centre, half sizes, turn about z in radians, lowest and highest z."""

    x: float
    y: float
    half_x: float
    half_y: float
    yaw: float
    low: float
    high: float

    def outside(self, place: np.ndarray) -> np.ndarray:
        """Return how far a place [2] lies beyond the footprint, along each of its axes [2]."""
        local = np.abs(turn(self.yaw)[:2, :2].T @ (place - [self.x, self.y]))
        return np.maximum(local - [self.half_x, self.half_y], 0)

    def corners(self) -> np.ndarray:
        """Return the footprint's corners [4, 2], in order round it."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return signs * [self.half_x, self.half_y] @ turn(self.yaw)[:2, :2].T + [self.x, self.y]


@dataclass(frozen=True)
class Model:
    """A thing of true size, standing at the origin with its front towards -y.

    cloud: [N, 3] metres, z from 0; normals [N, 3]; radii [N]: see `rooms.scanner.discs`.
    """

    name: str
    cloud: np.ndarray
    normals: np.ndarray
    radii: np.ndarray

    @property
    def half(self) -> np.ndarray:
        return np.abs(self.cloud[:, :2]).max(axis=0)

    @property
    def height(self) -> float:
        return float(self.cloud[:, 2].max())


@dataclass(frozen=True)
class Item:
    """A thing in its place: S3DIS's class, the box around it, its points [N, 3] in the room."""

    label: str
    name: str
    box: Box
    points: np.ndarray
    tree: cKDTree


@dataclass(frozen=True)
class Span:
    """A part of a wall that is taken: metres along it and heights."""

    start: float
    end: float
    bottom: float
    top: float


def turn(yaw: float) -> np.ndarray:
    """Return the rotation about z by `yaw` radians, [3, 3]."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def apart(a: Box, b: Box, gap: float = 0.0) -> bool:
    """Return whether two boxes leave `gap` metres between their footprints, or differ in height."""
    if a.low >= b.high or b.low >= a.high:
        return True
    reach = math.hypot(a.half_x, a.half_y) + math.hypot(b.half_x, b.half_y) + gap
    if math.hypot(a.x - b.x, a.y - b.y) > reach:
        return True
    for yaw in (a.yaw, b.yaw):
        axes = turn(yaw)[:2, :2]
        one, two = a.corners() @ axes, b.corners() @ axes
        if (one.min(axis=0) > two.max(axis=0) + gap).any():
            return True
        if (two.min(axis=0) > one.max(axis=0) + gap).any():
            return True
    return False


@dataclass
class Plan:
    """A room of `size` (x, y, z in metres, from the origin), which its methods fill.

    instances: the class of each; items: the furniture; taken: all that stands on the floor, and
    what must stay free; spans: what hangs on or opens each of the four walls.
    """

    size: tuple[float, float, float]
    generator: np.random.Generator
    instances: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)
    spans: list[list[Span]] = field(default_factory=lambda: [[], [], [], []])
    _openings: list[list[Span]] = field(default_factory=lambda: [[], [], [], []])
    _parts: list[Part] = field(default_factory=list)
    _rectangles: list[tuple] = field(default_factory=list)
    _discs: list[tuple] = field(default_factory=list)

    # --- surfaces -----------------------------------------------------------------------------

    def instance(self, label: str) -> int:
        """Return the number of a new instance of a class."""
        self.instances.append(label)
        return len(self.instances) - 1

    def rectangle(self, instance: int, corner, u, v, look: Look) -> None:
        """Add a rectangle with the perpendicular edges u and v at a corner."""
        corner, u, v = (np.asarray(part, np.float64) for part in (corner, u, v))
        across = np.stack([u / np.linalg.norm(u), v / np.linalg.norm(v)])
        axes = np.concatenate([across, np.cross(*across)[None]])
        self._rectangles.append((corner, u, v, len(self._parts)))
        self._parts.append(Part(instance, look, corner, axes))

    def block(self, instance: int, box: Box, look: Look) -> None:
        """Add the sides and the top and bottom of a box."""
        a, b, c, d = box.corners()
        low, high = np.array([0, 0, box.low]), np.array([0, 0, box.high])
        up = high - low
        for one, two in ((a, b), (b, c), (c, d), (d, a)):
            self.rectangle(instance, [*one, box.low], [*(two - one), 0], up, look)
        for z in (low, high):
            self.rectangle(instance, [*a, 0] + z, [*(b - a), 0], [*(d - a), 0], look)

    def surfaces(self) -> Surfaces:
        """Return all that a ray can hit."""
        corner, u, v, flat = zip(*self._rectangles, strict=True)
        rows = self._discs or [(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), 0)]
        centre, normal, radius, _ = zip(*rows, strict=True)
        of_disc = [np.full(len(row[0]), row[3]) for row in rows]
        return Surfaces(
            *(np.array(edges) for edges in (corner, u, v)), np.concatenate(centre),
            np.concatenate(normal), np.concatenate(radius),
            np.concatenate([np.array(flat), *of_disc]).astype(np.int64), tuple(self._parts),
        )  # fmt: skip

    # --- walls --------------------------------------------------------------------------------

    def wall(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return a wall's first corner, its direction, its normal into the room, its length."""
        w, d = self.size[:2]
        corner = np.array([(0, 0, 0), (w, 0, 0), (w, d, 0), (0, d, 0)], np.float64)[number]
        way = np.array([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)], np.float64)[number]
        return corner, way, np.array([-way[1], way[0], 0]), w if number % 2 == 0 else d

    def free_span(self, number: int, width: float, bottom: float, top: float) -> Span | None:
        """Return a random part of a wall that nothing takes yet, or None where none is found."""
        length = self.wall(number)[3]
        for _ in range(TRIES if length > width + 0.3 else 0):
            start = self.generator.uniform(0.15, length - width - 0.15)
            span = Span(start, start + width, bottom, top)
            if not self.covered(number, span, 0.12):
                return span
        return None

    def covered(self, number: int, span: Span, gap: float = 0.0) -> bool:
        """Return whether a part of a wall meets a door, a window, a board or a column."""
        return any(span.start < other.end + gap and other.start < span.end + gap
                   and span.bottom < other.top and other.bottom < span.top
                   for other in self.spans[number])  # fmt: skip

    def opening(self, number: int, label: str, width: float, bottom: float, top: float,
                panel: Look, frame: Look, panes: int = 1) -> bool:  # fmt: skip
        """Set a door or a window into a wall, as deep as RECESS; False where it finds no room."""
        span = self.free_span(number, width, bottom, top)
        if span is None:
            return False
        self.spans[number].append(span)
        self._openings[number].append(span)
        corner, way, inward, _ = self.wall(number)
        made, up = self.instance(label), np.array([0, 0, top - bottom])
        left = corner + span.start * way + [0, 0, bottom]
        back, across, bar = left - RECESS * inward, width * way, 0.06
        self.rectangle(made, back, across, up, panel)
        for at in (left, left + across):
            self.rectangle(made, at, -RECESS * inward, up, frame)
        for at in (left, left + up):
            self.rectangle(made, at, -RECESS * inward, across, frame)
        for at in np.linspace(0, width - bar, panes + 1):
            self.rectangle(made, back + at * way + 0.02 * inward, bar * way, up, frame)
        for at in (0, top - bottom - bar)[bottom == 0:]:  # a door has no bar on the floor
            low = back + 0.02 * inward + [0, 0, at]
            self.rectangle(made, low, across, [0, 0, bar], frame)
        if label == "door":
            handle = back + 0.05 * inward + 0.85 * across + [0, 0, 1.02]
            self.rectangle(made, handle, -0.13 * way, [0, 0, 0.03], frame)
            self._clear(number, span, 1.0)
        return True

    def board(self, number: int, width: float, bottom: float, top: float,
              look: Look, label: str = "board") -> bool:  # fmt: skip
        """Hang a flat thing on a wall; False where it finds no room."""
        span = self.free_span(number, width, bottom, top)
        if span is None:
            return False
        self.spans[number].append(span)
        self._stand_off(number, span, 0.03, self.instance(label), look)
        return True

    def column(self, number: int, width: float, look: Look) -> None:
        """Let a column stand out of a wall, from floor to ceiling, where there is room."""
        span = self.free_span(number, width, 0, self.size[2])
        if span is not None:
            self.spans[number].append(span)
            box = self._stand_off(number, span, 0.6 * width, self.instance("column"), look)
            self.taken.append(box)

    def close_walls(self, look: Look) -> None:
        """Add the four walls, with holes where their openings are."""
        for number, openings in enumerate(self._openings):
            corner, way, _, length = self.wall(number)
            made, done, height = self.instance("wall"), 0.0, self.size[2]
            pieces = []
            for hole in sorted(openings, key=lambda span: span.start):
                pieces += [(done, hole.start, 0, height), (hole.start, hole.end, 0, hole.bottom),
                           (hole.start, hole.end, hole.top, height)]  # fmt: skip
                done = hole.end
            for start, end, low, high in [*pieces, (done, length, 0, height)]:
                if high > low:
                    self.rectangle(made, corner + start * way + [0, 0, low],
                                   (end - start) * way, [0, 0, high - low], look)  # fmt: skip

    def _stand_off(self, number: int, span: Span, depth: float, instance: int, look: Look) -> Box:
        corner, way, inward, _ = self.wall(number)
        centre = corner + (span.start + span.end) / 2 * way + depth / 2 * inward
        box = Box(centre[0], centre[1], (span.end - span.start) / 2, depth / 2,
                  np.arctan2(way[1], way[0]), span.bottom, span.top)  # fmt: skip
        self.block(instance, box, look)
        return box

    def _clear(self, number: int, span: Span, depth: float) -> None:
        """Keep the floor in front of a door free."""
        corner, way, inward, _ = self.wall(number)
        centre = corner + (span.start + span.end) / 2 * way + depth / 2 * inward
        self.taken.append(Box(centre[0], centre[1], (span.end - span.start) / 2, depth / 2,
                              np.arctan2(way[1], way[0]), 0, span.top))  # fmt: skip

    # --- furniture ----------------------------------------------------------------------------

    def fits(self, box: Box, beside: Sequence[Box] = ()) -> bool:
        """Return whether a box lies in the room and apart from all that stands there.

        beside: boxes of `taken` that it may meet.
        """
        corners = box.corners()
        inside = (corners > GAP).all() and (corners < np.array(self.size[:2]) - GAP).all()
        return bool(inside) and box.high < self.size[2] - 0.45 and all(
            other in beside or apart(box, other, GAP) for other in self.taken)  # fmt: skip

    def put(self, model: Model, label: str, look: Look, box: Box) -> Item:
        """Stand a model into its box, which must have been found free."""
        rotation = turn(box.yaw)
        base = np.array([box.x, box.y, box.low])
        points = model.cloud @ rotation.T + base
        made = self.instance(label)
        self._discs.append((points, model.normals @ rotation.T, model.radii, len(self._parts)))
        self._parts.append(Part(made, look, base, rotation.T))
        return self._settled(label, model.name, box, points)

    def put_blocks(self, label: str, box: Box, pieces: Sequence[tuple[Box, Look]]) -> Item:
        """Stand plain boxes (a carton, a screen) into a box, which must have been found free."""
        made = self.instance(label)
        for piece, look in pieces:
            self.block(made, piece, look)
        return self._settled(label, "block", box, np.concatenate([_shell(p) for p, _ in pieces]))

    def _settled(self, label: str, name: str, box: Box, points: np.ndarray) -> Item:
        item = Item(label, name, box, points, cKDTree(points))
        self.taken.append(box)
        self.items.append(item)
        return item

    def box_of(self, model: Model, x: float, y: float, yaw: float, low: float = 0.0) -> Box:
        """Return the box around a model at a place."""
        return Box(float(x), float(y), *model.half.tolist(), float(yaw), low, low + model.height)

    def against(self, number: int, model: Model, label: str, look: Look) -> Item | None:
        """Stand a model with its back to a wall, clear of what hangs there; None: no room."""
        corner, way, inward, length = self.wall(number)
        half_x, half_y = model.half
        for _ in range(TRIES if length > 2 * half_x + 0.1 else 0):
            along = self.generator.uniform(half_x + 0.05, length - half_x - 0.05)
            x, y, _ = corner + along * way + (half_y + 0.045) * inward
            box = self.box_of(model, x, y, np.arctan2(inward[1], inward[0]) + np.pi / 2)
            span = Span(along - half_x, along + half_x, 0, model.height)
            if not self.covered(number, span) and self.fits(box):
                return self.put(model, label, look, box)
        return None

    def anywhere(self, model: Model, label: str, look: Look) -> Item | None:
        """Stand a model on free floor, turned at random; None: no room."""
        for _ in range(TRIES):
            x, y = self.generator.uniform(0.3, np.array(self.size[:2]) - 0.3)
            box = self.box_of(model, x, y, self.generator.uniform(0, 2 * np.pi))
            if self.fits(box):
                return self.put(model, label, look, box)
        return None

    def seat(self, table: Item, side: tuple[int, int], along: float, chair: Model,
             look: Look) -> Item | None:  # fmt: skip
        """Draw a chair up to one side of a table, partly under it where its points are clear.

        side: the outward normal in the table's frame; along: metres from the side's middle.
        """
        rotation, normal = turn(table.box.yaw)[:2, :2], np.array(side)
        reach = abs(normal @ [table.box.half_x, table.box.half_y]) + chair.half[1] + 0.06
        outward = rotation @ normal
        yaw = np.arctan2(-outward[1], -outward[0]) + np.pi / 2 + self.generator.normal(0, 0.12)
        for tuck in np.arange(self.generator.uniform(0, 0.35), -0.25, -0.06):
            x, y = [table.box.x, table.box.y] + rotation @ (
                normal * (reach - tuck) + np.array([-side[1], side[0]]) * along)
            box = self.box_of(chair, x, y, yaw)
            points = chair.cloud @ turn(yaw).T + [x, y, 0]
            clear = apart(box, table.box, GAP) or table.tree.query(points)[0].min() > 2 * GAP
            if clear and self.fits(box, beside=[table.box]):
                return self.put(chair, "chair", look, box)
        return None

    def top_of(self, table: Item, box: Box) -> float | None:
        """Return the height of the flat top under a footprint; None where there is none."""
        if table.box.outside(np.array([box.x, box.y])).any():
            return None
        local = (table.points[:, :2] - [box.x, box.y]) @ turn(box.yaw)[:2, :2]
        under = (np.abs(local) < np.array([box.half_x, box.half_y]) + 0.04).all(axis=1)
        if under.sum() < 6:
            return None
        top = table.points[under, 2].max()
        flat = local[under][table.points[under, 2] > top - 0.015]
        quarters = {tuple(signs) for signs in (flat > 0).tolist()}
        return float(top) + 0.004 if len(quarters) == 4 and top > 0.3 else None

    def spot_on(
        self, table: Item, half: Sequence[float], height: float, facing: float | None = None
    ) -> Box | None:
        """Return a free box of half sizes [2] on a table's top; None where there is none.

        facing: its turn relative to the table's (default: at random).
        """
        for _ in range(TRIES):
            share = self.generator.uniform(-1, 1, 2)
            x, y = [table.box.x, table.box.y] + turn(table.box.yaw)[:2, :2] @ (
                share * np.maximum([table.box.half_x - half[0], table.box.half_y - half[1]], 0))
            yaw = self.generator.uniform(0, 2 * np.pi) if facing is None else facing
            box = Box(float(x), float(y), *half, table.box.yaw + yaw, 0, height)
            low = self.top_of(table, box)
            if low is not None:
                box = Box(box.x, box.y, *half, box.yaw, low, low + height)
                if self.fits(box, beside=[table.box]):
                    return box
        return None

    # --- scanners -----------------------------------------------------------------------------

    def viewpoints(self, count: int) -> np.ndarray:
        """Return `count` scanner positions [count, 3] on free floor, far from each other.

        Raises ValueError where no floor is free.
        """
        rims = np.array(self.size[:2]) - 0.6
        places = self.generator.uniform(0.6, rims, (200, 2))
        heights = self.generator.uniform(1.2, 1.6, 200)
        room = [min([np.hypot(*box.outside(place)) for box in self.taken if box.low < heights[k]]
                    or [9.0]) for k, place in enumerate(places)]  # fmt: skip
        found = np.concatenate([places, heights[:, None]], axis=1)[
            np.array(room) >= min(0.7, np.quantile(room, 0.8))]  # fmt: skip
        if max(room) < 0.2:
            raise ValueError(f"a room of {self.size} m has no free floor for a scanner")
        chosen = [found[0]]
        while len(chosen) < count:
            far = np.min([np.linalg.norm(found - one, axis=1) for one in chosen], axis=0)
            chosen.append(found[far.argmax()])
        return np.array(chosen)


def _shell(box: Box) -> np.ndarray:
    """Return points on the sides of a box, about every 5 cm."""
    counts = [max(2, int(np.ceil(size / 0.05)) + 1)
              for size in (2 * box.half_x, 2 * box.half_y, box.high - box.low)]  # fmt: skip
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in counts)), -1).reshape(-1, 3)
    grid = grid[(np.abs(grid) == 1).any(axis=1)]
    half = [box.half_x, box.half_y, (box.high - box.low) / 2]
    return grid * half @ turn(box.yaw).T + [box.x, box.y, (box.low + box.high) / 2]
