"""Sparse convolutions: submanifold, strided, grouped and transposed, as layers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from i2p_lib.sparse.backends import convolve
from i2p_lib.sparse.kernel_map import KernelMap, Triple
from i2p_lib.sparse.tensor import SparseTensor


def triple(value: int | tuple[int, ...]) -> Triple:
    """One int for all three axes, or three of them."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"expected an int or three ints, got {value!r}")
    return values


def described(*names: str) -> Callable[[nn.Module], str]:
    """An ``extra_repr`` that gives the values of some attributes."""
    return lambda layer: ", ".join(f"{name}={getattr(layer, name)}" for name in names)


class _SparseKernel(nn.Module):
    """What all sparse convolutions share: the kernel's geometry and its parameters.

    The weight is [K, C_in, C_out], [K, G, C_in / G, C_out / G] in G groups, or [K, C] for a
    depthwise layer, with the K taps in row-major (x, y, z) order.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Triple,
                 stride: int = 1, padding: int | Triple | None = None, dilation: int = 1,
                 groups: int = 1, bias: bool = True,
                 generator: torch.Generator | None = None):  # fmt: skip
        super().__init__()
        self.kernel_size = triple(kernel_size)
        half = tuple(dilation * ((k - 1) // 2) for k in self.kernel_size)
        self.padding = half if padding is None else triple(padding)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if min(*self.kernel_size, stride, dilation, in_channels, out_channels) < 1:
            raise ValueError("kernel size, stride, dilation and channels must be at least 1")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; got {groups} groups with "
                             f"{in_channels} -> {out_channels} channels")
        taps = math.prod(self.kernel_size)
        self.depthwise = groups > 1 and groups == in_channels == out_channels
        sides = [] if groups == 1 else [groups]
        sides += [] if self.depthwise else [in_channels // groups, out_channels // groups]
        fan = taps * out_channels // groups  # He, by the fan-out, as torchvision and timm do
        weight = torch.empty(taps, *sides).normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _apply_kernel(self, feats: Tensor, kmap: KernelMap) -> Tensor:
        weight = self.weight.to(feats.dtype)
        if self.groups == 1:
            weight = weight[:, None]
        out = convolve(feats.contiguous(), weight, kmap)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    extra_repr = described("in_channels", "out_channels", "kernel_size", "stride", "padding",
                           "dilation", "groups")


class SparseConv3d(_SparseKernel):
    """3D convolution on sparse sites.

    With stride 1 the output has the input's sites (a submanifold convolution); with stride s it
    has the sites ``unique(floor(c / s))``. At those sites the result equals
    ``torch.nn.functional.conv3d`` of the zero-filled volume with the same padding, if the volume's
    first cell is a multiple of the stride. ``padding``, in cells (default: ``(k - 1) // 2`` taps),
    places the kernel: its first tap lies at ``stride * output - padding``.

    A kernel of size 1 also takes a dense [B, C, 1, 1] tensor (squeeze-and-excitation layers).
    """

    def forward(self, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """[N, C_in] features to [M, C_out] features; ValueError on a channel mismatch."""
        pointwise = math.prod(self.kernel_size) == 1 and self.stride == 1 and self.groups == 1
        if isinstance(x, Tensor):
            if not pointwise or x.ndim != 4 or tuple(x.shape[2:]) != (1, 1):
                raise ValueError(f"a dense tensor reaches this sparse layer ({self.extra_repr()}); "
                                 "only a full kernel of size 1 takes one, of shape [B, C, 1, 1]; "
                                 f"got {list(x.shape)}")
            return self._linear(x.flatten(1))[:, :, None, None]
        if x.feats.shape[1] != self.in_channels:
            raise ValueError(f"expected {self.in_channels} input channels, got {x.feats.shape[1]}")
        if pointwise:
            return x.replace(self._linear(x.feats))
        kmap = x.sites.kernel_map(self.kernel_size, self.stride, self.padding, self.dilation)
        feats = self._apply_kernel(x.feats, kmap)
        return SparseTensor(feats, x.sites.downsample(self.stride))

    def _linear(self, rows: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        return nn.functional.linear(rows, self.weight[0].T.to(rows.dtype), bias)


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
