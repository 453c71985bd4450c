"""What torch's functions mean on a SparseTensor; any other one is refused by name."""

import operator
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from i2p_lib.sparse.kernel_map import grid_padding
from i2p_lib.sparse.pool import SparseAvgPool3d, SparseMaxPool3d
from i2p_lib.sparse.tensor import EXTENT, MEANINGS, SparseTensor, partner

FEATURE_WISE = (
    F.relu, F.relu6, F.hardtanh, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.leaky_relu, F.elu,
    F.selu, F.mish, F.softplus, F.dropout, F.prelu, torch.relu, torch.relu_, torch.sigmoid,
    torch.tanh, torch.clamp, torch.clone, torch.pow, torch.rsqrt, Tensor.clone, Tensor.contiguous,
    Tensor.sigmoid, Tensor.tanh, Tensor.clamp, Tensor.clamp_, Tensor.pow,
)  # fmt: skip
"""Functions of each value, or with a parameter for each channel."""
OF_THE_LAST_AXIS = (F.linear, F.layer_norm, F.rms_norm)
"""Functions of each row: networks permute the channels to the end before they call them."""


def means(*functions: Callable) -> Callable:
    """Register what the functions do on a SparseTensor."""

    def register(meaning: Callable) -> Callable:
        MEANINGS.update(dict.fromkeys(functions, meaning))
        return meaning

    return register


def _of_features(function: Callable) -> Callable:
    def meaning(x: SparseTensor, *args, **kwargs) -> SparseTensor:
        if function in OF_THE_LAST_AXIS and not x.channels_last:
            raise ValueError(f"{function.__name__} works on the last axis, and that is the width "
                             "here; sites have none")
        return x.replace(function(x.feats, *args, **kwargs))

    return meaning


def _commuting(operation: Callable) -> Callable:
    return lambda a, b: operation(a, b) if isinstance(a, SparseTensor) else operation(b, a)


def _joined(function: Callable) -> Callable:
    def meaning(tensors: Sequence[SparseTensor], dim: int = 0) -> SparseTensor:
        first, *rest = tensors
        feats = [first.feats, *(partner(first, tensor) for tensor in rest)]
        return first.replace(function(feats, first.feature_axis(dim)))

    return meaning


def _parted(function: Callable) -> Callable:
    def meaning(x: SparseTensor, chunks: int | Sequence[int], dim: int = 0) -> tuple:
        return tuple(map(x.replace, function(x.feats, chunks, x.feature_axis(dim))))

    return meaning


def _reduced(function: Callable) -> Callable:
    def meaning(x: SparseTensor, dim: int | Sequence[int], keepdim: bool = False) -> SparseTensor:
        axes = [x.feature_axis(axis) for axis in _several(dim)]
        if x.feats.ndim - len(axes) < 2 and not keepdim:
            raise ValueError("only groups of channels (dim 1 of 5) can go; the channels of each "
                             f"site must stay as one (keepdim=True); got dim {dim}")
        return x.replace(function(x.feats, axes, keepdim=keepdim))

    return meaning


def _several(dim: int | Sequence[int]) -> Sequence[int]:
    return dim if isinstance(dim, Sequence) else (dim,)


MEANINGS.update({f: _of_features(f) for f in (*FEATURE_WISE, *OF_THE_LAST_AXIS)})
MEANINGS[Tensor.dim] = lambda x: x.ndim
MEANINGS[Tensor.size] = lambda x, dim=None: x.shape if dim is None else x.shape[dim]
MEANINGS[Tensor.new_empty] = lambda x, *args, **kwargs: x.feats.new_empty(*args, **kwargs)
means(torch.div, Tensor.div, Tensor.div_)(operator.truediv)
means(torch.add, Tensor.add, Tensor.add_, Tensor.__add__)(_commuting(operator.add))
means(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__)(_commuting(operator.mul))
means(torch.cat, torch.concat)(_joined(torch.cat))
means(torch.stack)(_joined(torch.stack))
means(torch.chunk, Tensor.chunk)(_parted(torch.chunk))
means(torch.split, Tensor.split)(_parted(torch.split))
means(torch.sum, Tensor.sum)(_reduced(torch.sum))
means(torch.var)(_reduced(torch.var))


@means(torch.mean, Tensor.mean)
def _mean(x: SparseTensor, dim: int | Sequence[int], keepdim: bool = False):
    """Over height and width (global average pooling, a dense tensor), or over channels."""
    if x.ndim != 4 or {axis % 4 for axis in _several(dim)} != set(x.space):
        return _reduced(torch.mean)(x, dim, keepdim)
    pooled = x.global_mean()
    if not keepdim:
        return pooled
    return pooled[:, None, None] if x.channels_last else pooled[:, :, None, None]


@means(Tensor.__getitem__)
def _slice(x: SparseTensor, index) -> SparseTensor:
    """Some of the channels; samples, height and width stay whole."""
    samples, channels, *space = index if isinstance(index, tuple) else (index, slice(None))
    whole = all(part in (slice(None), ...) for part in (samples, *space))
    if x.channels_last or not whole or not isinstance(channels, slice):
        raise ValueError("only channels can be cut out of a sparse tensor, where they come first; "
                         f"got [{index}] of {x.shape}")
    return x.replace(x.feats[:, channels])


@means(torch.reshape, Tensor.view, Tensor.reshape)
def _view(x: SparseTensor, *shape) -> SparseTensor:
    """Another grouping of the channels; samples, height and width must stay where they are."""
    shape = tuple(shape[0]) if len(shape) == 1 else shape
    whole = shape[0] in (-1, x.batch_size) and shape[-2:] == (EXTENT, EXTENT)
    if x.channels_last or not whole:
        raise ValueError("only the channels of a sparse tensor can be regrouped, where they come "
                         f"first; got {shape} of {x.shape}")
    return x.replace(x.feats.reshape(len(x.feats), *shape[1:-2]))


@means(torch.transpose, Tensor.transpose)
def _transpose(x: SparseTensor, first: int, second: int) -> SparseTensor:
    """Groups of channels change places."""
    return x.replace(x.feats.transpose(x.feature_axis(first), x.feature_axis(second)))


@means(torch.permute, Tensor.permute)
def _permute(x: SparseTensor, *dims) -> SparseTensor:
    """Channels last and back: the rows of features are the same either way."""
    order = tuple(dims[0]) if len(dims) == 1 else dims
    if x.ndim != 4 or order != ((0, 3, 1, 2) if x.channels_last else (0, 2, 3, 1)):
        raise ValueError(f"only channels last and back mean something on sites, got {order}")
    return SparseTensor(x.feats, x.sites, channels_last=not x.channels_last)


@means(F.adaptive_avg_pool2d)
def _global_pool(x: SparseTensor, output_size) -> Tensor:
    return x.global_mean()[:, :, None, None].expand(-1, -1, *_pair(output_size))


@means(F.group_norm)
def _group_norm(x: SparseTensor, num_groups: int, weight=None, bias=None, eps: float = 1e-5):
    """Over the sites of a sample and the channels of a group."""
    groups = x.feats.unflatten(1, (num_groups, -1))

    def mean(values: Tensor) -> Tensor:
        pooled = x.replace(values.mean(2)).global_mean().to(x.dtype)
        return pooled[x.sites.batch][:, :, None]

    centred = groups - mean(groups)
    feats = (centred * torch.rsqrt(mean(centred.square()) + eps)).flatten(1)
    feats = feats if weight is None else feats * weight
    return x.replace(feats if bias is None else feats + bias)


@means(F.pad)
def _pad(x: SparseTensor, pad: Sequence[int], mode: str = "constant", value=None) -> SparseTensor:
    """Nothing: sites have no border, and the windows behind find their place (grid_padding)."""
    if mode != "constant" or len(pad) != 4 or min(pad) < 0 or value not in (None, 0, -torch.inf):
        raise ValueError(f"only zeros around an image have no meaning on sites and can be left "
                         f"out; got padding {tuple(pad)}, mode {mode!r}, value {value}")
    return x


@means(F.interpolate)
def _enlarge(x: SparseTensor, size=None, scale_factor=None, mode="nearest", **_) -> SparseTensor:
    """Each site of the finer level gets the features of the cell that it lies in."""
    factor = int(scale_factor or 1) if isinstance(scale_factor, float | int) else 1
    if mode != "nearest" or size is not None or factor != scale_factor or x.stride % factor:
        raise ValueError("cells can be enlarged by a whole number, to the nearest and no finer "
                         f"than the input; got mode {mode!r}, size {size}, factor {scale_factor} "
                         f"at stride {x.stride}")
    fine = x.sites.level(x.stride // factor)
    inside = fine.kernel_map((factor,) * 3, factor)
    cells = torch.empty_like(fine.batch)
    cells[inside.rows_in] = inside.rows_out
    return SparseTensor(x.feats.index_select(0, cells), fine)


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


def window(kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None,
           padding: int | tuple[int, int]) -> tuple[int, int, int]:  # fmt: skip
    """Kernel, stride and padding of a square 2D pooling layer as those of its cubic window.

    Raises ValueError for one that is not square.
    """
    sides = [_pair(side) for side in (kernel_size, stride or kernel_size, padding)]
    if any(first != second for first, second in sides):
        raise ValueError(f"uneven pooling window {kernel_size}, stride {stride}")
    kernel, stride, padding = (side for side, _ in sides)
    return kernel, stride, grid_padding(kernel, stride, padding)
