"""Sampling and neighbours: equal to brute force, with ties and shortages, on both paths."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from i2p_lib.models import point_ops
from i2p_lib.models.point_ops import (
    ball_query,
    farthest_points,
    gather,
    interpolate,
    nearest_points,
)

# compiled loops run on the CPU, torch elsewhere; the second path is plain torch and runs here too
BALL = {"compiled": ball_query, "torch": point_ops._ball_query_torch}
NEAREST = {"compiled": nearest_points, "torch": point_ops._nearest_points_torch}
both_paths = pytest.mark.parametrize("path", ["compiled", "torch"])


def cloud(batch=3, size=200, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, size, 3, generator=generator, dtype=dtype)


def lattice():
    """Points on a coarse lattice: most distances are tied, and points coincide."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 4, (2, 150, 3), generator=generator).float()


CLOUDS = {"random": cloud(), "float64": cloud(dtype=torch.float64), "lattice": lattice()}
every_cloud = pytest.mark.parametrize("points", CLOUDS.values(), ids=CLOUDS)


def squared(a, b):
    """[A, B] squared distances in the arrays' own precision."""
    dx, dy, dz = ((a[:, None, axis] - b[None, :, axis]) for axis in range(3))
    return dx * dx + dy * dy + dz * dz


def brute_farthest(points, count):
    taken = [0]
    while len(taken) < count:
        taken.append(int(squared(points[taken], points).min(0).argmax()))
    return taken


def brute_ball(points, centres, limit, count):
    rows = []
    for distances in squared(centres, points):
        inside = np.flatnonzero(distances < limit)[:count].tolist()
        first = inside[0] if inside else int(distances.argmin())
        rows.append(inside + [first] * (count - len(inside)))
    return rows


@every_cloud
def test_farthest_points_equal_brute_force(points):
    """Promise: the greedy choice, the lower index on a tie, from point 0."""
    expected = [brute_farthest(each.numpy(), 60) for each in points]
    assert farthest_points(points, 60).tolist() == expected


def test_asking_for_more_points_than_there_are_repeats_point_0():
    points = cloud(size=7)
    chosen = farthest_points(points, 10)
    assert all(sorted(row[:7]) == list(range(7)) for row in chosen.tolist())
    assert (chosen[:, 7:] == 0).all()


@both_paths
@every_cloud
@pytest.mark.parametrize("limit, count", [(0.0625, 16), (1.0, 4), (4.0, 160)])
def test_ball_query_equals_brute_force(points, path, limit, count):
    """Promise: the first points strictly nearer than the radius, then the first one again."""
    centres = points[:, :40]
    expected = [brute_ball(p.numpy(), c.numpy(), limit, count)
                for p, c in zip(points, centres, strict=True)]  # fmt: skip
    size = limit**0.5 if path == "compiled" else limit
    assert BALL[path](points, centres, size, count).tolist() == expected


def test_the_radius_is_squared_once_for_both_paths():
    """Promise: a radius that is no binary fraction picks the same points on both paths."""
    points = (torch.arange(64.0) * 0.1).view(1, -1, 1) * torch.tensor([1.0, 0.0, 0.0])
    compiled = ball_query(points, points, 0.3, 8)
    limit = float(np.float32(0.3 * 0.3))
    assert torch.equal(compiled, point_ops._ball_query_torch(points, points, limit, 8))
    assert compiled[0].tolist() == brute_ball(points[0].numpy(), points[0].numpy(),
                                              np.float32(limit), 8)


@both_paths
def test_an_empty_ball_is_filled_with_the_nearest_point(path):
    points = cloud(batch=1)
    far = torch.tensor([[[5.0, 0.0, 0.0]]])
    found = BALL[path](points, far, 0.1, 4)
    nearest = squared(far[0].numpy(), points[0].numpy()).argmin()
    assert found.tolist() == [[[nearest] * 4]]


@both_paths
def test_nearest_points_equal_scikit_learn(path):
    points, centres = cloud(dtype=torch.float64), cloud(size=30, seed=1, dtype=torch.float64)
    for b, found in enumerate(NEAREST[path](points, centres, 16)):
        reference = NearestNeighbors(n_neighbors=16, algorithm="brute").fit(points[b])
        assert np.array_equal(found, reference.kneighbors(centres[b], return_distance=False))


@both_paths
@every_cloud
def test_of_equally_near_points_the_lower_index_comes_first(points, path):
    found = NEAREST[path](points, points[:, :20], 50)
    for b in range(len(points)):
        distances = squared(points[b, :20].numpy(), points[b].numpy())
        assert np.array_equal(found[b], distances.argsort(1, kind="stable")[:, :50])


def test_neighbours_do_not_change_when_the_cloud_moves():
    """Promise: on coordinates whose sums are exact, all choices are those of the unmoved cloud."""
    points = (cloud() * 256).round() / 256
    moved = points + torch.tensor([2.0, -4.0, 8.0])
    for choose in (lambda x: farthest_points(x, 50), lambda x: ball_query(x, x, 0.2, 8),
                   lambda x: nearest_points(x, x, 8)):  # fmt: skip
        assert torch.equal(choose(points), choose(moved))


def test_gather_takes_rows_of_each_cloud_and_its_gradient_is_right():
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 6, (2, 4, 5), generator=generator)
    rows = gather(values, index)
    assert all(torch.equal(rows[b, m, k], values[b, index[b, m, k]])
               for b in range(2) for m in range(4) for k in range(5))  # fmt: skip
    assert torch.equal(gather(values, index[:, :, 0]), rows[:, :, 0])
    assert torch.autograd.gradcheck(lambda v: gather(v, index), values)


def test_interpolation_is_the_inverse_distance_mean_and_exact_on_points():
    """Promise: SciPy's neighbours, weights 1/d^2; a point of the cloud gets its own value."""
    from scipy.spatial import cKDTree

    points, targets = (cloud(2, n, n, torch.float64) for n in (40, 9))
    values = cloud(2, 40, 5, torch.float64).requires_grad_()
    carried = interpolate(values, points, targets)
    for b in range(2):
        distance, index = cKDTree(points[b]).query(targets[b], k=3)
        weight = distance**-2 / (distance**-2).sum(1, keepdims=True)
        expected = (values[b].detach().numpy()[index] * weight[..., None]).sum(1)
        np.testing.assert_allclose(carried[b].detach(), expected, rtol=1e-10)
    torch.testing.assert_close(interpolate(values, points, points), values, atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(lambda v: interpolate(v, points, targets), values)


def test_half_precision_is_compared_in_float32():
    points = cloud().bfloat16()
    assert torch.equal(farthest_points(points, 20), farthest_points(points.float(), 20))
    assert torch.equal(ball_query(points, points, 0.3, 8),
                       ball_query(points.float(), points.float(), 0.3, 8))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: farthest_points(p[0], 4), r"points must be .* got torch.float32 \[200, 3\]"),
        (lambda p: farthest_points(p[:, :0], 4), r"with P > 0, got torch.float32 \[3, 0, 3\]"),
        (lambda p: farthest_points(p.long(), 4), "float tensor .* got torch.int64"),
        (lambda p: farthest_points(p, 0), "count must be at least 1, got 0"),
        (lambda p: ball_query(p, p[:2], 0.1, 4), "3 clouds of torch.float32 and 2 of"),
        (lambda p: ball_query(p, p.double(), 0.1, 4), "one batch and dtype"),
        (lambda p: ball_query(p, p, 0.0, 4), "radius must be positive, got 0.0"),
        (lambda p: nearest_points(p, p, 201), "201 nearest points asked of clouds of 200"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(cloud())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_cloud
def test_a_gpu_chooses_the_same_points(points):
    device = points.cuda()
    assert torch.equal(farthest_points(device, 60).cpu(), farthest_points(points, 60))
    for query, size in ((ball_query, (0.3, 16)), (nearest_points, (16,))):
        assert torch.equal(query(device, device, *size).cpu(), query(points, points, *size))
    index = nearest_points(points, points, 3)
    assert torch.equal(gather(device, index.cuda()).cpu(), gather(points, index))
