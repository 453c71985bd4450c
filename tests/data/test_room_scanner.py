"""The simulated scanner: hits equal a brute force, nearer things hide others, density, light."""

import numpy as np
import pytest
from rooms import scanner
from rooms.plan import Box, Plan, turn
from rooms.scanner import Look

HIGH = 2.8
GREY = Look((0.5, 0.5, 0.5))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def hall(size: float = 8.0) -> Plan:
    """An empty room: floor (instance 0), ceiling (1) and four walls (2 to 5)."""
    plan = Plan((size, size, HIGH), rng())
    for z in (0, HIGH):
        made = plan.instance("ceiling" if z else "floor")
        plan.rectangle(made, (0, 0, z), (size, 0, 0), (0, size, 0), GREY)
    plan.close_walls(GREY)
    return plan


def sphere(count: int, generator: np.random.Generator) -> np.ndarray:
    points = generator.standard_normal((count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def brute_force(surfaces: scanner.Surfaces, start: np.ndarray, ways: np.ndarray):
    """Try every ray with every rectangle and disc, by solving for the point in the plane."""
    best, part = np.full(len(ways), np.inf), np.full(len(ways), -1)
    shapes = []
    for corner, u, v in zip(surfaces.corner, surfaces.u, surfaces.v, strict=True):
        def inside(p, corner=corner, u=u, v=v):
            ab = np.linalg.lstsq(np.stack([u, v], 1), (p - corner).T, rcond=None)[0]
            return ((ab >= 0) & (ab <= 1)).all(axis=0)
        shapes.append((corner, np.cross(u, v), inside))
    for centre, normal, radius in zip(
        surfaces.centre, surfaces.normal, surfaces.radius, strict=True
    ):
        shapes.append((centre, normal, lambda p, c=centre, r=radius:
                       np.linalg.norm(p - c, axis=1) <= r))  # fmt: skip
    for number, (at, normal, inside) in enumerate(shapes):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = ((at - start) @ normal) / (ways @ normal)
            hit = (t > 0) & (t < best) & inside(start + np.where(t > 0, t, 0)[:, None] * ways)
        best[hit], part[hit] = t[hit], surfaces.part[number]
    return best, part


def test_hits_equal_a_brute_force_over_all_surfaces():
    """Promise: distance and surface of each ray, also straight up and behind the azimuth's seam."""
    plan = hall()
    plan.block(plan.instance("column"), Box(1.5, 5, 0.3, 0.2, 0.7, 0, HIGH), GREY)
    surfaces = plan.surfaces()
    start = np.array([4.0, 4.0, 1.4])
    normals, ways = sphere(80, rng(1)), sphere(4000, rng(2))
    ways[:3] = [(0, 0, 1), (-1, -1e-9, 0), (-1, 1e-9, 0)]
    centres = start + sphere(80, rng(3)) * rng(4).uniform(0.4, 3, (80, 1))
    centres[:2] = start + np.array([[0, 0, 1.0], [-1.0, 0, 0.0]])  # over the pole, on the seam
    surfaces = scanner.Surfaces(
        surfaces.corner, surfaces.u, surfaces.v, centres, normals, rng(5).uniform(0.03, 0.2, 80),
        np.concatenate([surfaces.part, np.full(80, len(surfaces.parts))]), surfaces.parts,
    )  # fmt: skip
    distance, part, normal = scanner.cast(surfaces, start, ways)
    expected, expected_part = brute_force(surfaces, start, ways)
    np.testing.assert_allclose(distance, expected, rtol=1e-9)
    assert np.array_equal(part, expected_part) and len(np.unique(part)) > 8
    assert (np.einsum("nk,nk->n", normal, ways) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1)


def test_discs_close_a_sparse_cloud():
    """Promise: rays onto 2,048 points of a sphere meet its surface, not the gaps between them."""
    cloud = sphere(2048, rng())
    normals, radii = scanner.discs(cloud)
    assert np.abs(np.einsum("nk,nk->n", normals, cloud)).mean() > 0.99
    part = scanner.Part(0, GREY, np.zeros(3), np.eye(3))
    nothing = np.empty((0, 3))
    surfaces = scanner.Surfaces(nothing, nothing, nothing, cloud, normals, radii,
                                np.zeros(2048, np.int64), (part,))  # fmt: skip
    start = np.array([5.0, 0, 0])
    aim = np.concatenate([np.zeros((2000, 1)), rng(1).uniform(-0.6, 0.6, (2000, 2))], axis=1)
    ways = (aim - start) / np.linalg.norm(aim - start, axis=1, keepdims=True)
    distance = scanner.cast(surfaces, start, ways)[0]
    reached = np.linalg.norm(start + distance[:, None] * ways, axis=1)
    front = (start + distance[:, None] * ways)[:, 0] > 0
    assert (front & (np.abs(reached - 1) < 0.03)).mean() > 0.99


def test_the_wall_behind_a_bookcase_has_no_points_in_its_shadow():
    """Promise: with one scanner no seen point lies behind a thing; without the thing some do."""
    box = Box(4.0, 6.5, 0.6, 0.2, 0.4, 0.0, 2.0)
    eye = np.array([[4.0, 3.0, 1.4]])

    def crosses(points: np.ndarray) -> np.ndarray:
        """Slab test: does the segment from the eye to each point pass the box's inside?"""
        half = np.array([box.half_x, box.half_y, 1.0]) - 0.02
        local = [(p - [box.x, box.y, 1.0]) @ turn(box.yaw) for p in (eye, points)]
        with np.errstate(divide="ignore"):
            ends = np.stack([(s * half - local[0]) / (local[1] - local[0]) for s in (-1, 1)])
        enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
        return (enter < leave) & (enter < 0.97) & (leave > 0)

    def seen(plan: Plan) -> scanner.Scan:
        return scanner.scan(plan.surfaces(), eye, np.empty((0, 3)), 20_000, rng())

    empty, furnished = hall(), hall()
    furnished.block(furnished.instance("bookcase"), box, GREY)
    open_, hidden = seen(empty), seen(furnished)
    behind = open_.instances >= 2
    assert crosses(open_.points[behind]).sum() > 200
    others = hidden.points[hidden.instances < 6]
    assert crosses(others).sum() == 0 and (hidden.instances == 6).sum() > 200


def test_density_falls_with_the_square_of_the_distance():
    """Promise: points on floor and wall are as many as the solid angle holds."""
    eye, rays = np.array([4.0, 4.0, 1.4]), 60_000
    seen = scanner.scan(hall().surfaces(), eye[None], np.empty((0, 3)), rays, rng())
    floor = seen.points[seen.instances == 0] - eye
    radius = np.linalg.norm(floor[:, :2], axis=1)
    edges = np.array([0.7, 1.2, 1.8, 2.5, 3.2, 3.9])
    found = np.histogram(radius, edges)[0]
    cosine = 1.4 / np.hypot(edges, 1.4)
    expected = rays * (cosine[:-1] - cosine[1:]) / (1 - np.sin(scanner.LOWEST))
    np.testing.assert_allclose(found, expected, rtol=0.03)
    density = found / (np.pi * np.diff(edges**2))
    assert (np.diff(density) < 0).all() and density[0] > 10 * density[-1]

    def on_wall(size: float) -> int:
        at = np.array([size / 2, size / 2, 1.4])
        seen = scanner.scan(hall(size).surfaces(), at[None], np.empty((0, 3)), rays, rng())
        wall = seen.points[seen.instances == 3] - at
        return int((np.abs(wall[:, 1:]) < 0.3).all(axis=1).sum())

    assert on_wall(4.0) / on_wall(12.0) == pytest.approx(9.0, rel=0.1)


def test_range_noise_is_a_few_millimetres():
    """Promise: along the ray, without bias."""
    eye = np.array([[4.0, 4.0, 1.4]])
    seen = scanner.scan(hall().surfaces(), eye, np.empty((0, 3)), 20_000, rng())
    wall = seen.points[seen.instances == 3]
    along = (wall[:, 0] - 8.0) * np.linalg.norm(wall - eye, axis=1) / (wall[:, 0] - 4.0)
    assert along.std() == pytest.approx(scanner.RANGE_NOISE, rel=0.05)
    assert abs(along.mean()) < 2e-4


def test_glass_swallows_rays_and_lamps_throw_shadows():
    """Promise: a pane returns its share; floor in the shade of a table top is darker."""
    plan = hall()
    pane = Look((0.6, 0.7, 0.8), kept=0.4)
    plan.rectangle(plan.instance("window"), (7.9, 2, 0.5), (0, 4, 0), (0, 0, 2), pane)
    solid = hall()
    solid.rectangle(solid.instance("window"), (7.9, 2, 0.5), (0, 4, 0), (0, 0, 2), GREY)
    eye, lamp = np.array([[4.0, 2.0, 1.4]]), np.array([[4.0, 4.0, 2.5]])
    counts = [(scanner.scan(p.surfaces(), eye, lamp, 20_000, rng()).instances == 6).sum()
              for p in (plan, solid)]  # fmt: skip
    assert counts[0] / counts[1] == pytest.approx(0.4, abs=0.03)
    table = hall()
    table.rectangle(table.instance("table"), (3.4, 3.4, 0.9), (1.2, 0, 0), (0, 1.2, 0), GREY)
    seen = scanner.scan(table.surfaces(), eye, lamp, 40_000, rng())
    off = np.abs(seen.points[:, :2] - 4).max(axis=1)
    floor = seen.instances == 0
    shade, lit = (seen.colours[floor & where].mean() for where in (off < 0.6, (off > 1.2)
                                                                   & (off < 1.8)))  # fmt: skip
    assert shade < 0.85 * lit
