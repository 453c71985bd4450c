"""Sparse convolution on the CPU: products of gathered rows, from register tiles.

Output rows are taken in windows that stay in the second-level cache, and a window meets one tap
after the other.  Every sum is made by one thread in one order, however many threads there are.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from i2p_lib.sparse.kernel_map import KernelMap, once
from i2p_lib.sparse.tiles import (
    VECTOR_BYTES,
    VECTORS,
    copy_rows,
    multiply_rows,
    outer_rows,
    turn_square,
    weighted_rows,
)

WINDOW = 1024  # output rows
DEPTH = 128  # input channels whose weights stay in the first-level cache
PAIRS = 128  # pairs whose rows stay in a cache for a gradient of weights
POOL = ThreadPoolExecutor(os.cpu_count(), "sparse")  # its threads start with their first work


def multiply(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """As ``gathered.multiply``, in float32 or float64."""
    if weight.ndim == 2:
        out = x.new_empty(kmap.n_out, x.shape[1])
        _in_panels(_weighted_kernels, 0, kmap.n_out, x.shape[1], out, x, _array(weight),
                   *_sorted_pairs(kmap, True))  # fmt: skip
        return out
    taps, groups, _, width = weight.shape
    turned = not weight.is_contiguous() and weight.mT.is_contiguous()
    stored = _array(weight.mT if turned else weight)
    out, lists = x.new_zeros(kmap.n_out, groups * width), _sorted_pairs(kmap, False)
    for group in range(groups):
        _in_panels(_kernels, 0, (len(lists[0]) - 1) // taps, width, out, x, stored, *lists, group,
                   turned)  # fmt: skip
    return out


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """As ``gathered.weight_gradient``, in float32 or float64."""
    lists, out = (_array(grad), *_sorted_pairs(kmap, False)), x.new_zeros(weight.shape)
    if weight.ndim == 2:
        _in_panels(_weighted_kernels, 1, len(out), x.shape[1], out, x, *lists)
        return out
    for group in range(weight.shape[1]):
        _in_panels(_kernels, 1, len(out), weight.shape[3], out, x, *lists, group)
    return out


def _in_panels(kernels: Callable, which: int, count: int, width: int, out: Tensor, x: Tensor,
               *arguments) -> None:  # fmt: skip
    """Run a loop over ``range(count)`` for each block of columns, in parts that threads share."""
    real = x.element_size()
    most = VECTORS if kernels is _kernels else 2 * VECTORS
    for left, right, lanes, vectors in _panels(width, real, most):
        run = kernels(real, lanes, vectors)[which]
        _share(count, run, out.numpy(), _array(x), *arguments, left, right)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _panels(width: int, real: int, vectors: int) -> Iterator[tuple[int, int, int, int]]:
    """(first column, last + 1, lanes, vectors) of columns in blocks, the widest blocks first."""
    column, lanes = 0, VECTOR_BYTES // real
    while column < width:
        while lanes * vectors > width - column:
            vectors, lanes = max(1, vectors - 1), lanes if vectors > 1 else lanes // 2
        end = width - (width - column) % (lanes * vectors)
        yield column, end, lanes, vectors
        column = end


def _sorted_pairs(kmap: KernelMap, by_output: bool) -> tuple[np.ndarray, ...]:
    """The pairs as ``_sorted`` sorts them, kept with the map."""
    return once(kmap.lists, ("sorted", by_output), lambda: _sorted(
        kmap.rows_in.numpy(), kmap.rows_out.numpy(), np.array(kmap.sizes), kmap.n_out, by_output))


@njit(cache=True, nogil=True)
def _sorted(rows_in, rows_out, sizes, n_out, by_output):
    """Where the pairs of each window and tap start; the output and the input row of each pair.

    Or, by output, where those of each output row start; the tap and the input row of each.
    """
    taps = len(sizes)
    start = np.zeros((n_out if by_output else -(-n_out // WINDOW) * taps) + 1, np.int64)
    p = 0
    for tap in range(taps):
        for o in rows_out[p : p + sizes[tap]]:
            start[(o if by_output else o // WINDOW * taps + tap) + 1] += 1
        p += sizes[tap]
    start = np.cumsum(start)
    free = start.copy()
    to, origin = np.empty(len(rows_in), np.int32), np.empty(len(rows_in), np.int32)
    p = 0
    for tap in range(taps):
        for _ in range(sizes[tap]):
            o = rows_out[p]
            place = o if by_output else o // WINDOW * taps + tap
            to[free[place]] = tap if by_output else o
            origin[free[place]] = rows_in[p]
            free[place] += 1
            p += 1
    return start, to, origin


@cache
def _kernels(real: int, lanes: int, vectors: int) -> tuple[Callable, Callable]:
    """The loops of full kernels for panels of columns; compiled on first use, then kept on disk."""
    columns = lanes * vectors

    @njit(cache=True, nogil=True)
    def multiply(first, last, out, x, weight, start, to, origin, group, turned, left, right):
        taps, groups, depth, width = weight.shape
        if turned:
            depth, width = width, depth
        panel = np.empty((DEPTH, columns), weight.dtype)
        for place in range(first * taps, last * taps):
            tap, p = place % taps, start[place]
            if p == start[place + 1]:
                continue
            for column in range(left, right, columns):
                for c in range(0, depth, DEPTH):
                    size = min(DEPTH, depth - c)
                    if turned:
                        square = size // lanes * lanes
                        for i in range(0, square, lanes):
                            for n in range(0, columns, lanes):
                                turn_square(panel[i, n:].ctypes.data,
                                            weight[tap, group, column + n, c + i :].ctypes.data,
                                            panel.strides[0], weight.strides[2], real, lanes)
                        for i in range(square, size):
                            for n in range(columns):
                                panel[i, n] = weight[tap, group, column + n, c + i]
                    else:
                        copy_rows(panel.ctypes.data, weight[tap, group, c, column:].ctypes.data,
                                  size, weight.strides[2], real, lanes, vectors)  # fmt: skip
                    multiply_rows(out.ctypes.data + (group * width + column) * real,
                                  x.ctypes.data + (group * depth + c) * real, panel.ctypes.data,
                                  to.ctypes.data + 4 * p, origin.ctypes.data + 4 * p,
                                  start[place + 1] - p, size, out.strides[0], x.strides[0], real,
                                  lanes, vectors)

    @njit(cache=True, nogil=True)
    def outer(first, last, out, x, grad, start, to, origin, group, left, right):
        taps, _, depth, width = out.shape
        fresh = np.ones(taps, np.int64)
        for window in range((len(start) - 1) // taps):
            for tap in range(first, last):
                end = start[window * taps + tap + 1]
                for p in range(start[window * taps + tap], end, PAIRS):
                    for column in range(left, right, columns):
                        outer_rows(out[tap, group].ctypes.data + column * real,
                                   x.ctypes.data + group * depth * real,
                                   grad.ctypes.data + (group * width + column) * real,
                                   origin.ctypes.data + 4 * p, to.ctypes.data + 4 * p,
                                   min(PAIRS, end - p), depth, width * real, x.strides[0],
                                   grad.strides[0], fresh[tap], real, lanes, vectors)
                    fresh[tap] = 0
        for tap in range(first, last):
            if fresh[tap]:
                out[tap, group, :, left:right] = 0

    return multiply, outer


@cache
def _weighted_kernels(real: int, lanes: int, vectors: int) -> tuple[Callable, Callable]:
    """The loops of depthwise kernels."""
    columns, copies = lanes * vectors, max(1, 8 // vectors)

    @njit(cache=True, nogil=True)
    def accumulate(first, last, out, x, weight, start, taps, origin, left, right):
        for o in range(first, last):
            for column in range(left, right, columns):
                weighted_rows(out.ctypes.data + o * out.strides[0] + column * real,
                              x.ctypes.data + column * real, weight.ctypes.data + column * real,
                              origin.ctypes.data + 4 * start[o], taps.ctypes.data + 4 * start[o],
                              start[o + 1] - start[o], x.strides[0], weight.strides[0], real, lanes,
                              vectors, copies, 1)

    @njit(cache=True, nogil=True)
    def gradient(first, last, out, x, grad, start, to, origin, left, right):
        taps = len(out)
        for window in range((len(start) - 1) // taps):
            for tap in range(first, last):
                p = start[window * taps + tap]
                for column in range(left, right, columns):
                    weighted_rows(out.ctypes.data + tap * out.strides[0] + column * real,
                                  x.ctypes.data + column * real, grad.ctypes.data + column * real,
                                  origin.ctypes.data + 4 * p, to.ctypes.data + 4 * p,
                                  start[window * taps + tap + 1] - p, x.strides[0], grad.strides[0],
                                  real, lanes, vectors, copies, 0)

    return accumulate, gradient


def _share(count: int, run: Callable, *arguments) -> None:
    """Call ``run(first, last, ...)`` over ``range(count)``, one part for each thread of torch."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        run(0, count, *arguments)
        return
    cuts = np.linspace(0, count, threads + 1).astype(int).tolist()
    for part in [POOL.submit(run, a, b, *arguments) for a, b in pairwise(cuts)]:
        part.result()
