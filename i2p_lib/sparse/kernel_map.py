"""Kernel maps: which input site meets which output site under which kernel tap."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Self, TypeVar

import torch
from torch import Tensor

Triple = tuple[int, int, int]
Made = TypeVar("Made")

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
    axes = zip(kernel, padding, strict=True)
    return torch.cartesian_prod(*(torch.arange(k) * dilation - p for k, p in axes))


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

    def transposed(self) -> Self:
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
        offsets = offsets.index_fill(1, torch.tensor(extruded), 0)
    same = sites_in is sites_out and stride == 1
    every = sites_in
    if not same:
        every = torch.cat([sites_in, sites_out * sites_out.new_tensor([1, *[stride] * 3])])
    keys, extent = _numbered(every, int(offsets.abs().max()))
    keys_in, keys_out = keys[: len(sites_in)], keys[len(keys) - len(sites_out) :]
    centred = all(k % 2 and 2 * p == dilation * (k - 1)
                  for k, p in zip(kernel, padding, strict=True))  # fmt: skip
    mirror = same and centred and extruded is None
    searched = offsets[: len(offsets) // 2] if mirror else offsets
    weights = searched.new_tensor([extent[2] * extent[3], extent[3], 1])
    deltas = (searched * weights).sum(1).to(sites_in.device)
    if occupancy := _occupancy(keys_in, extent):
        pairs = occupancy.find_pairs(keys_in, math.prod(extent), keys_out, deltas)
    else:
        pairs = _search(keys_in, keys_out, deltas)
    rows_in, rows_out, sizes = _mirrored(*pairs, len(sites_in)) if mirror else pairs
    identity = len(offsets) // 2 if mirror else None
    return KernelMap(rows_in, rows_out, tuple(sizes), len(sites_in), len(sites_out), identity)


def _occupancy(keys: Tensor, extent: list[int]) -> ModuleType | None:
    """The compiled functions over one bit per cell, where they suit these cells of a grid."""
    if keys.device.type != "cpu" or math.prod(extent) > min(BIT_CELLS, CELLS_PER_ROW * len(keys)):
        return None
    from i2p_lib.sparse import occupancy  # compiles, so that importing the package stays quick

    return occupancy


def unique_rows(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted unique rows, the unique row of each row, and how many rows each stands for."""
    return unique_cells(coords.T.contiguous())


def unique_cells(columns: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `unique_rows`, of columns batch, x, y and z of integers; rows are int64 [U, 4]."""
    keys, extent = _number(columns, 0)
    if occupancy := _occupancy(keys, extent):
        place = occupancy.places(keys, math.prod(extent))
    else:
        keys, order = keys.sort()
        place = torch.empty_like(order)
        first = keys != keys.roll(1)
        first[:1] = False
        place[order] = first.cumsum(0)
        del order, first
    del keys
    counts = torch.bincount(place)
    member = torch.empty_like(counts)  # some row of each cell
    member[place] = torch.arange(len(place), device=place.device)
    rows = member.new_empty(len(counts), len(columns))
    for column, values in zip(rows.unbind(1), columns, strict=True):
        column.copy_(values[member])
    return rows, place, counts


def _search(keys_in: Tensor, keys_out: Tensor,
            deltas: Tensor) -> tuple[Tensor, Tensor, list[int]]:  # fmt: skip
    """As ``occupancy.find_pairs``, in a sorted list: for a GPU, and for nearly empty grids."""
    ordered, rows = keys_in.sort()
    step = max(1, LOOKUPS // max(1, len(keys_out)))
    found = []
    for n, some in enumerate(deltas.split(step)):
        keys = some[:, None] + keys_out
        place = torch.searchsorted(ordered, keys).clamp(max=len(ordered) - 1)
        taps, rows_out = torch.nonzero(ordered[place] == keys, as_tuple=True)
        found.append((taps + n * step, rows[place[taps, rows_out]], rows_out))
    taps, rows_in, rows_out = (torch.cat(column) for column in zip(*found, strict=True))
    return rows_in, rows_out, torch.bincount(taps, minlength=len(deltas)).tolist()


def _mirrored(rows_in: Tensor, rows_out: Tensor, sizes: list[int], n: int):
    """Complete a submanifold map: tap ``K - 1 - k`` has the pairs of tap ``k``, exchanged."""
    every = torch.arange(n, device=rows_in.device)
    both = ((rows_in, rows_out), (rows_out, rows_in))
    return (*(torch.cat([rows, every, *back.split(sizes)[::-1]]) for rows, back in both),
            [*sizes, n, *sizes[::-1]])


def _numbered(coords: Tensor, reach: int) -> tuple[Tensor, list[int]]:
    """As `_number`, of rows [N, 4]."""
    return _number(coords.T.contiguous(), reach)


def _number(columns: Sequence[Tensor] | Tensor, reach: int) -> tuple[Tensor, list[int]]:
    """Number the cells of a grid around columns batch, x, y and z [N], in that order.

    Returns the number of each row, and how many cells the grid has on each axis: all that lie
    within ``reach`` cells of a row along x, y and z.
    """
    if not len(columns[0]):
        return columns[0].long(), [0, 1, 1, 1]
    low, extent = _extent(columns, reach)
    if math.prod(extent) >= KEY_LIMIT:
        columns = [_squeeze(column.long(), reach) for column in columns]
        low, extent = _extent(columns, reach)
    if math.prod(extent) >= KEY_LIMIT:
        raise ValueError(f"the coordinates span {math.prod(extent):.3g} cells, more than "
                         f"{KEY_LIMIT:.3g} that can be numbered: use a larger voxel size or a "
                         "smaller batch")
    keys = columns[0].long() - low[0]
    for column, first, size in zip(columns[1:], low[1:], extent[1:], strict=True):
        keys.mul_(size).add_(column).sub_(first)
    return keys, extent


def _extent(columns: Sequence[Tensor] | Tensor, reach: int) -> tuple[list[int], list[int]]:
    """The lowest batch, x, y, z of integer columns less the margin, and the cells along."""
    ends = torch.stack([torch.stack(column.aminmax()) for column in columns]).tolist()
    first = [low - (reach if axis else 0) for axis, (low, _) in enumerate(ends)]
    last = [high + (reach if axis else 0) for axis, (_, high) in enumerate(ends)]
    return first, [b - a + 1 for a, b in zip(first, last, strict=True)]


def _squeeze(values: Tensor, reach: int) -> Tensor:
    """Shorten the gaps along one axis that no kernel can bridge; all nearer distances stay."""
    unique, place = values.unique(return_inverse=True)
    gaps = unique.diff(prepend=unique[:1]).clamp(max=reach + 1)
    return gaps.cumsum(0)[place]
