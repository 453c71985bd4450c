"""A spinning lidar, ray-cast against solids and the ground of a street.

The sensor is modelled on the Velodyne HDL-64E of KITTI.  Facts of its manual and of KITTI's page:
64 lasers from +2 to -24.9 degrees, the upper 32 a third of a degree apart, the lower 32 half a
degree, a range of 120 m, an accuracy of 2 cm, mounted 1.73 m above the ground.  How a return
becomes weak, is lost, or is written as an intensity is a model of this project, not the maker's.

Directions and points are in the sensor's frame: x forward, y left, z up, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

BOX, CYLINDER, ELLIPSOID = 0, 1, 2  # unit shapes: each fills [-1, 1] along its three axes
HEIGHT = 1.73
LONGEST, SHORTEST = 120.0, 0.9
NOISE = 0.02  # metres, standard deviation
GRASS = 0.05  # the same on terrain, whose blades the beam meets at different depths
LOST = 0.015  # share of returns lost whatever they hit
FAINT = 2.5e-6  # signal (reflectance x cosine / range squared) of which half is detected
FALLOFF = 70.0  # metres at which the written intensity is half of what it is nearby
ROAD, LANE_MARKING, PARKING, SIDEWALK, TERRAIN, OTHER_GROUND = 40, 60, 44, 48, 72, 49
KERB = 0.13  # metres from the road up to the pavement
_GROUND, _NOTHING = -1, -2


class Ground(NamedTuple):
    """A street's surface: a road along x whose middle is the curve y = centre(x).

    `across` is the distance from the middle, positive to the left.  Tables along x have K entries
    from `start` on, `step` metres apart; those of the sides hold the right side first.
    """

    start: float
    step: float
    centre: np.ndarray  # [K] y of the middle
    cosine: np.ndarray  # [K] of the road's heading
    level: np.ndarray  # [K] z of the road
    half_road: float
    parking: np.ndarray  # [2, K] metres of parking lane
    sidewalk: np.ndarray  # [2] metres
    beyond: np.ndarray  # [2, K] uint8: the label behind the sidewalk
    bank: np.ndarray  # [2] rise of the land behind the sidewalk, metres per metre
    crossing: np.ndarray  # [C, 2] x of the middle, half a width, of the side roads


@njit(cache=True)
def ground_at(ground, x, y):
    """Return (z, label) of the ground at a place of the world."""
    last = len(ground.centre) - 2
    place = (x - ground.start) / ground.step
    i = min(max(int(math.floor(place)), 0), last)
    part = min(max(place - i, 0.0), 1.0)
    centre = ground.centre[i] + part * (ground.centre[i + 1] - ground.centre[i])
    cosine = ground.cosine[i] + part * (ground.cosine[i + 1] - ground.cosine[i])
    level = ground.level[i] + part * (ground.level[i + 1] - ground.level[i])
    across = (y - centre) * cosine
    side = 1 if across > 0 else 0
    distance = abs(across)
    beside = 1e9  # metres from the edge of the nearest side road
    for c in range(len(ground.crossing)):
        beside = min(beside, abs(x - ground.crossing[c, 0]) - ground.crossing[c, 1])
    if distance < ground.half_road or beside < 0:
        z = level - 0.02 * min(distance, ground.half_road)  # the road is higher in the middle
        on_line = distance < 0.07 and x % 9.0 < 3.0 and beside > 3
        return z, LANE_MARKING if on_line else ROAD
    edge = ground.half_road + ground.parking[side, i]
    gutter = level - 0.02 * ground.half_road
    if distance < edge and beside > 5:
        return gutter, PARKING
    if distance < edge + ground.sidewalk[side] or beside < 1.8:
        return gutter + KERB, SIDEWALK
    past = distance - edge - ground.sidewalk[side]
    z = gutter + KERB + ground.bank[side] * min(past, beside - 1.8, 40.0)
    label = ground.beyond[side, i]
    if label == TERRAIN:
        rough = math.sin(0.53 * x + 0.31 * y) * math.sin(0.23 * x - 0.61 * y)
        rough += 0.3 * math.sin(1.9 * x - 1.1 * y) * math.sin(1.3 * x + 2.3 * y)
        z += 0.035 * rough * min(1.0, past)
    return z, label


@njit(cache=True)
def _meet_ground(ground, ox, oy, oz, dx, dy, dz, longest):
    """Return the range at which a ray meets the ground; `longest` where it does not before."""
    t, fine = 0.0, 0.03
    while t < longest:
        gap = oz + t * dz - ground_at(ground, ox + t * dx, oy + t * dy)[0]
        if gap < 0:
            break
        fine = max(0.03, 0.002 * t)  # metres, so that a kerb is not stepped over
        t += max(fine, (gap - 0.4) / (0.35 + abs(dz)))
    else:
        return longest
    low, high = max(t - fine, 0.0), t
    for _ in range(12):
        t = 0.5 * (low + high)
        if oz + t * dz < ground_at(ground, ox + t * dx, oy + t * dy)[0]:
            high = t
        else:
            low = t
    return high


@njit(cache=True)
def enter_shape(shape, taper, o, d):
    """Return (range in, range out, local normal) of a ray through a unit shape; out < in: missed.

    taper: how much of its size a shape loses from its bottom (z = -1) to its top: of a box the
    front (+x), the back (-x) and both sides (y), from 0 to 1; of a cylinder the radius.
    """
    near, far = -1e30, 1e30
    nx = ny = nz = 0.0
    if shape == ELLIPSOID:
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        inside = b * b - a * (o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0)
        if inside <= 0:
            return 1.0, 0.0, nx, ny, nz
        root = math.sqrt(inside)
        near, far = (-b - root) / a, (-b + root) / a
        return near, far, o[0] + near * d[0], o[1] + near * d[1], o[2] + near * d[2]
    for k in range(6 if shape == BOX else 2):  # half spaces n . p <= limit; two lids come first
        x = y = z = 0.0
        limit = 1.0
        if k < 2:
            z = 1.0 - 2.0 * k
        elif k < 4:
            x = 5.0 - 2.0 * k
            z = 0.5 * taper[k - 2]
            limit -= z
        else:
            y = 9.0 - 2.0 * k
            z = 0.5 * taper[2]
            limit -= z
        toward = x * d[0] + y * d[1] + z * d[2]
        left = limit - (x * o[0] + y * o[1] + z * o[2])
        if toward == 0.0:
            if left < 0:
                return 1.0, 0.0, nx, ny, nz
        elif toward < 0:
            if left / toward > near:
                near, nx, ny, nz = left / toward, x, y, z
        else:
            far = min(far, left / toward)
    if shape == BOX or far < near:
        return near, far, nx, ny, nz
    slope = -0.5 * taper[0]  # of the radius along z
    radius = 1.0 + slope * (1.0 + o[2])
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - slope * d[2] * radius
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    if abs(a) < 1e-12:
        a = 1e-12
    inside = b * b - a * c
    if inside <= 0:
        return (near, far, nx, ny, nz) if a < 0 else (1.0, 0.0, nx, ny, nz)
    root = math.sqrt(inside)
    first, second = min((-b - root) / a, (-b + root) / a), max((-b - root) / a, (-b + root) / a)
    if a > 0:
        start, end = max(near, first), min(far, second)
    elif near < first:  # a steep ray leaves this cone before it enters the mirrored one
        start, end = near, min(far, first)
    else:
        start, end = max(near, second), far
    if start > near:
        x, y = o[0] + start * d[0], o[1] + start * d[1]
        nx, ny, nz = x, y, -slope * (1.0 + slope * (1.0 + o[2] + start * d[2]))
    return start, end, nx, ny, nz


@njit(cache=True)
def _uniform(key, ray, solid):
    """Return a number in (0, 1) that depends on the three counters only (splitmix64)."""
    z = np.uint64(key) + np.uint64(ray) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(solid) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(cache=True)
def _columns(centre, radius, azimuth):
    """Return for each azimuth column the solids that it may meet: offsets [A + 1], indices."""
    first = np.zeros(len(centre), np.int64)
    width = np.zeros(len(centre), np.int64)
    offsets = np.zeros(azimuth + 1, np.int64)
    for i in range(len(centre)):
        away = math.hypot(centre[i, 0], centre[i, 1])
        middle = math.atan2(centre[i, 1], centre[i, 0]) * azimuth / (2 * math.pi)
        half = azimuth / 2
        if away > radius[i]:
            half = math.asin(radius[i] / away) * azimuth / (2 * math.pi)
        first[i] = int(math.ceil(middle - half))
        width[i] = min(int(math.floor(middle + half)) - first[i] + 1, azimuth)
        for k in range(width[i]):
            offsets[(first[i] + k) % azimuth + 1] += 1
    offsets = np.cumsum(offsets)
    filled = offsets[:-1].copy()
    indices = np.empty(offsets[-1], np.int64)
    for i in range(len(centre)):
        for k in range(width[i]):
            column = (first[i] + k) % azimuth
            indices[filled[column]] = i
            filled[column] += 1
    return offsets, indices


@njit(cache=True)
def _cast(origin, turn, directions, offsets, indices, nearest, centre, radius, solids, ground, key):
    """Return range, cosine of incidence and what was hit, each [beams, azimuth]."""
    shape, inverse, taper, density = solids
    beams, azimuth = directions.shape[:2]
    ranges = np.full((beams, azimuth), np.inf)
    cosines = np.zeros((beams, azimuth))
    hits = np.full((beams, azimuth), _NOTHING)
    o, d = np.empty(3), np.empty(3)
    for column in range(azimuth):
        for beam in range(beams):
            ray = directions[beam, column]
            dx, dy, dz = turn[0] @ ray, turn[1] @ ray, turn[2] @ ray
            best = LONGEST
            t = _meet_ground(ground, origin[0], origin[1], origin[2], dx, dy, dz, LONGEST)
            if t < best:
                best = t
                x, y, e = origin[0] + t * dx, origin[1] + t * dy, 0.02
                sx = ground_at(ground, x + e, y)[0] - ground_at(ground, x - e, y)[0]
                sy = ground_at(ground, x, y + e)[0] - ground_at(ground, x, y - e)[0]
                facing = abs(dx * sx + dy * sy - 2 * e * dz)
                cosines[beam, column] = facing / math.sqrt(sx * sx + sy * sy + 4 * e * e)
                hits[beam, column] = _GROUND
            for k in range(offsets[column], offsets[column + 1]):
                i = indices[k]
                if nearest[i] > best:
                    break  # the solids of a column are in order of distance
                along = ray[0] * centre[i, 0] + ray[1] * centre[i, 1] + ray[2] * centre[i, 2]
                miss = centre[i, 0] ** 2 + centre[i, 1] ** 2 + centre[i, 2] ** 2 - along * along
                if miss > radius[i] * radius[i]:
                    continue
                for row in range(3):
                    m = inverse[i, row]
                    o[row] = m[0] * origin[0] + m[1] * origin[1] + m[2] * origin[2] + m[3]
                    d[row] = m[0] * dx + m[1] * dy + m[2] * dz
                t, out, nx, ny, nz = enter_shape(shape[i], taper[i], o, d)
                if out < t or out < 0 or t > best:
                    continue
                t = max(t, 0.0)
                facing = 0.7  # leaves and meshes face all ways
                if density[i] > 0:
                    t -= math.log(_uniform(key, beam * azimuth + column, i)) / density[i]
                    if t > out:
                        continue
                else:
                    m = inverse[i]
                    wx = m[0, 0] * nx + m[1, 0] * ny + m[2, 0] * nz
                    wy = m[0, 1] * nx + m[1, 1] * ny + m[2, 1] * nz
                    wz = m[0, 2] * nx + m[1, 2] * ny + m[2, 2] * nz
                    length = math.sqrt(wx * wx + wy * wy + wz * wz)
                    facing = abs(wx * dx + wy * dy + wz * dz) / max(length, 1e-12)
                if t < best:
                    best = t
                    cosines[beam, column] = facing
                    hits[beam, column] = i
            if best < LONGEST:
                ranges[beam, column] = best
    return ranges, cosines, hits


@dataclass(frozen=True)
class Solids:
    """M solids of a world, each a unit shape under an affine map.

    shape        [M] BOX, CYLINDER or ELLIPSOID
    matrix       [M, 4, 4] from the unit shape to the world: a rotation times sizes, and a place
    taper        [M, 3], see `enter_shape`
    label        [M] uint32: SemanticKITTI's label, and an instance in the upper 16 bits
    reflectance  [M] 0..1
    density      [M] hits per metre within a shape that light enters (leaves); 0: a hard surface
    lost         [M] share of returns that glass swallows
    """

    shape: np.ndarray
    matrix: np.ndarray
    taper: np.ndarray
    label: np.ndarray
    reflectance: np.ndarray
    density: np.ndarray
    lost: np.ndarray

    def __add__(self, other: Solids) -> Solids:
        return Solids(*(np.concatenate(both) for both in
                        zip(vars(self).values(), vars(other).values(), strict=True)))  # fmt: skip

    def moved(self, pose: np.ndarray) -> Solids:
        """Return these solids under a further map [4, 4] of the world."""
        return Solids(**{**vars(self), "matrix": pose @ self.matrix})

    def radius(self) -> np.ndarray:
        """Return the radius of a sphere around each, [M]."""
        sizes = np.linalg.norm(self.matrix[:, :3, :3], axis=1)
        x, y, z = sizes.T
        return np.where(
            self.shape == ELLIPSOID, sizes.max(axis=1),
            np.sqrt(z**2 + np.where(self.shape == CYLINDER, np.maximum(x, y) ** 2, x**2 + y**2)),
        )  # fmt: skip


def elevations(beams: int) -> np.ndarray:
    """Return the angles of the lasers above the horizon in radians, [beams], the highest first.

    Other counts than 64 spread the two blocks of the sensor over the same angles.
    """
    upper = np.linspace(2.0, -8.33, beams - beams // 2)
    return np.radians(np.concatenate([upper, np.linspace(-8.83, -24.9, beams // 2)]))


def ray_directions(beams: int, azimuth: int) -> np.ndarray:
    """Return unit vectors [beams, azimuth, 3], counter-clockwise from forward."""
    up = elevations(beams)[:, None]
    round_ = np.arange(azimuth) * (2 * np.pi / azimuth)
    return np.stack(
        [np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up) + 0 * round_], -1
    )


def cast_rays(
    solids: Solids, ground: Ground, pose: np.ndarray, beams: int, azimuth: int, key: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each ray meets first: range, cosine of incidence and hit, each [beams, azimuth].

    pose: the sensor in the world, [4, 4].  key: of the random depth to which leaves are entered.
    Range is infinite where nothing lies within 120 m; hit is a solid's index, -1 for the ground
    and -2 for nothing.
    """
    centre = (solids.matrix[:, :3, 3] - pose[:3, 3]) @ pose[:3, :3]
    radius = solids.radius()
    nearest = np.linalg.norm(centre, axis=1) - radius
    order = np.argsort(nearest, kind="stable")
    order = order[nearest[order] < LONGEST]
    centre, radius = centre[order], radius[order]
    inverse = np.linalg.inv(solids.matrix[order])[:, :3]
    arrays = (solids.shape[order], inverse, solids.taper[order], solids.density[order])
    offsets, indices = _columns(centre, radius, azimuth)
    ranges, cosines, hits = _cast(
        pose[:3, 3].copy(), pose[:3, :3].copy(), ray_directions(beams, azimuth), offsets, indices,
        nearest[order], centre, radius, arrays, ground, key,
    )  # fmt: skip
    found = hits >= 0
    hits[found] = order[hits[found]]
    return ranges, cosines, hits


@njit(cache=True)
def grounds_at(ground, places):
    """Return z [N] and labels [N] uint32 of the ground at places [N, 2 or more] of the world."""
    z, labels = np.empty(len(places)), np.empty(len(places), np.uint32)
    for i in range(len(places)):
        z[i], labels[i] = ground_at(ground, places[i, 0], places[i, 1])
    return z, labels


# reflectance of the ground by label
_GROUND_REFLECTANCE = np.zeros(256)
_GROUND_REFLECTANCE[[ROAD, LANE_MARKING, PARKING, SIDEWALK, TERRAIN, OTHER_GROUND]] = (
    0.22, 0.62, 0.25, 0.33, 0.40, 0.29)  # fmt: skip


def scan(
    solids: Solids, ground: Ground, pose: np.ndarray, beams: int, azimuth: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return one turn of the sensor: x, y, z, intensity [N, 4] float32 and labels [N] uint32.

    Points go ring by ring from the highest, each ring counter-clockwise from forward.
    Intensity is in 0..1.  A return is lost by chance, in glass, and the more likely the darker,
    the more grazing and the farther the surface is.
    """
    key = int(generator.integers(2**62))
    ranges, cosines, hits = cast_rays(solids, ground, pose, beams, azimuth, key)
    directions = ray_directions(beams, azimuth)
    ray = np.flatnonzero((ranges < LONGEST) & (ranges > SHORTEST))
    ranges, cosines, hits = (a.ravel()[ray] for a in (ranges, cosines, hits))
    directions = directions.reshape(-1, 3)[ray]
    world = (directions * ranges[:, None]) @ pose[:3, :3].T + pose[:3, 3]

    labels = grounds_at(ground, world)[1]
    reflectance = _GROUND_REFLECTANCE[np.minimum(labels, 255)]
    glass = np.zeros(len(ray))
    on = hits >= 0
    labels[on] = solids.label[hits[on]]
    reflectance[on], glass[on] = solids.reflectance[hits[on]], solids.lost[hits[on]]

    texture = np.exp(0.12 * generator.standard_normal(len(ray)))
    signal = reflectance * texture * cosines / ranges**2
    chance = (1 - LOST) * (1 - glass) / (1 + (FAINT / np.maximum(signal, 1e-12)) ** 2)
    kept = generator.random(len(ray)) < chance
    level = reflectance * texture * (0.35 + 0.65 * cosines) / (1 + (ranges / FALLOFF) ** 2)
    spread = np.where(labels == TERRAIN, GRASS, NOISE)
    ranges = ranges + spread * generator.standard_normal(len(ray))
    points = np.column_stack([directions * ranges[:, None], np.clip(level, 0.0, 1.0)])
    return points[kept].astype(np.float32), labels[kept]
