"""Sparse convolution on the CPU: products of gathered rows, from register tiles.

Output rows are taken in windows that stay in the second-level cache, and a window meets one tap
after the other.  Every sum is made by one thread in one order, however many threads there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

from i2p_lib.sparse import gathered
from i2p_lib.sparse.kernel_map import KernelMap
from i2p_lib.sparse.tiles import VECTOR_BYTES, VECTORS, multiply_rows, outer_rows, weighted_rows

WINDOW = 1024  # output rows
DEPTH = 128  # input channels whose weights stay in the first-level cache
PAIRS = 128  # pairs whose rows stay in a cache for a gradient of weights
FEW = 64  # pairs per tap below which the order of large weights is not changed for them
LARGE = 2**15  # weights of a tap


def multiply(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] @ weight[k], group by group.

    ``x`` [N, G * c_in] and ``weight`` [K, G, c_in, c_out] in float32 or float64; the result is
    [M, G * c_out].
    """
    taps, groups, depth, width = weight.shape
    if len(kmap.rows_in) < FEW * taps and depth * width > LARGE:
        return gathered.multiply(x, weight, kmap)
    out = x.new_zeros(kmap.n_out, groups * width)
    lists = _windows(kmap)
    for group in range(groups):
        for column, lanes, vectors in _panels(width, x.element_size()):
            panel = _array(weight[:, group, :, column : column + lanes * vectors])
            run = _kernels(x.element_size(), lanes, vectors)[0]
            _share((len(lists[0]) - 1) // taps, run, out.numpy(), _array(x), panel, *lists,
                   group * width + column, group * depth)  # fmt: skip
    return out


def weight_gradient(x: Tensor, grad: Tensor, kmap: KernelMap, groups: int) -> Tensor:
    """grad_weight[k] = sum over pairs (i, o) of tap k: x[i].T @ grad[o], group by group.

    ``x`` [N, G * c_in], ``grad`` [M, G * c_out]; the result is [K, G, c_in, c_out].
    """
    taps, width = len(kmap.sizes), grad.shape[1] // groups
    out = x.new_zeros(taps, groups, x.shape[1] // groups, width)
    for group in range(groups):
        for column, lanes, vectors in _panels(width, x.element_size()):
            run = _kernels(x.element_size(), lanes, vectors)[1]
            _share(taps, run, out.numpy(), _array(x), _array(grad), *_windows(kmap), group, column)
    return out


def weighted_sum(x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] * weight[k]; [N, C] to [M, C]."""
    out = x.new_empty(kmap.n_out, x.shape[1])
    for column, lanes, vectors in _panels(x.shape[1], x.element_size(), 2 * VECTORS):
        run = _weighted_kernels(x.element_size(), lanes, vectors)[0]
        _share(kmap.n_out, run, out.numpy(), _array(x), _array(weight), *_by_output(kmap), column)
    return out


def weighted_gradient(x: Tensor, grad: Tensor, kmap: KernelMap) -> Tensor:
    """grad_weight[k] = sum over pairs (i, o) of tap k: x[i] * grad[o]; [K, C]."""
    out = x.new_zeros(len(kmap.sizes), x.shape[1])
    for column, lanes, vectors in _panels(x.shape[1], x.element_size(), 2 * VECTORS):
        run = _weighted_kernels(x.element_size(), lanes, vectors)[1]
        _share(len(out), run, out.numpy(), _array(x), _array(grad), *_windows(kmap), column)
    return out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _panels(width: int, real: int, vectors: int = VECTORS) -> Iterator[tuple[int, int, int]]:
    """(first column, lanes, vectors) of blocks of columns, the widest first."""
    column, lanes = 0, VECTOR_BYTES // real
    while column < width:
        while lanes * vectors > width - column:
            if vectors > 1:
                vectors -= 1
            else:
                lanes //= 2
        yield column, lanes, vectors
        column += lanes * vectors


def _windows(kmap: KernelMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the pairs of each window and tap start; the output and the input row of each pair."""
    if "windows" not in kmap.lists:
        kmap.lists["windows"] = _sort_by_window(
            kmap.rows_in.numpy(), kmap.rows_out.numpy(), np.array(kmap.sizes), kmap.n_out
        )
    return kmap.lists["windows"]


def _by_output(kmap: KernelMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the pairs of each output row start; the input row and the tap of each pair."""
    if "by output" not in kmap.lists:
        kmap.lists["by output"] = _sort_by_output(
            kmap.rows_in.numpy(), kmap.rows_out.numpy(), np.array(kmap.sizes), kmap.n_out
        )
    return kmap.lists["by output"]


@njit(cache=True, nogil=True)
def _sort_by_window(rows_in, rows_out, sizes, n_out):
    taps = len(sizes)
    start = np.zeros(-(-n_out // WINDOW) * taps + 1, np.int64)
    p = 0
    for tap in range(taps):
        for o in rows_out[p : p + sizes[tap]]:
            start[o // WINDOW * taps + tap + 1] += 1
        p += sizes[tap]
    start = np.cumsum(start)
    free = start.copy()
    to, origin = np.empty(len(rows_in), np.int32), np.empty(len(rows_in), np.int32)
    p = 0
    for tap in range(taps):
        for _ in range(sizes[tap]):
            place = rows_out[p] // WINDOW * taps + tap
            to[free[place]], origin[free[place]] = rows_out[p], rows_in[p]
            free[place] += 1
            p += 1
    return start, to, origin


@njit(cache=True, nogil=True)
def _sort_by_output(rows_in, rows_out, sizes, n_out):
    start = np.zeros(n_out + 1, np.int64)
    for o in rows_out:
        start[o + 1] += 1
    start = np.cumsum(start)
    free = start.copy()
    origin, taps = np.empty(len(rows_in), np.int32), np.empty(len(rows_in), np.int32)
    p = 0
    for tap in range(len(sizes)):
        for _ in range(sizes[tap]):
            place = free[rows_out[p]]
            origin[place], taps[place] = rows_in[p], tap
            free[rows_out[p]] += 1
            p += 1
    return start, origin, taps


@cache
def _kernels(real: int, lanes: int, vectors: int) -> tuple[Callable, Callable]:
    """The loops of full kernels for panels of columns; compiled on first use, then kept on disk."""

    @njit(cache=True, nogil=True)
    def multiply(first, last, out, x, weight, start, to, origin, out_column, x_column):
        taps, depth, width = weight.shape
        for window in range(first, last):
            for tap in range(taps):
                p = start[window * taps + tap]
                count = start[window * taps + tap + 1] - p
                for c in range(0, depth, DEPTH):
                    multiply_rows(
                        out.ctypes.data + out_column * real,
                        x.ctypes.data + (x_column + c) * real,
                        weight.ctypes.data + (tap * depth + c) * width * real,
                        to.ctypes.data + 4 * p, origin.ctypes.data + 4 * p,
                        count, min(DEPTH, depth - c), out.strides[0], x.strides[0],
                        real, lanes, vectors,
                    )  # fmt: skip

    @njit(cache=True, nogil=True)
    def outer(first, last, out, x, grad, start, to, origin, group, column):
        taps, _, depth, width = out.shape
        for window in range((len(start) - 1) // taps):
            for tap in range(first, last):
                end = start[window * taps + tap + 1]
                for p in range(start[window * taps + tap], end, PAIRS):
                    outer_rows(
                        out[tap, group].ctypes.data + column * real,
                        x.ctypes.data + group * depth * real,
                        grad.ctypes.data + (group * width + column) * real,
                        origin.ctypes.data + 4 * p, to.ctypes.data + 4 * p,
                        min(PAIRS, end - p), depth, width * real, x.strides[0], grad.strides[0],
                        real, lanes, vectors,
                    )  # fmt: skip

    return multiply, outer


@cache
def _weighted_kernels(real: int, lanes: int, vectors: int) -> tuple[Callable, Callable]:
    """The loops of depthwise kernels."""
    copies = max(1, 8 // vectors)

    @njit(cache=True, nogil=True)
    def accumulate(first, last, out, x, weight, start, origin, taps, column):
        for o in range(first, last):
            weighted_rows(
                out.ctypes.data + o * out.strides[0] + column * real,
                x.ctypes.data + column * real, weight.ctypes.data + column * real,
                origin.ctypes.data + 4 * start[o], taps.ctypes.data + 4 * start[o],
                start[o + 1] - start[o], x.strides[0], weight.strides[0],
                real, lanes, vectors, copies, 1,
            )  # fmt: skip

    @njit(cache=True, nogil=True)
    def gradient(first, last, out, x, grad, start, to, origin, column):
        taps = len(out)
        for window in range((len(start) - 1) // taps):
            for tap in range(first, last):
                p = start[window * taps + tap]
                weighted_rows(
                    out.ctypes.data + tap * out.strides[0] + column * real,
                    x.ctypes.data + column * real, grad.ctypes.data + column * real,
                    origin.ctypes.data + 4 * p, to.ctypes.data + 4 * p,
                    start[window * taps + tap + 1] - p, x.strides[0], grad.strides[0],
                    real, lanes, vectors, copies, 0,
                )  # fmt: skip

    return accumulate, gradient


def _share(count: int, run: Callable, *arguments) -> None:
    """Call ``run(first, last, ...)`` over ``range(count)``, one part for each thread of torch."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        run(0, count, *arguments)
        return
    cuts = np.linspace(0, count, threads + 1).astype(int).tolist()
    parts = [_pool().submit(run, a, b, *arguments) for a, b in zip(cuts, cuts[1:], strict=False)]
    for part in parts:
        part.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "sparse")
