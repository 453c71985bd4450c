"""Which cells are occupied: one bit per cell and running counts, compiled, for the CPU."""

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

ONE = np.uint64(1)


def places(keys: Tensor, cells: int) -> Tensor:
    """The place of each key of 0..cells-1 among the sorted unique ones."""
    return torch.from_numpy(_places(keys.numpy(), cells))


def find_pairs(keys_in: Tensor, cells: int, keys_out: Tensor,
               deltas: Tensor) -> tuple[Tensor, Tensor, list[int]]:  # fmt: skip
    """The pairs with ``keys_in[i] == keys_out[o] + deltas[k]``, ordered by k, then by o.

    All sums must lie in 0..cells-1, and no key twice in ``keys_in``.
    Returns the rows i, the rows o, and how many pairs each k has.
    """
    arrays = (tensor.numpy() for tensor in (keys_in, keys_out, deltas))
    rows_in, rows_out, sizes = map(torch.from_numpy, _pairs(*arrays, cells))
    rising = bool((keys_in[1:] > keys_in[:-1]).all())
    return rows_in if rising else keys_in.argsort()[rows_in], rows_out, sizes.tolist()


@intrinsic
def _ones(context, word):
    """How many bits of a word are set, by the processor's own instruction."""
    return types.int64(types.uint64), lambda _, builder, kind, given: builder.ctpop(given[0])


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
def _place(key, words, before):
    """How many cells before this one are occupied."""
    bit = np.uint64(key & 63)
    return before[key >> 6] + _ones(words[key >> 6] & ((ONE << bit) - ONE))


@njit(cache=True, nogil=True)
def _places(keys, cells):
    words, before = _mark(keys, cells)
    found = np.empty(len(keys), np.int64)
    for p in range(len(keys)):
        found[p] = _place(keys[p], words, before)
    return found


@njit(cache=True, nogil=True)
def _pairs(keys_in, keys_out, deltas, cells):
    words, before = _mark(keys_in, cells)
    sizes = np.empty(len(deltas), np.int64)
    for k in range(len(deltas)):
        hits = np.uint64(0)
        for o in range(len(keys_out)):
            key = keys_out[o] + deltas[k]
            hits += (words[key >> 6] >> np.uint64(key & 63)) & ONE
        sizes[k] = hits
    rows_in = np.empty(sizes.sum() + 1, np.int64)
    rows_out = np.empty(len(rows_in), np.int64)
    p = 0
    for k in range(len(deltas)):
        for o in range(len(keys_out)):  # a miss is written too, and the next hit over it
            key = keys_out[o] + deltas[k]
            rows_in[p] = _place(key, words, before)
            rows_out[p] = o
            p += np.int64((words[key >> 6] >> np.uint64(key & 63)) & ONE)
    return rows_in[:-1], rows_out[:-1], sizes
