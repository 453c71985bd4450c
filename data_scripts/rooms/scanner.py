"""What a laser scanner sees of a room: rays against rectangles and discs, range noise, light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

LOWEST = np.deg2rad(-68)  # the tripod hides what lies below
RANGE_NOISE = 0.003  # metres, standard deviation along the ray
_ROWS, _COLUMNS = 90, 180  # bins of directions, 2 degrees each


@dataclass(frozen=True)
class Look:
    """How a surface is coloured: red, green, blue in 0..1, and a pattern over its own metres.

    pattern: "plain", "tiles" (joints of colour `second`), "planks", "legs" (`second` below
    `pitch`), "books", "stripes" or "leaves"; kept: the share of rays that come back (glass
    swallows many); glow: a lamp, whose colour light and shadow leave alone.
    """

    colour: tuple[float, float, float]
    second: tuple[float, float, float] = (0.2, 0.2, 0.2)
    pattern: str = "plain"
    pitch: float = 0.5
    kept: float = 1.0
    glow: bool = False


@dataclass(frozen=True)
class Part:
    """One surface: the instance it belongs to, its look, and the frame of its pattern.

    axes: [3, 3], the frame's unit vectors as rows.
    """

    instance: int
    look: Look
    origin: np.ndarray
    axes: np.ndarray


@dataclass(frozen=True)
class Surfaces:
    """All that a ray can hit, in metres.

    Rectangles: `corner` and the perpendicular edges `u`, `v`, each [R, 3].
    Discs: `centre` and unit `normal` [D, 3], `radius` [D].
    part: [R + D], which of `parts` each of them belongs to, rectangles first.
    """

    corner: np.ndarray
    u: np.ndarray
    v: np.ndarray
    centre: np.ndarray
    normal: np.ndarray
    radius: np.ndarray
    part: np.ndarray
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Scan:
    """Points [N, 3] float64 in metres, colours [N, 3] uint8, and the instance of each [N]."""

    points: np.ndarray
    colours: np.ndarray
    instances: np.ndarray


def discs(cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit normals [N, 3] and radii [N] of discs at the points that cover their surface.

    The normal is of the plane through the nearest neighbours, the radius reaches the fifth of
    them: sparse points become a closed surface.  Where the neighbours lie in no plane (thin legs,
    leaves) the disc is smaller.
    """
    distance, neighbours = cKDTree(cloud).query(cloud, k=9)
    around = cloud[neighbours] - cloud[neighbours].mean(axis=1, keepdims=True)
    spread, axes = np.linalg.eigh(np.swapaxes(around, 1, 2) @ around)
    thickness = np.sqrt(np.maximum(spread[:, 0], 0) / np.maximum(spread[:, 1], 1e-12))
    return axes[:, :, 0], distance[:, 5] * np.clip(1.2 - thickness, 0.4, 1.0)


def directions(count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` unit vectors [count, 3], evenly over all that lies above LOWEST.

    Even in solid angle: on a surface the density of points falls with the squared distance.
    """
    height = np.sin(LOWEST) + (1 - np.sin(LOWEST)) * (np.arange(count) + 0.5) / count
    turn = generator.uniform(0, 2 * np.pi) + np.arange(count) * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)


def cast(
    surfaces: Surfaces, start: np.ndarray, ways: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where rays from `start` [3] first hit something along `ways` [N, 3].

    Distances [N] in lengths of the way (infinite: nothing is hit), the part [N] (-1: none) and
    the unit normal of what is hit [N, 3], on the side that the ray comes from.
    """
    nearest, hit = np.full(len(ways), np.inf), np.full(len(ways), -1)
    start, ways = np.asarray(start, np.float64), np.ascontiguousarray(ways, np.float64)
    _hit_rectangles(start, ways, surfaces.corner, surfaces.u, surfaces.v, nearest, hit)
    azimuth = np.arctan2(ways[:, 1], ways[:, 0])
    elevation = np.arctan2(ways[:, 2], np.hypot(ways[:, 0], ways[:, 1]))
    row = np.minimum((elevation / np.pi + 0.5) * _ROWS, _ROWS - 1).astype(np.int64)
    column = np.minimum((azimuth / (2 * np.pi) + 0.5) * _COLUMNS, _COLUMNS - 1).astype(np.int64)
    place = row * _COLUMNS + column
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], np.arange(_ROWS * _COLUMNS + 1))
    _hit_discs(start, ways, order, first, surfaces.centre, surfaces.normal, surfaces.radius,
               len(surfaces.corner), nearest, hit)  # fmt: skip
    normals = np.concatenate([_unit(np.cross(surfaces.u, surfaces.v)), surfaces.normal])[hit]
    normals *= -np.sign(np.einsum("nk,nk->n", normals, ways))[:, None]
    return nearest, np.where(hit >= 0, surfaces.part[hit], -1), normals


@njit(cache=True)
def _hit_rectangles(start, ways, corner, u, v, nearest, hit):
    for r in range(len(corner)):
        n = np.cross(u[r], v[r])
        offset = np.dot(corner[r] - start, n)
        uu, vv = np.dot(u[r], u[r]), np.dot(v[r], v[r])
        from_u, from_v = np.dot(start - corner[r], u[r]), np.dot(start - corner[r], v[r])
        for i in range(len(ways)):
            x, y, z = ways[i, 0], ways[i, 1], ways[i, 2]
            slope = x * n[0] + y * n[1] + z * n[2]
            if slope == 0.0:
                continue
            t = offset / slope
            if 0.0 < t < nearest[i]:
                a = from_u + t * (x * u[r, 0] + y * u[r, 1] + z * u[r, 2])
                b = from_v + t * (x * v[r, 0] + y * v[r, 1] + z * v[r, 2])
                if 0.0 <= a <= uu and 0.0 <= b <= vv:
                    nearest[i] = t
                    hit[i] = r


@njit(cache=True)
def _hit_discs(start, ways, order, first, centre, normal, radius, shift, nearest, hit):
    """Try each disc with the rays in the bins of directions that it can cover."""
    for d in range(len(centre)):
        x, y, z = centre[d] - start
        n0, n1, n2 = normal[d]
        flat = np.sqrt(x * x + y * y)
        away = np.sqrt(flat * flat + z * z)
        if away <= radius[d]:
            continue
        offset = x * n0 + y * n1 + z * n2
        wide = np.arcsin(radius[d] / away)
        up, turn = np.arctan2(z, flat), np.arctan2(y, x)
        low = max(int(((up - wide) / np.pi + 0.5) * _ROWS), 0)
        high = min(int(((up + wide) / np.pi + 0.5) * _ROWS), _ROWS - 1)
        left, count = 0, _COLUMNS  # a disc over the pole covers all azimuths
        if abs(up) + wide < np.pi / 2:
            reach = np.arcsin(min(1.0, np.sin(wide) / np.cos(up)))
            left = int(np.floor(((turn - reach) / (2 * np.pi) + 0.5) * _COLUMNS))
            right = int(np.floor(((turn + reach) / (2 * np.pi) + 0.5) * _COLUMNS))
            count = min(right - left + 1, _COLUMNS)
        for row in range(low, high + 1):
            for step in range(count):
                place = row * _COLUMNS + (left + step) % _COLUMNS
                for k in range(first[place], first[place + 1]):
                    i = order[k]
                    slope = ways[i, 0] * n0 + ways[i, 1] * n1 + ways[i, 2] * n2
                    if slope == 0.0:
                        continue
                    t = offset / slope
                    if 0.0 < t < nearest[i]:
                        a, b, c = t * ways[i, 0] - x, t * ways[i, 1] - y, t * ways[i, 2] - z
                        if a * a + b * b + c * c <= radius[d] * radius[d]:
                            nearest[i] = t
                            hit[i] = shift + d


def scan(
    surfaces: Surfaces, positions: np.ndarray, lamps: np.ndarray, rays: int,
    generator: np.random.Generator,
) -> Scan:  # fmt: skip
    """Return what scanners at `positions` [P, 3] see with `rays` rays in all, by instance.

    Every ray gives the first point that it meets; the distance has noise of RANGE_NOISE.
    lamps: [L, 3] positions of the light, which throws shadows.  Points are ordered by instance.
    """
    found, parts, normals, tints = [], [], [], []
    for position in positions:
        ways = directions(rays // len(positions), generator)
        distance, part, normal = cast(surfaces, position, ways)
        share = np.array([p.look.kept for p in surfaces.parts])[part]
        seen = (part >= 0) & (generator.random(len(ways)) < share)
        distance = distance[seen]
        distance += generator.normal(0, RANGE_NOISE, len(distance))
        found.append(position + ways[seen] * distance[:, None])
        parts.append(part[seen])
        normals.append(normal[seen])
        tints.append(np.tile(generator.normal(1, 0.015, 3), (len(distance), 1)))
    order = np.argsort(np.concatenate(parts), kind="stable")
    points, part, normal, tint = (np.concatenate(rows)[order]
                                  for rows in (found, parts, normals, tints))  # fmt: skip
    colours = np.empty_like(points)
    glow = np.zeros(len(points), bool)
    edges = np.searchsorted(part, np.arange(len(surfaces.parts) + 1))
    for here, first, last in zip(surfaces.parts, edges, edges[1:], strict=False):
        local = (points[first:last] - here.origin) @ here.axes.T
        colours[first:last] = _paint(here.look, local, generator)
        glow[first:last] = here.look.glow
    light = np.where(glow, 1.0, _light(surfaces, points, normal, lamps))
    shown = colours * tint * light[:, None] + generator.normal(0, 0.012, colours.shape)
    instance = np.array([p.instance for p in surfaces.parts])[part]
    order = np.argsort(instance, kind="stable")
    bytes_ = np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
    return Scan(points[order], bytes_[order], instance[order])


def _light(surfaces: Surfaces, points: np.ndarray, normals: np.ndarray, lamps: np.ndarray):
    """Return the brightness of points [N]: scattered light and what comes from the lamps."""
    direct = np.zeros(len(points))
    for lamp in lamps:
        away = points - lamp
        far = np.maximum(np.linalg.norm(away, axis=1), 0.3)
        reached = cast(surfaces, lamp, away)[0] > 1 - 0.06 / far
        facing = np.maximum(-np.einsum("nk,nk->n", normals, away) / far, 0)
        direct += reached * facing / far
    usual = np.percentile(direct, 75) if len(direct) and direct.any() else 1.0
    return 0.62 + 0.38 * np.minimum(direct / usual, 1.3)


def _paint(look: Look, local: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the colours [N, 3] of a surface before light falls on it."""
    colour, second = np.array(look.colour), np.array(look.second)
    salt = int(generator.integers(1 << 30))
    mix, shade = np.zeros(len(local)), np.ones(len(local))
    if look.pattern == "tiles":
        beside = np.abs((local[:, :2] / look.pitch + 0.5) % 1 - 0.5) * look.pitch
        mix = (beside < 0.01).any(axis=1) * 0.6
        shade = 0.97 + 0.06 * _chance(local[:, :2], (look.pitch, look.pitch), salt)
    elif look.pattern == "planks":
        shade = 0.82 + 0.36 * _chance(local[:, :2], (1.3, 0.14), salt)
    elif look.pattern == "legs":
        mix = (local[:, 2] < look.pitch) * 1.0
    elif look.pattern == "stripes":
        mix = (local[:, 1] / look.pitch % 1 < 0.3) * 0.7
    elif look.pattern == "leaves":
        mix = (local[:, 2] < look.pitch) * 1.0
        shade = 0.6 + 0.8 * generator.random(len(local))
    elif look.pattern == "books":
        cells = local[:, [0, 2]]
        spines = np.stack([_chance(cells, (0.045, 0.33), salt + k) for k in range(3)], axis=1)
        second = 0.12 + 0.6 * spines
        mix = (_chance(cells, (0.045, 0.33), salt + 3) < look.pitch) * 0.8
    slow = local @ np.array([0.9, 1.3, 1.1]) + salt % 7
    shade = shade * (1 + 0.03 * np.sin(slow) + generator.normal(0, 0.012, len(local)))
    mix = np.asarray(mix)[:, None]
    return ((1 - mix) * colour + mix * second) * shade[:, None]


def _chance(place: np.ndarray, cell: tuple[float, float], salt: int) -> np.ndarray:
    """Return a number in 0..1 [N] for the cell of the plane that each point [N, 2] lies in."""
    at = np.floor(place / np.array(cell)).astype(np.int64)
    mixed = (at[:, 0] * 73856093) ^ (at[:, 1] * 19349663) ^ (salt * 83492791)
    return (mixed * 2654435761 >> 12) % 1009 / 1009


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
