"""Which cells are occupied: one bit per cell and running counts, compiled, for the CPU."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

ONE = np.uint64(1)


def unique_rows(coords: Tensor, low: list[int],
                extent: list[int]) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The sorted unique rows of int64 [P, 4] in a grid, the place of each row, and the counts."""
    found = _unique(coords.contiguous().numpy(), tuple(low), tuple(extent))
    return tuple(torch.from_numpy(array) for array in found)


def find_pairs(keys_in: Tensor, cells: int, keys_out: Tensor, deltas: Tensor,
               mirror: bool) -> tuple[Tensor, Tensor, list[int]]:  # fmt: skip
    """The pairs with ``keys_in[i] == keys_out[o] + deltas[k]``, ordered by k, then by o.

    All sums must lie in 0..cells-1, and no key twice in ``keys_in``.
    With ``mirror`` every row with itself follows, and then the pairs the other way round, from the
    last k to the first.
    Returns the rows i, the rows o, and how many pairs each k has.
    """
    rising = bool((keys_in[1:] > keys_in[:-1]).all())
    order = keys_in[:0] if rising else keys_in.argsort()
    arrays = (tensor.numpy() for tensor in (keys_in, order, keys_out, deltas))
    rows_in, rows_out, sizes = _pairs(*arrays, cells, mirror)
    sizes = sizes.tolist()
    if mirror:
        sizes += [len(keys_in), *sizes[::-1]]
    return torch.from_numpy(rows_in), torch.from_numpy(rows_out), sizes


@njit(cache=True, nogil=True)
def _ones(word):
    """How many bits of a word are set; compilers turn this into one instruction."""
    word -= (word >> ONE) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _mark(keys, cells):
    """A bit per cell in words of 64, and the set bits before each word."""
    words = np.zeros((cells >> 6) + 1, np.uint64)
    for key in keys:
        words[key >> 6] |= ONE << np.uint64(key & 63)
    before = np.empty(len(words) + 1, np.int32)
    before[0] = 0
    for w in range(len(words)):
        before[w + 1] = before[w] + _ones(words[w])
    return words, before


@njit(cache=True, nogil=True)
def _unique(coords, low, extent):
    _, wide, deep, tall = extent
    keys = np.empty(len(coords), np.int64)
    for p in range(len(coords)):
        key = (coords[p, 0] - low[0]) * wide + coords[p, 1] - low[1]
        keys[p] = (key * deep + coords[p, 2] - low[2]) * tall + coords[p, 3] - low[3]
    words, before = _mark(keys, extent[0] * wide * deep * tall)
    found = np.empty((before[-1], 4), np.int64)
    counts = np.zeros(before[-1], np.int64)
    for p in range(len(keys)):
        w, bit = keys[p] >> 6, np.uint64(keys[p] & 63)
        keys[p] = row = before[w] + _ones(words[w] & ((ONE << bit) - ONE))
        counts[row] += 1
        for axis in range(4):
            found[row, axis] = coords[p, axis]
    return found, keys, counts


@njit(cache=True, nogil=True)
def _pairs(keys_in, order, keys_out, deltas, cells, mirror):
    words, before = _mark(keys_in, cells)
    n = len(keys_out)
    ends = np.empty(len(deltas), np.int64)
    total = 0
    for k in range(len(deltas)):
        hits = np.uint64(0)
        for o in range(n):
            key = keys_out[o] + deltas[k]
            hits += (words[key >> 6] >> np.uint64(key & 63)) & ONE
        total += np.int64(hits)
        ends[k] = total
    rows_in = np.empty((2 * total + n if mirror else total) + 1, np.int64)
    rows_out = np.empty(len(rows_in), np.int64)
    p = 0
    for k in range(len(deltas)):
        for o in range(n):  # a miss is written too, and the next hit over it
            key = keys_out[o] + deltas[k]
            w, bit = key >> 6, np.uint64(key & 63)
            rows_in[p] = before[w] + _ones(words[w] & ((ONE << bit) - ONE))
            rows_out[p] = o
            p += np.int64((words[w] >> bit) & ONE)
    if len(order):
        for p in range(total):
            rows_in[p] = order[rows_in[p]]
    if mirror:
        for o in range(n):
            rows_in[total + o] = rows_out[total + o] = o
        start = 0
        for end in ends:
            back, size = 2 * total + n - end, end - start
            rows_in[back : back + size] = rows_out[start:end]
            rows_out[back : back + size] = rows_in[start:end]
            start = end
    ends[1:] -= ends[:-1].copy()
    return rows_in[:-1], rows_out[:-1], ends
