"""Compiled loops over rows of features, for the CPU: sums by place, and batch normalisation."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def add_rows(out, places, values):
    """out[places[p]] += values[p] in order."""
    for p in range(len(places)):
        o = places[p]
        for c in range(values.shape[1]):
            out[o, c] += values[p, c]


@njit(cache=True, nogil=True)
def _mean(x, centre, squared):
    """The mean over the rows of x - centre, or of its square, summed in blocks of 256 rows."""
    rows, channels = x.shape
    total, block = np.zeros(channels, np.float64), np.empty(channels, np.float32)
    for start in range(0, rows, 256):
        block[:] = 0
        for r in range(start, min(rows, start + 256)):
            for c in range(channels):
                delta = x[r, c] - centre[c]
                block[c] += delta * delta if squared else delta
        total += block
    return total / rows


@njit(cache=True, nogil=True)
def moments(x):
    """Mean and variance of each channel."""
    mean = _mean(x, np.zeros(x.shape[1], np.float32), False).astype(np.float32)
    return mean, _mean(x, mean, True).astype(np.float32)


@njit(cache=True, nogil=True)
def normalise(x, weight, bias, mean, scale, low, high, out):
    """out = clamp((x - mean) * scale * weight + bias, low, high)."""
    low, high = np.float32(low), np.float32(high)
    slope = weight * scale
    shift = bias - mean * slope
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            z = x[r, c] * slope[c] + shift[c]
            z = low if z < low else z
            out[r, c] = high if z > high else z


@njit(cache=True, nogil=True)
def backward(x, weight, bias, mean, scale, grad, low, high, batch, out, out_weight, out_bias):
    """The gradients of `normalise` for x, weight and bias; of mean and scale too if of a batch."""
    low, high, zero = np.float32(low), np.float32(high), np.float32(0)
    rows, channels = x.shape
    slope = weight * scale
    shift = bias - mean * slope
    total, product = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
    block, block_product = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for start in range(0, rows, 256):
        block[:] = 0
        block_product[:] = 0
        for r in range(start, min(rows, start + 256)):
            for c in range(channels):
                z = x[r, c] * slope[c] + shift[c]
                g = grad[r, c] if (z > low) & (z < high) else zero
                block[c] += g
                block_product[c] += g * (x[r, c] - mean[c])
        total += block
        product += block_product
    for c in range(channels):
        out_weight[c] = product[c] * scale[c]
        out_bias[c] = total[c]
    inner = (product * scale * scale / rows).astype(np.float32)
    level = (total / rows).astype(np.float32)
    if not batch:
        inner[:] = 0
        level[:] = 0
    for r in range(rows):
        for c in range(channels):
            z = x[r, c] * slope[c] + shift[c]
            g = grad[r, c] if (z > low) & (z < high) else zero
            out[r, c] = slope[c] * (g - level[c] - (x[r, c] - mean[c]) * inner[c])


@njit(cache=True, nogil=True)
def backward_frozen(y, slope, grad, low, high, out):
    """The gradient of `normalise` for x alone, from its output y."""
    low, high, zero = np.float32(low), np.float32(high), np.float32(0)
    for r in range(y.shape[0]):
        for c in range(y.shape[1]):
            inside = (y[r, c] > low) & (y[r, c] < high)
            out[r, c] = slope[c] * grad[r, c] if inside else zero
