"""Kernel maps: which input site meets which output site under which kernel tap."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

Triple = tuple[int, int, int]
Made = TypeVar("Made")

TABLE_CELLS = 2**25  # largest direct lookup table, in int32 cells (128 MiB)
BIT_CELLS = 2**30  # largest grid with a bit per cell (192 MiB with the running counts)
CELLS_PER_ROW = 2**14  # emptier grids than this are better sorted than walked through
KEY_LIMIT = 2**62  # keys are int64; one bit is kept free for the added offsets
LOOKUPS = 2**23  # lookups done at a time, which bounds the memory of a map


def once(store: dict, key: Hashable, make: Callable[[], Made]) -> Made:
    """Return what ``store`` has under a key, which ``make`` makes the first time."""
    if key not in store:
        store[key] = make()
    return store[key]


@cache
def kernel_offsets(kernel: Triple, padding: Triple, dilation: int) -> Tensor:
    """Offsets [K, 3] of the taps from ``stride * output``, in row-major (x, y, z) order."""
    axes = [[(i - p) * dilation for i in range(k)] for k, p in zip(kernel, padding, strict=True)]
    return torch.tensor(list(product(*axes)), dtype=torch.int64)


def grid_padding(kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Cells before a window's first tap, so that n cells of an image give ceil(n / stride) outputs.

    That is ``padding`` itself where it keeps the size. Another window is centred instead
    (TensorFlow's "same" padding): sparse sites have no border.
    """
    reach = dilation * (kernel - 1) + 1
    if reach - stride <= 2 * padding < reach:
        return padding
    return max(0, reach - stride) // 2


@dataclass(frozen=True)
class KernelMap:
    """Pairs (input row, output row), grouped by kernel tap.

    ``rows_in`` and ``rows_out`` are int64 [P]; tap ``k`` owns ``sizes[k]`` consecutive pairs.
    Within one tap every input row and every output row occurs at most once.
    ``identity`` is the tap that maps each row onto itself, where there is one.
    """

    rows_in: Tensor
    rows_out: Tensor
    sizes: tuple[int, ...]
    n_in: int
    n_out: int
    identity: int | None = None
    lists: dict = field(default_factory=dict, repr=False, compare=False)

    def taps(self, identity: bool = False) -> list[tuple[int, Tensor, Tensor]]:
        """(tap, input rows, output rows) of each tap that has pairs; the identity if asked for."""
        rows = once(self.lists, "taps", lambda: list(zip(
            range(len(self.sizes)), self.rows_in.split(self.sizes),
            self.rows_out.split(self.sizes), strict=True)))  # fmt: skip
        return [tap for tap in rows if len(tap[1]) and (identity or tap[0] != self.identity)]

    def transposed(self) -> KernelMap:
        """The same pairs with input and output exchanged (for a transposed convolution)."""
        return once(self.lists, "transposed", lambda: KernelMap(
            self.rows_out, self.rows_in, self.sizes, self.n_out, self.n_in, self.identity))


def build_kernel_map(sites_in: Tensor, sites_out: Tensor, kernel: Triple, stride: int = 1,
                     padding: Triple = (0, 0, 0), dilation: int = 1,
                     extruded: int | None = None) -> KernelMap:  # fmt: skip
    """Find every pair ``input = stride * output + offset``; the kernel is given as for conv3d.

    Args:
        sites_in: int64 [N, 4], (batch, x, y, z), no row twice.
        sites_out: int64 [M, 4]; the same object as ``sites_in`` for a submanifold convolution.
        extruded: see `Sites`; all taps along that axis meet the same site.

    Raises ValueError where the coordinates span more cells than int64 keys can number.
    """
    offsets = kernel_offsets(kernel, padding, dilation)
    if extruded is not None:
        offsets = offsets.clone()
        offsets[:, extruded] = 0
    same = sites_in is sites_out and stride == 1
    centred = all(2 * p == (k - 1) for k, p in zip(kernel, padding, strict=True))
    mirror = same and centred and extruded is None and len(offsets) > 1
    searched = offsets[: len(offsets) // 2] if mirror else offsets

    reach = int(offsets.abs().max())
    keys_in, cells, keys_out, weights = _keys(sites_in, sites_out, stride, reach)
    deltas = (searched * searched.new_tensor(weights)).sum(1).to(sites_in.device)
    if occupancy := _occupancy(keys_in, cells):
        rows_in, rows_out, sizes = occupancy.find_pairs(keys_in, cells, keys_out, deltas, mirror)
    else:
        taps, rows_in, rows_out = _search(_lookup(keys_in, cells), keys_out, deltas)
        sizes = torch.bincount(taps, minlength=len(searched)).tolist()
        if mirror:
            rows_in, rows_out, sizes = _mirror(rows_in, rows_out, sizes, len(sites_in))
    identity = len(offsets) // 2 if mirror else None
    if len(offsets) == 1 and same and not offsets.any():
        identity = 0
    return KernelMap(rows_in, rows_out, tuple(sizes), len(sites_in), len(sites_out), identity)


def _occupancy(rows: Tensor, cells: int) -> ModuleType | None:
    """The compiled functions over one bit per cell, where they suit these rows of a grid."""
    if rows.device.type != "cpu" or cells > min(BIT_CELLS, CELLS_PER_ROW * len(rows)):
        return None
    from i2p_lib.sparse import occupancy  # compiles, so that importing the package stays quick

    return occupancy


def unique_rows(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted unique rows, the unique row of each row, and how many rows each stands for."""
    if not len(coords):
        return coords, coords[:, 0], coords[:, 0]
    columns = coords.T.contiguous()
    low, extent = _extent(columns, 0)
    cells = math.prod(extent)
    if cells >= KEY_LIMIT:
        return torch.unique(coords, dim=0, return_inverse=True, return_counts=True)
    if occupancy := _occupancy(coords, cells):
        return occupancy.unique_rows(coords, low, extent)
    keys = _numbered(columns, low, extent)
    keys, place, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    rows = torch.stack(torch.unravel_index(keys, tuple(extent)), 1)
    return rows + rows.new_tensor(low), place, counts


def _search(find, keys_out: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Look up every (tap, output) and keep the hits, ordered by tap, then by output row."""
    step = max(1, LOOKUPS // max(1, len(keys_out)))
    found = []
    for start in range(0, len(deltas), step):
        rows = find(deltas[start : start + step, None] + keys_out[None, :])
        taps, rows_out = torch.nonzero(rows >= 0, as_tuple=True)
        found.append((taps + start, rows[taps, rows_out].long(), rows_out))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


def _mirror(rows_in: Tensor, rows_out: Tensor, sizes: list[int], n: int):
    """Complete a submanifold map: tap ``K - 1 - k`` has the pairs of tap ``k``, exchanged."""
    every = torch.arange(n, device=rows_in.device)
    both = ((rows_in, rows_out), (rows_out, rows_in))
    return (*(torch.cat([rows, every, *back.split(sizes)[::-1]]) for rows, back in both),
            [*sizes, n, *sizes[::-1]])


def _keys(sites_in: Tensor, sites_out: Tensor, stride: int, reach: int):
    """Keys of the inputs, how many there are with a margin, of the outputs, weights of x, y, z."""
    every = sites_in
    if sites_in is not sites_out or stride > 1:
        every = torch.cat([sites_in, sites_out * sites_out.new_tensor([1, *[stride] * 3])])
    if not len(every):
        return every[:, 0], 0, every[:, 0], (1, 1, 1)
    columns = every.T.contiguous()
    low, extent = _extent(columns, reach)
    if math.prod(extent) >= KEY_LIMIT:
        columns = torch.stack([_squeeze(column, reach) for column in columns])
        low, extent = _extent(columns, reach)
    cells = math.prod(extent)
    if cells >= KEY_LIMIT:
        raise ValueError(f"the coordinates span {cells:.3g} cells, more than {KEY_LIMIT:.3g} that "
                         "can be numbered: use a larger voxel size or a smaller batch")
    keys = _numbered(columns, low, extent)
    weights = extent[2] * extent[3], extent[3], 1
    return keys[: len(sites_in)], cells, keys[-len(sites_out) :], weights


def _numbered(columns: Tensor, low: list[int], extent: list[int]) -> Tensor:
    """The number of each cell, [N], of integer columns [4, N] in a grid."""
    keys = columns[0] - low[0]
    for column, first, size in zip(columns[1:], low[1:], extent[1:], strict=True):
        keys = keys * size + (column - first)
    return keys


def _extent(columns: Tensor, reach: int) -> tuple[list[int], list[int]]:
    """The lowest batch, x, y, z of integer columns [4, N] less the margin, and the cells along."""
    low, high = torch.stack([columns.amin(1), columns.amax(1)]).tolist()
    first = [low[0], *(value - reach for value in low[1:])]
    last = [high[0], *(value + reach for value in high[1:])]
    return first, [b - a + 1 for a, b in zip(first, last, strict=True)]


def _squeeze(values: Tensor, reach: int) -> Tensor:
    """Shorten the gaps along one axis that no kernel can bridge; all nearer distances stay."""
    unique, place = values.unique(return_inverse=True)
    gaps = unique.diff(prepend=unique[:1]).clamp(max=reach + 1)
    return gaps.cumsum(0)[place]


def _lookup(keys_in: Tensor, cells: int) -> Callable[[Tensor], Tensor]:
    """The row of each key, -1 where no site is: from a table, or by search in a large grid."""
    if cells <= TABLE_CELLS:
        table = torch.full((cells,), -1, dtype=torch.int32, device=keys_in.device)
        table[keys_in] = torch.arange(len(keys_in), dtype=torch.int32, device=keys_in.device)
        return table.__getitem__
    ordered, rows = keys_in.sort()

    def find(keys: Tensor) -> Tensor:
        place = torch.searchsorted(ordered, keys).clamp(max=len(ordered) - 1)
        return torch.where(ordered[place] == keys, rows[place], -1)

    return find
