"""What torch's functions mean on a SparseTensor; any other one is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from i2p_lib.sparse.kernel_map import grid_padding
from i2p_lib.sparse.pool import SparseAvgPool3d, SparseMaxPool3d
from i2p_lib.sparse.tensor import EXTENT, MEANINGS, SparseTensor, partner

FEATURE_WISE = (
    F.relu, F.relu6, F.hardtanh, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.leaky_relu, F.elu,
    F.selu, F.mish, F.softplus, F.dropout, F.prelu, F.linear, F.layer_norm, torch.relu,
    torch.relu_, torch.sigmoid, torch.tanh, torch.clamp, torch.clone, Tensor.clone,
    Tensor.contiguous, Tensor.sigmoid,
)  # fmt: skip
"""Functions of each row alone. Linear maps and LayerNorm belong to them: the networks that call
them have permuted the channels to the end, where the features have them anyway."""


def means(*functions: Callable) -> Callable:
    """Register what the functions do on a SparseTensor."""

    def register(meaning: Callable) -> Callable:
        MEANINGS.update(dict.fromkeys(functions, meaning))
        return meaning

    return register


def _feature_wise(function: Callable) -> Callable:
    return lambda x, *args, **kwargs: x.replace(function(x.feats, *args, **kwargs))


MEANINGS.update({function: _feature_wise(function) for function in FEATURE_WISE})
MEANINGS[Tensor.new_empty] = lambda x, *args, **kwargs: x.feats.new_empty(*args, **kwargs)


@means(torch.add, Tensor.add, Tensor.add_, Tensor.__add__)
def _add(a, b) -> SparseTensor:
    return operator.add(*_sparse_first(a, b))


@means(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__)
def _mul(a, b) -> SparseTensor:
    return operator.mul(*_sparse_first(a, b))


def _sparse_first(a, b) -> tuple:
    return (a, b) if isinstance(a, SparseTensor) else (b, a)


@means(torch.cat, torch.concat)
def _cat(tensors: Sequence[SparseTensor], dim: int = 0) -> SparseTensor:
    _over_channels(dim)
    first, *rest = tensors
    return first.replace(torch.cat([first.feats, *(partner(first, t) for t in rest)], 1))


@means(torch.chunk, Tensor.chunk)
def _chunk(x: SparseTensor, chunks: int, dim: int = 0) -> tuple[SparseTensor, ...]:
    _over_channels(dim)
    return tuple(x.replace(part) for part in x.feats.chunk(chunks, 1))


@means(torch.split, Tensor.split)
def _split(x: SparseTensor, sizes: int | Sequence[int], dim: int = 0) -> tuple[SparseTensor, ...]:
    _over_channels(dim)
    return tuple(x.replace(part) for part in x.feats.split(sizes, 1))


def _over_channels(dim: int) -> None:
    if dim % 4 != 1:
        raise ValueError(f"sparse tensors join and part over channels (dim 1), got dim {dim}")


@means(Tensor.size)
def _size(x: SparseTensor, dim: int | None = None):
    return x.shape if dim is None else x.shape[dim]


@means(torch.reshape, Tensor.view, Tensor.reshape)
def _view(x: SparseTensor, *shape) -> SparseTensor:
    """Another grouping of the channels; samples, height and width must stay where they are."""
    shape = tuple(shape[0]) if len(shape) == 1 else shape
    if shape[0] not in (-1, x.batch_size) or shape[-2:] != (EXTENT, EXTENT):
        raise ValueError(f"only the channels of a sparse tensor can be regrouped, got view{shape}")
    return x.replace(x.feats.reshape(len(x.feats), *shape[1:-2]))


@means(torch.transpose, Tensor.transpose)
def _transpose(x: SparseTensor, first: int, second: int) -> SparseTensor:
    if not all(0 < dim < x.ndim - 2 for dim in (first, second)):
        raise ValueError(f"only channel groups can change places, got dims {first} and {second}")
    return x.replace(x.feats.transpose(first, second))


@means(torch.permute, Tensor.permute)
def _permute(x: SparseTensor, *dims) -> SparseTensor:
    """Channels last and back: the rows of features are the same either way."""
    order = tuple(dims[0]) if len(dims) == 1 else dims
    if order not in ((0, 2, 3, 1), (0, 3, 1, 2)):
        raise ValueError(f"only channels last and back mean something on sites, got {order}")
    return x


@means(F.adaptive_avg_pool2d)
def _global_pool(x: SparseTensor, output_size) -> Tensor:
    height, width = (output_size,) * 2 if isinstance(output_size, int) else output_size
    return x.global_mean()[:, :, None, None].expand(-1, -1, height, width)


@means(F.max_pool2d)
def _max_pool(x: SparseTensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
              return_indices=False) -> SparseTensor:
    if dilation != 1 or return_indices:
        raise ValueError("max pooling over sites has no dilation and returns no indices")
    return SparseMaxPool3d(*window(kernel_size, stride, padding))(x)


@means(F.avg_pool2d)
def _avg_pool(x: SparseTensor, kernel_size, stride=None, padding=0, ceil_mode=False,
              count_include_pad=True, divisor_override=None) -> SparseTensor:
    if divisor_override is not None:
        raise ValueError("the mean over the occupied sites of a window has no other divisor")
    return SparseAvgPool3d(*window(kernel_size, stride, padding))(x)


def window(kernel_size, stride, padding) -> tuple[int, int, int]:
    """Kernel, stride and padding of a 2D pooling layer as those of its cubic window.

    Raises:
        ValueError: a window that is not square.
    """
    sides = [kernel_size, stride or kernel_size, padding]
    if any(isinstance(side, tuple) and side[0] != side[1] for side in sides):
        raise ValueError(f"uneven pooling window {kernel_size}, stride {stride}")
    kernel, stride, padding = (s[0] if isinstance(s, tuple) else s for s in sides)
    return kernel, stride, grid_padding(kernel, stride, padding)
