"""Geometry of point sets: sampling, neighbours, gathering and interpolation, in batches.

Coordinates are [B, P, 3] in any unit; indices are int64 and count the P points of their own cloud.
On the CPU compiled loops run; elsewhere torch does.
Both compute squared distances as ``dx*dx + dy*dy + dz*dz`` in the coordinates' own precision and
settle ties in favour of the lower index, so both choose the same points.
ValueError is raised for coordinates that are not float [B, P, 3] of one batch and dtype, with P at
least 1, and for a count or radius out of range.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Farthest point sampling (PointNet++, section 3.2): indices [B, count].

    The first is point 0; each next one is the point farthest from all that were taken before.
    Once all distinct points are taken, point 0 repeats, so ``count`` may exceed P.
    """
    _check(points, count)
    if points.device.type != "cpu":
        return _farthest_points_torch(points, count)
    return torch.from_numpy(_kernels()[0](_planes(points), count))


def ball_query(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """For each centre [B, M, 3], ``count`` points nearer than ``radius``: indices [B, M, count].

    As in PointNet++'s own code these are the first ones in the order of the points, not the
    nearest; where the ball holds fewer, its first point fills the rest.
    An empty ball (a centre that is no point) is filled with the nearest point.
    """
    _check(points, count, centres)
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    limit = float(torch.tensor(radius * radius, dtype=_plain(points).dtype))
    if points.device.type != "cpu":
        return _ball_query_torch(points, centres, limit, count)
    return torch.from_numpy(_kernels()[1](_planes(points), _planes(centres), limit, count))


def nearest_points(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """For each centre [B, M, 3], its ``count`` nearest points, nearest first: [B, M, count]."""
    _check(points, count, centres)
    if count > points.shape[1]:
        raise ValueError(f"{count} nearest points asked of clouds of {points.shape[1]}: "
                         "ask for fewer, or give larger clouds")
    if points.device.type != "cpu":
        return _nearest_points_torch(points, centres, count)
    return torch.from_numpy(_kernels()[2](_planes(points), _planes(centres), count))


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Values [B, P, C] at the indices [B, ...] of their own cloud: [B, ..., C]; differentiable."""
    first = torch.arange(len(values), device=values.device) * values.shape[1]
    rows = index + first.view(-1, *[1] * (index.ndim - 1))
    # a lookup table's gradient adds row by row in a fixed order, on every device
    return F.embedding(rows, values.flatten(0, 1))


def interpolate(values: Tensor, points: Tensor, targets: Tensor) -> Tensor:
    """Carry values [B, P, C] from the points to the targets [B, M, 3]: [B, M, C].

    Mean of the three nearest points, weighted by the inverse squared distance
    (PointNet++, section 3.4); a target on a point gets that point's value.
    """
    index = nearest_points(points, targets, 3)
    squared = (gather(points, index) - targets.unsqueeze(2)).square().sum(-1)
    weight = 1 / squared.clamp_min(1e-10)
    weight = weight / weight.sum(-1, keepdim=True)
    return (gather(values, index) * weight.unsqueeze(-1)).sum(2)


def _check(points: Tensor, count: int, centres: Tensor | None = None) -> None:
    centres = points if centres is None else centres
    for what, xyz in (("points", points), ("centres", centres)):
        if xyz.ndim != 3 or xyz.shape[2] != 3 or not xyz.shape[1] or not xyz.is_floating_point():
            raise ValueError(f"{what} must be a float tensor [B, P, 3] with P > 0, "
                             f"got {xyz.dtype} {list(xyz.shape)}")
    if (len(points), points.dtype) != (len(centres), centres.dtype):
        raise ValueError(f"points and centres must be of one batch and dtype, got {len(points)} "
                         f"clouds of {points.dtype} and {len(centres)} of {centres.dtype}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")


def _plain(points: Tensor) -> Tensor:
    """Half precision widened to float32: too coarse to tell neighbours apart."""
    return points.detach() if points.dtype == torch.float64 else points.detach().float()


def _squared(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [B, M, P], in the order of operations of the compiled loops."""
    dx, dy, dz = ((points[:, None, :, axis] - centres[:, :, None, axis]) for axis in range(3))
    return dx * dx + dy * dy + dz * dz


def _farthest_points_torch(points: Tensor, count: int) -> Tensor:
    points = _plain(points)
    nearest = points.new_full(points.shape[:2], torch.inf)
    last = torch.zeros(len(points), 1, dtype=torch.int64, device=points.device)
    taken = []
    for _ in range(count):
        taken.append(last)
        here = points.gather(1, last[..., None].expand(-1, -1, 3))
        nearest = torch.minimum(nearest, _squared(points, here)[:, 0])
        last = nearest.argmax(1, keepdim=True)
    return torch.cat(taken, 1)


def _ball_query_torch(points: Tensor, centres: Tensor, limit: float, count: int) -> Tensor:
    squared = _squared(_plain(points), _plain(centres))
    size = points.shape[1]
    order = torch.arange(size, device=points.device)
    found = torch.where(squared < limit, order, size)
    found = found.topk(min(count, size), largest=False).values
    found = F.pad(found, (0, count - found.shape[2]), value=size)
    first = torch.where(found[..., :1] == size, squared.argmin(2, keepdim=True), found[..., :1])
    return torch.where(found == size, first, found)


def _nearest_points_torch(points: Tensor, centres: Tensor, count: int) -> Tensor:
    order = _squared(_plain(points), _plain(centres)).argsort(dim=2, stable=True)
    return order[..., :count].contiguous()


def _planes(points: Tensor) -> np.ndarray:
    """[3, B, P]: each coordinate contiguous, so that the loops over points vectorise."""
    return _plain(points).permute(2, 0, 1).contiguous().numpy()


@cache
def _kernels():
    """Compile on first use, so that importing the package stays quick; the code is cached."""
    from numba import njit

    @njit(cache=True, nogil=True)
    def farthest(points, count):
        batch, size = points.shape[1:]
        out, nearest = np.empty((batch, count), np.int64), np.empty(size, points.dtype)
        for b in range(batch):
            x, y, z = points[0, b], points[1, b], points[2, b]
            nearest[:] = np.inf
            last = 0
            for s in range(count):
                out[b, s] = last
                cx, cy, cz = x[last], y[last], z[last]
                for p in range(size):
                    dx, dy, dz = x[p] - cx, y[p] - cy, z[p] - cz
                    nearest[p] = min(nearest[p], dx * dx + dy * dy + dz * dz)
                last = 0
                for p in range(1, size):
                    if nearest[p] > nearest[last]:
                        last = p
        return out

    @njit(cache=True, nogil=True)
    def ball(points, centres, limit, count):
        batch, many = centres.shape[1:]
        out = np.empty((batch, many, count), np.int64)
        for b in range(batch):
            x, y, z = points[0, b], points[1, b], points[2, b]
            for m in range(many):
                cx, cy, cz = centres[0, b, m], centres[1, b, m], centres[2, b, m]
                found, near, least = 0, 0, np.inf
                for p in range(len(x)):
                    dx, dy, dz = x[p] - cx, y[p] - cy, z[p] - cz
                    squared = dx * dx + dy * dy + dz * dz
                    if squared < least:
                        near, least = p, squared
                    if squared < limit:
                        out[b, m, found] = p
                        found += 1
                        if found == count:
                            break
                if found == 0:
                    out[b, m, 0], found = near, 1
                out[b, m, found:] = out[b, m, 0]
        return out

    @njit(cache=True, nogil=True)
    def nearest(points, centres, count):
        batch, many = centres.shape[1:]
        out, best = np.zeros((batch, many, count), np.int64), np.empty(count, points.dtype)
        for b in range(batch):
            x, y, z = points[0, b], points[1, b], points[2, b]
            for m in range(many):
                cx, cy, cz = centres[0, b, m], centres[1, b, m], centres[2, b, m]
                best[:] = np.inf
                chosen = out[b, m]
                for p in range(len(x)):
                    dx, dy, dz = x[p] - cx, y[p] - cy, z[p] - cz
                    squared = dx * dx + dy * dy + dz * dz
                    if squared < best[count - 1]:
                        k = count - 1
                        while k > 0 and squared < best[k - 1]:
                            best[k], chosen[k] = best[k - 1], chosen[k - 1]
                            k -= 1
                        best[k], chosen[k] = squared, p
        return out

    return farthest, ball, nearest
