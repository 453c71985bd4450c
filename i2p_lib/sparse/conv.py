"""Sparse convolutions: submanifold, strided, grouped and transposed, as autograd functions."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.depthwise import depthwise_conv
from i2p_lib.sparse.kernel_map import KernelMap, Triple
from i2p_lib.sparse.tensor import SparseTensor

BLOCK_VALUES = 2**17  # values in a block of gathered rows (512 KiB in float32)
LEAST_ROWS = 1024  # shorter blocks would leave the matrix products inefficient


def triple(value: int | tuple[int, ...]) -> Triple:
    """One int for all three axes, or three of them."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"expected an int or three ints, got {value!r}")
    return values


class _Convolution(torch.autograd.Function):
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] @ weight[k], group by group.

    Gather, multiply, scatter-add, one block of pairs after the other, over existing pairs only.
    Saves the input, the weight and the map; nothing that a block makes outlives it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kmap = kmap
        taps = weight.unbind()
        out = _start(x, taps, kmap.identity, kmap.n_out)
        blocks, inputs, products = _blocks(x, weight, kmap)
        for rows_in, rows_out, pieces in blocks:
            n = len(rows_in)
            torch.index_select(x, 0, rows_in, out=inputs[:n])
            for k, a, b in pieces:
                _multiply(inputs[a:b], taps[k], products[a:b])
            _scatter_add(out, rows_out, products)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        kmap: KernelMap = ctx.kmap
        need_x, need_w, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        taps = weight.transpose(-2, -1).unbind()
        grad_x = _start(grad, taps, kmap.identity, kmap.n_in) if need_x else None
        grad_w = torch.zeros_like(weight) if need_w else None
        if need_w and kmap.identity is not None:
            _accumulate(grad_w[kmap.identity], x, grad)
        blocks, inputs, grads = _blocks(x, weight, kmap)
        for rows_in, rows_out, pieces in blocks:
            n = len(rows_in)
            torch.index_select(grad, 0, rows_out, out=grads[:n])
            if need_w:
                torch.index_select(x, 0, rows_in, out=inputs[:n])
                for k, a, b in pieces:
                    _accumulate(grad_w[k], inputs[a:b], grads[a:b])
            if need_x:
                for k, a, b in pieces:
                    _multiply(grads[a:b], taps[k], inputs[a:b])
                _scatter_add(grad_x, rows_in, inputs)
        return None if grad_x is None else grad_x.to(x.dtype), grad_w, None


def _start(x: Tensor, taps: tuple[Tensor, ...], identity: int | None, n: int) -> Tensor:
    """What the identity tap gives, or zeros; float32 for 16-bit formats, whose sums need it."""
    exact = torch.promote_types(x.dtype, torch.float32)
    width = math.prod(taps[0].shape[:-2]) * taps[0].shape[-1]
    if identity is None:
        return x.new_zeros(n, width, dtype=exact)
    out = x.new_empty(n, width)
    _multiply(x, taps[identity], out)
    return out.to(exact)


def _multiply(x: Tensor, tap: Tensor, out: Tensor) -> None:
    """out = x @ tap; with a tap [G, c_in, c_out] one batched product serves all groups."""
    if tap.ndim == 2:
        torch.mm(x, tap, out=out)
    else:
        _by_group(out, tap).copy_(torch.bmm(_by_group(x, tap), tap))


def _accumulate(grad_tap: Tensor, x: Tensor, grad: Tensor) -> None:
    """grad_tap += x.T @ grad, group by group."""
    if grad_tap.ndim == 2:
        grad_tap.addmm_(x.T, grad)
    else:
        grad_tap.baddbmm_(_by_group(x, grad_tap).transpose(1, 2), _by_group(grad, grad_tap))


def _by_group(rows: Tensor, tap: Tensor) -> Tensor:
    """Rows [n, G * c] as one matrix per group, [G, n, c], without a copy."""
    return rows.unflatten(1, (len(tap), -1)).transpose(0, 1)


def _blocks(x: Tensor, weight: Tensor, kmap: KernelMap):
    """The blocks of the map, and two buffers for the rows of a block that all blocks reuse.

    On the CPU, blocks fit the second-level cache. Elsewhere each tap is a block: no row occurs
    twice in it, so that parallel sums do not depend on an order.
    """
    groups = math.prod(weight.shape[1:-2])
    wide_in, wide_out = groups * weight.shape[-2], groups * weight.shape[-1]
    if x.device.type == "cpu":
        rows = max(LEAST_ROWS, BLOCK_VALUES // max(wide_in, wide_out))
        blocks = kmap.blocks(rows, rows)
    else:
        blocks = kmap.blocks(max(kmap.n_in, kmap.n_out, 1), 0)
    longest = max((len(block[0]) for block in blocks), default=0)
    return blocks, x.new_empty(longest, wide_in), x.new_empty(longest, wide_out)


def _scatter_add(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """out[rows[p]] += values[p] for each p, in order; rows may repeat on the CPU only."""
    if out.device.type == "cpu":
        _compiled_scatter()(out.numpy(), rows.numpy(), values.to(out.dtype).numpy())
    else:
        out.index_add_(0, rows, values[: len(rows)].to(out.dtype))


@cache
def _compiled_scatter():
    """Compiled on first use; half the time of index_add_ on rows of 64 channels."""
    from numba import njit

    @njit(cache=True, nogil=True)
    def scatter_add(out, rows, values):
        channels = values.shape[1]
        for p in range(len(rows)):
            o = rows[p]
            for c in range(channels):
                out[o, c] += values[p, c]

    return scatter_add


class _SparseKernel(nn.Module):
    """What all sparse convolutions share: the kernel's geometry and its parameters.

    The weight is [K, C_in, C_out], [K, G, C_in / G, C_out / G] in G groups, or [K, C] for a
    depthwise layer, with the K taps in row-major (x, y, z) order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Triple,
        stride: int = 1,
        padding: int | Triple | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.kernel_size = triple(kernel_size)
        half = tuple((k - 1) // 2 for k in self.kernel_size)
        self.padding = half if padding is None else triple(padding)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if min(*self.kernel_size, stride, dilation, in_channels, out_channels) < 1:
            raise ValueError("kernel size, stride, dilation and channels must be at least 1")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide the channels; got {groups} groups with "
                f"{in_channels} -> {out_channels} channels"
            )
        taps = math.prod(self.kernel_size)
        self.depthwise = groups > 1 and groups == in_channels == out_channels
        shape = (taps, groups, in_channels // groups, out_channels // groups)
        if self.depthwise:
            shape = (taps, in_channels)
        elif groups == 1:
            shape = (taps, in_channels, out_channels)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """He initialisation for the fan-out, as torchvision's and timm's image models use."""
        fan = math.prod(self.kernel_size) * self.out_channels // self.groups
        with torch.no_grad():
            self.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def _apply_kernel(self, feats: Tensor, kmap: KernelMap) -> Tensor:
        weight = self.weight.to(feats.dtype)
        if self.depthwise:
            out = depthwise_conv(feats, weight, kmap)
        else:
            out = _Convolution.apply(feats, weight, kmap)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}"
            + (f", dilation={self.dilation}" if self.dilation > 1 else "")
            + (f", groups={self.groups}" if self.groups > 1 else "")
            + (", bias" if self.bias is not None else "")
        )


class SparseConv3d(_SparseKernel):
    """3D convolution on sparse sites.

    With stride 1 the output has the input's sites (a submanifold convolution); with stride s it
    has the sites ``unique(floor(c / s))``. At those sites the result equals
    ``torch.nn.functional.conv3d`` of the zero-filled volume with the same padding, if the volume's
    first cell is a multiple of the stride. ``padding`` (default ``(k - 1) // 2``) places the
    kernel: its first tap lies at ``stride * output - padding``.

    A kernel of size 1 also takes a dense [B, C, 1, 1] tensor (squeeze-and-excitation layers).
    """

    def forward(self, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """[N, C_in] features to [M, C_out] features; ValueError on a channel mismatch."""
        if isinstance(x, Tensor):
            return self._pointwise(x)
        if x.feats.shape[1] != self.in_channels:
            raise ValueError(
                f"expected {self.in_channels} input channels, got {x.feats.shape[1]}"
            )
        if math.prod(self.kernel_size) == 1 and self.stride == 1 and self.groups == 1:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return x.replace(nn.functional.linear(x.feats, self.weight[0].T.to(x.dtype), bias))
        kmap = x.sites.kernel_map(self.kernel_size, self.stride, self.padding, self.dilation)
        feats = self._apply_kernel(x.feats, kmap)
        return SparseTensor(feats, x.sites.downsample(self.stride))

    def _pointwise(self, x: Tensor) -> Tensor:
        pooled = x.ndim == 4 and tuple(x.shape[2:]) == (1, 1)
        if math.prod(self.kernel_size) > 1 or self.groups > 1 or not pooled:
            raise ValueError(
                f"a dense tensor reaches this sparse layer ({self.extra_repr()}); only a full "
                f"kernel of size 1 takes one, of shape [B, C, 1, 1]; got {list(x.shape)}"
            )
        return nn.functional.linear(x.flatten(1), self.weight[0].T, self.bias)[:, :, None, None]


class SparseConvTranspose3d(_SparseKernel):
    """Transposed 3D convolution back to the sites that a strided layer came from.

    At those sites it equals ``torch.nn.functional.conv_transpose3d`` with the same padding.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[M, C_in] to [N, C_out]; ValueError where the finer level is unknown."""
        if x.stride % self.stride:
            raise ValueError(f"level stride {x.stride} is no multiple of {self.stride}")
        fine = x.sites.level(x.stride // self.stride)
        kmap = fine.kernel_map(self.kernel_size, self.stride, self.padding, self.dilation)
        return SparseTensor(self._apply_kernel(x.feats, kmap.transposed()), fine)
