"""Sparse convolution on the CPU: products of gathered rows, from register tiles.

Output rows are taken in windows that stay in the second-level cache, and a window meets one tap
after the other.  Every sum is made by one thread in one order, however many threads there are.
"""

from __future__ import annotations

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
from i2p_lib.sparse.tiles import VECTOR_BYTES, VECTORS, multiply_rows, outer_rows, weighted_rows

WINDOW = 1024  # output rows
DEPTH = 128  # input channels whose weights stay in the first-level cache
PAIRS = 128  # pairs whose rows stay in a cache for a gradient of weights
POOL = ThreadPoolExecutor(os.cpu_count(), "sparse")


def multiply(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """As ``gathered.multiply``, in float32 or float64."""
    if weight.ndim == 2:
        out = x.new_zeros(kmap.n_out, x.shape[1])
        _in_panels(_weighted_loop, *out.shape, out, x, _array(weight),
                   *_sorted_pairs(kmap, True))  # fmt: skip
        return out
    taps, groups, _, width = weight.shape
    turned = not weight.is_contiguous() and weight.mT.is_contiguous()
    stored = _array(weight.mT if turned else weight)
    out, lists = x.new_zeros(kmap.n_out, groups * width), _sorted_pairs(kmap, False)
    for group in range(groups):
        _in_panels(_multiply_loop, (len(lists[0]) - 1) // taps, width, out, x, stored, *lists,
                   group, turned)  # fmt: skip
    return out


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """As ``gathered.weight_gradient``, in float32 or float64."""
    lists, out = (_array(grad), *_sorted_pairs(kmap, False)), x.new_zeros(weight.shape)
    if weight.ndim == 2:
        _in_panels(_weighted_loop, *weight.shape, out, x, *lists)
        return out
    for group in range(weight.shape[1]):
        _in_panels(_outer_loop, len(out), weight.shape[3], out, x, *lists, group)
    return out


def _in_panels(loop: Callable, count: int, width: int, out: Tensor, x: Tensor,
               *arguments) -> None:  # fmt: skip
    """Run a loop over ``range(count)`` for each block of columns, one part for each thread."""
    real, parts = x.element_size(), min(torch.get_num_threads(), count)
    cuts = np.linspace(0, count, parts + 1).astype(int).tolist()
    most = 2 * VECTORS if loop is _weighted_loop else VECTORS
    for left, right, lanes, vectors in _panels(width, real, most):
        run, given = loop(real, lanes, vectors), (out.numpy(), _array(x), *arguments, left, right)
        if parts == 1:
            run(0, count, *given)
        else:
            for part in [POOL.submit(run, a, b, *given) for a, b in pairwise(cuts)]:
                part.result()


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
    """Where the pairs of each window and tap start; the output and the input row of each pair.

    Or, by output, where those of each output row start; the tap and the input row of each.
    """

    def made() -> tuple[np.ndarray, ...]:
        taps, rows_in, rows_out = len(kmap.sizes), kmap.rows_in.numpy(), kmap.rows_out.numpy()
        tap = np.repeat(np.arange(taps), kmap.sizes)
        if by_output:
            return _sorted(rows_out, kmap.n_out, tap, rows_in)
        windows = -(-kmap.n_out // WINDOW)
        return _sorted(rows_out // WINDOW * taps + tap, windows * taps, rows_out, rows_in)

    return once(kmap.lists, ("sorted", by_output), made)


@njit(cache=True, nogil=True)
def _sorted(keys, count, beside, rows_in):
    """Where each of the keys 0..count-1 starts in sorted order; the two columns in that order."""
    start = np.zeros(count + 1, np.int64)
    for key in keys:
        start[key + 1] += 1
    start = np.cumsum(start)
    free = start.copy()
    to, origin = np.empty(len(keys), np.int32), np.empty(len(keys), np.int32)
    for p in range(len(keys)):
        place = free[keys[p]]
        to[place], origin[place] = beside[p], rows_in[p]
        free[keys[p]] += 1
    return start, to, origin


@cache
def _multiply_loop(real: int, lanes: int, vectors: int) -> Callable:
    """The loop of full kernels over windows; compiled on first use, then kept on disk."""
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
                        for n in range(columns):
                            row = weight[tap, group, column + n, c:]
                            for i in range(size):
                                panel[i, n] = row[i]
                    else:
                        for i in range(size):
                            row = weight[tap, group, c + i, column:]
                            for n in range(columns):
                                panel[i, n] = row[n]
                    multiply_rows(
                        out.ctypes.data + (group * width + column) * real,
                        x.ctypes.data + (group * depth + c) * real, panel.ctypes.data,
                        to.ctypes.data + 4 * p, origin.ctypes.data + 4 * p,
                        start[place + 1] - p, size, out.strides[0], x.strides[0],
                        real, lanes, vectors,
                    )  # fmt: skip

    return multiply


@cache
def _outer_loop(real: int, lanes: int, vectors: int) -> Callable:
    """The loop of full kernels' gradients over taps."""
    columns = lanes * vectors

    @njit(cache=True, nogil=True)
    def outer(first, last, out, x, grad, start, to, origin, group, left, right):
        taps, _, depth, width = out.shape
        for window in range((len(start) - 1) // taps):
            for tap in range(first, last):
                end = start[window * taps + tap + 1]
                for p in range(start[window * taps + tap], end, PAIRS):
                    for column in range(left, right, columns):
                        outer_rows(
                            out[tap, group].ctypes.data + column * real,
                            x.ctypes.data + group * depth * real,
                            grad.ctypes.data + (group * width + column) * real,
                            origin.ctypes.data + 4 * p, to.ctypes.data + 4 * p,
                            min(PAIRS, end - p), depth, width * real, x.strides[0],
                            grad.strides[0], real, lanes, vectors,
                        )  # fmt: skip

    return outer


@cache
def _weighted_loop(real: int, lanes: int, vectors: int) -> Callable:
    """The loop of depthwise kernels over output rows, and that of their gradients over taps."""
    columns, copies = lanes * vectors, max(1, 8 // vectors)

    @njit(cache=True, nogil=True)
    def weighted(first, last, out, a, b, start, rows_b, rows_a, left, right):
        for window in range(0, len(start) - 1, len(out)):
            for row in range(first, last):
                p = start[window + row]
                for column in range(left, right, columns):
                    weighted_rows(
                        out.ctypes.data + row * out.strides[0] + column * real,
                        a.ctypes.data + column * real, b.ctypes.data + column * real,
                        rows_a.ctypes.data + 4 * p, rows_b.ctypes.data + 4 * p,
                        start[window + row + 1] - p, a.strides[0], b.strides[0],
                        real, lanes, vectors, copies,
                    )  # fmt: skip

    return weighted
