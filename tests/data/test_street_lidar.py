"""The simulated lidar sees what geometry says: analytic cases, brute force, and its statistics."""

import numpy as np
import pytest
from streets import lidar
from streets.objects import Surface, ball, box, limb, solids, turned

HARD = Surface(0.5)


def plane(level: float = 0.0) -> lidar.Ground:
    """A level pavement everywhere (the road is a line in its middle), z = level."""
    flat = np.zeros(2)
    return lidar.Ground(
        -500.0, 1000.0, flat, flat + 1, flat + level - lidar.KERB, 0.0, np.zeros((2, 2)),
        np.full(2, 1e3), np.full((2, 2), 72, np.uint8), flat, np.array([[1e6, 1.0]]),
    )  # fmt: skip


def street_ground() -> lidar.Ground:
    """A bending, hilly road with parking lanes, pavements, banks and a side road."""
    x = np.arange(-120.0, 120.0, 0.5)
    return lidar.Ground(
        -120.0, 0.5, 4 * np.sin(x / 30), 1 / np.hypot(1, np.cos(x / 30) * 4 / 30),
        0.8 * np.sin(x / 25), 3.0, np.where(np.sin(x / 9) > 0, 2.2, np.zeros((2, len(x)))),
        np.array([1.5, 2.5]), np.full((2, len(x)), 72, np.uint8), np.array([0.1, 0.0]),
        np.array([[25.0, 2.5]]),
    )  # fmt: skip


def sensor(height: float = lidar.HEIGHT, yaw: float = 0.0) -> np.ndarray:
    return turned(yaw, 0.0, (0, 0, height))


def far_away() -> list:
    return [ball(50, HARD, (0, 0, -900), (1, 1, 1))]


def random_parts(rng, count: int) -> list:
    parts = []
    for kind in rng.integers(3, size=count):
        at = np.append(rng.uniform(-25, 25, 2), rng.uniform(-0.5, 2.5))
        at[:2] += 4 * np.sign(at[:2])
        size = rng.uniform(0.2, 2.0, 3)
        if kind == 0:
            part = box(50, HARD, *np.transpose([-size, size]), tuple(rng.uniform(0, 1, 3)))
            parts.append(part._replace(matrix=turned(*rng.uniform(0, 3, 2), at) @ part.matrix))
        elif kind == 1:
            taper = rng.choice([0.0, rng.uniform(0, 1), 1.0])
            parts.append(limb(50, HARD, at, at + rng.normal(size=3) * size, size[0], taper))
        else:
            parts.append(ball(50, HARD, at, size, rng.uniform(0, 3)))
    return parts


def inside(shape: int, taper, p: np.ndarray) -> np.ndarray:
    """Whether points [N, 3] lie in a unit shape, by its definition."""
    x, y, z = p.T
    up = (z + 1) / 2
    if shape == lidar.ELLIPSOID:
        return x**2 + y**2 + z**2 <= 1
    if shape == lidar.CYLINDER:
        return (np.hypot(x, y) <= 1 - taper[0] * up) & (abs(z) <= 1)
    sides = (x <= 1 - taper[0] * up) & (-x <= 1 - taper[1] * up) & (abs(y) <= 1 - taper[2] * up)
    return sides & (abs(z) <= 1)


@pytest.mark.parametrize("shape", [lidar.BOX, lidar.CYLINDER, lidar.ELLIPSOID])
def test_a_ray_enters_and_leaves_a_shape_where_sampling_says(shape):
    """Promise: for any taper, cones to their tip included, and any direction of the ray."""
    rng = np.random.default_rng(shape)
    met, samples = 0, np.linspace(0, 8, 8001)
    for _ in range(150):
        taper = rng.choice([np.zeros(3), rng.uniform(0, 1, 3), np.ones(3)])
        o = rng.normal(size=3)
        o *= rng.uniform(2, 4) / np.linalg.norm(o)
        d = rng.uniform(-0.9, 0.9, 3) - o
        d /= np.linalg.norm(d)
        near, far, *normal = lidar.enter_shape(shape, taper, o, d)
        within = samples[inside(shape, taper, o + samples[:, None] * d)]
        if not len(within):
            assert far - near < 0.003
            continue
        met += 1
        assert (near, far) == pytest.approx((within[0], within[-1]), abs=0.0021)
        assert np.dot(normal, d) < 0  # the surface that is entered faces the ray
    assert met > 50


def test_a_sphere_a_wall_and_a_pole_are_at_their_distance():
    """Promise: range and cosine straight ahead, to the left and behind are those of geometry."""
    seen = solids([ball(50, HARD, (10, 0, 1.73), (2, 2, 2)),
                   box(50, HARD, (-30, 30), (7, 8), (0, 9)),
                   limb(50, HARD, (-6, 0, 0), (-6, 0, 5), 0.25)])  # fmt: skip
    ranges, cosines, hits = lidar.cast_rays(seen, plane(), sensor(), 64, 360)
    up = lidar.elevations(64)
    level = np.abs(up).argmin()
    e = up[level]
    along = 10 * np.cos(e) - np.sqrt(4 - (10 * np.sin(e)) ** 2)
    assert hits[level, 0] == 0 and ranges[level, 0] == pytest.approx(along)
    assert hits[level, 90] == 1 and ranges[level, 90] == pytest.approx(7 / np.cos(e))
    assert cosines[level, 90] == pytest.approx(np.cos(e))
    assert hits[level, 45] == 1 and ranges[level, 45] == pytest.approx(7 * np.sqrt(2) / np.cos(e))
    assert cosines[level, 45] == pytest.approx(np.cos(e) / np.sqrt(2))
    assert hits[level, 180] == 2 and ranges[level, 180] == pytest.approx(5.75 / np.cos(e))


def test_the_level_ground_is_rings():
    """Promise: height / sin(angle below the horizon), up to 120 m; upward rays meet nothing."""
    ranges, cosines, hits = lidar.cast_rays(solids(far_away()), plane(0.2), sensor(), 64, 16)
    up = lidar.elevations(64)
    expected = np.where(up < 0, 1.53 / np.sin(np.maximum(-up, 1e-9)), np.inf)
    expected[expected > lidar.LONGEST] = np.inf
    assert ranges == pytest.approx(np.repeat(expected[:, None], 16, axis=1), abs=1e-3)
    assert ((hits == -1) == np.isfinite(ranges)).all() and (hits[up > 0] == -2).all()
    down = np.isfinite(expected)
    assert cosines[down] == pytest.approx(np.repeat(-np.sin(up[down])[:, None], 16, axis=1))


def test_a_street_is_met_where_sampling_meets_it():
    """Promise: hills, kerbs, banks and rough land, seen from a turned sensor beside the middle."""
    ground = street_ground()
    z = lidar.grounds_at(ground, np.array([[0.0, -1.5]]))[0][0]
    pose = turned(0.4, 0.03, (0, -1.5, z + lidar.HEIGHT))
    ranges, _, hits = lidar.cast_rays(solids(far_away()), ground, pose, 24, 20)
    rays = (lidar.ray_directions(24, 20) @ pose[:3, :3].T).reshape(-1, 3)
    samples = np.arange(0, lidar.LONGEST, 0.01)
    kinds = set()
    for ray, found in zip(rays, ranges.ravel(), strict=True):
        places = pose[:3, 3] + samples[:, None] * ray
        height, labels = lidar.grounds_at(ground, places)
        below = np.flatnonzero(places[:, 2] < height)
        expected = samples[below[0]] if len(below) else np.inf
        if expected < 60:  # farther a ray grazes, and a step of it may miss a blade of grass
            assert found == pytest.approx(expected, abs=0.06)
            kinds.add(int(labels[below[0]]))
    assert {40, 44, 48, 72} <= kinds and (hits < 0).all()


def test_the_columns_and_the_order_leave_no_solid_out():
    """Promise: equal to trying every solid of a crowded scene for every ray."""
    rng = np.random.default_rng(0)
    crowd, pose = solids(random_parts(rng, 60)), sensor(yaw=2.0)
    ranges, _, hits = lidar.cast_rays(crowd, plane(), pose, 16, 90)
    rays = lidar.ray_directions(16, 90) @ pose[:3, :3].T
    inverse = np.linalg.inv(crowd.matrix)[:, :3]
    origin = inverse @ np.append(pose[:3, 3], 1.0)
    for beam, column in np.ndindex(16, 90):
        ray = rays[beam, column]
        nearest, which = lidar.LONGEST, -2
        if ray[2] < 0 and -pose[2, 3] / ray[2] < nearest:
            nearest, which = -pose[2, 3] / ray[2], -1
        for i, local in enumerate(inverse[:, :, :3] @ ray):
            near, far, *_ = lidar.enter_shape(crowd.shape[i], crowd.taper[i], origin[i], local)
            if far > near > 0 and near < nearest:
                nearest, which = near, i
        assert hits[beam, column] == which
        if which != -2:
            assert ranges[beam, column] == pytest.approx(nearest, abs=1e-3)
    assert len(np.unique(hits)) > 30


def test_nothing_is_seen_through_a_wall():
    """Promise: of people behind a wall only those beside it are seen."""
    people = [ball(30, HARD, (20, y, 1.0), (0.3, 0.3, 0.9)) for y in range(-15, 16)]
    wall = box(50, HARD, (8, 8.3), (-4, 4), (0, 4))
    _, _, hits = lidar.cast_rays(solids([*people, wall]), plane(), sensor(), 64, 1024)
    seen = {int(i) - 15 for i in np.unique(hits) if 0 <= i < 31}
    edge = 4 * 20 / 8  # where the shadow ends, at 20 m
    assert seen == {y for y in range(-15, 16) if abs(y) > edge - 0.3}
    _, _, free = lidar.cast_rays(solids(people), plane(), sensor(), 64, 1024)
    assert len(np.unique(free[free >= 0])) == 31


def test_leaves_are_entered_to_an_exponential_depth():
    """Promise: the density is hits per metre; what is thin lets light pass; keys differ."""
    density, thick = 2.0, 1.5
    leaves = Surface(0.4, density=density)
    hedge = solids([box(70, leaves, (-50, 50), (10, 10 + thick), (-50, 50))])
    ranges, _, hits = lidar.cast_rays(hedge, plane(-40.0), sensor(), 64, 720, key=1)
    rays = lidar.ray_directions(64, 720)
    across = (rays[..., 1] > 0.9) & (10 / np.maximum(rays[..., 1], 1e-9) < 12)
    path = thick / rays[..., 1][across]
    assert (hits[across] == 0).mean() == pytest.approx(1 - np.exp(-density * path).mean(), abs=0.02)
    struck = across & (hits == 0)
    depth = ranges[struck] - 10 / rays[..., 1][struck]
    assert depth.min() > 0 and (depth < thick / 0.9).all()
    expected = 1 / density - thick * np.exp(-density * thick) / (1 - np.exp(-density * thick))
    assert depth.mean() == pytest.approx(expected, rel=0.05)
    other = lidar.cast_rays(hedge, plane(-40.0), sensor(), 64, 720, key=2)[0]
    assert not np.array_equal(ranges[struck], other[struck])


def test_the_field_of_view_is_the_published_one():
    """Promise: 64 lasers from +2 to -24.9 degrees, each below the one before; whole turns."""
    up = np.degrees(lidar.elevations(64))
    assert up.max() == pytest.approx(2.0) and up.min() == pytest.approx(-24.9)
    assert len(up) == 64 and (np.diff(up) < 0).all()
    assert -np.diff(up[:32]) == pytest.approx(1 / 3, abs=0.001)  # the upper block of the manual
    assert -np.diff(up[32:]) == pytest.approx(1 / 2, abs=0.02)
    rays = lidar.ray_directions(64, 100)
    assert np.linalg.norm(rays, axis=-1) == pytest.approx(1)
    assert np.degrees(np.arcsin(rays[:, 0, 2])) == pytest.approx(up)
    turn = np.unwrap(np.arctan2(rays[0, :, 1], rays[0, :, 0]))
    assert turn[0] == 0 and np.diff(turn) == pytest.approx(2 * np.pi / 100)


def wall_at(distance: float, surface: Surface):
    """What is seen of a wall to the left within 30 degrees: points, and their share of the rays."""
    wall = solids([box(50, surface, (-900, 900), (distance, distance + 1), (-900, 900))], None, 7)
    points, labels = lidar.scan(wall, plane(-800.0), sensor(), 64, 720, np.random.default_rng(0))
    assert (labels == (50 | 7 << 16)).all()
    there = points[np.abs(np.arctan2(points[:, 0], points[:, 1])) <= np.radians(30.2)]
    return there, len(there) / (64 * 121)


def test_range_noise_has_two_centimetres_along_the_ray():
    """Promise: the angles stay exact, the range is right on average, the spread is published."""
    points, _ = wall_at(12.0, Surface(0.5))
    length = np.linalg.norm(points[:, :3], axis=1)
    error = length - 12.0 / (points[:, 1] / length)
    assert error.mean() == pytest.approx(0, abs=0.001)
    assert error.std() == pytest.approx(lidar.NOISE, rel=0.05)
    up = np.sort(np.arcsin(points[:, 2] / length))
    assert np.abs(up[:, None] - lidar.elevations(64)).min(axis=1).max() < 1e-5


def test_returns_are_lost_by_chance_in_glass_in_the_dark_and_far_away():
    """Promise: the share of what is lost follows from surface and range."""
    _, bright = wall_at(12.0, Surface(0.5))
    _, glass = wall_at(12.0, Surface(0.5, lost=0.7))
    _, dark = wall_at(60.0, Surface(0.01))
    _, far = wall_at(100.0, Surface(0.02))
    assert bright == pytest.approx(1 - lidar.LOST, abs=0.005)
    assert glass == pytest.approx(0.3 * (1 - lidar.LOST), abs=0.02)
    assert far < dark < 0.75 and far < 0.4


def test_intensity_falls_with_range_and_grazing_and_stays_within_one():
    """Promise: 0..1 for every surface; brighter surfaces, shorter ranges, steeper hits are more."""
    near, _ = wall_at(8.0, Surface(0.4))
    far, _ = wall_at(50.0, Surface(0.4))
    mirror, _ = wall_at(5.0, Surface(5.0))
    assert mirror[:, 3].max() == 1.0 and near[:, 3].min() >= 0
    assert near[:, 3].mean() > 1.3 * far[:, 3].mean()
    aside = np.abs(np.arctan2(near[:, 0], near[:, 1]))
    assert near[aside < 0.1, 3].mean() > near[aside > 0.45, 3].mean()
