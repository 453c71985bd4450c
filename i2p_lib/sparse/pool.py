"""Pooling over the occupied sites of a window, and over a whole sample."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.conv import described, triple
from i2p_lib.sparse.kernel_map import KernelMap, Triple
from i2p_lib.sparse.sums import fixed_order, mean_rows
from i2p_lib.sparse.tensor import SparseTensor


class _MaxPool(torch.autograd.Function):
    """Maximum over the pairs of each output row; ties go to the first tap, as in torch."""

    @staticmethod
    def forward(ctx, x: Tensor, kmap: KernelMap) -> Tensor:
        best = x.new_full((kmap.n_out, x.shape[1]), -math.inf)
        source = torch.zeros(best.shape, dtype=torch.int64, device=x.device)
        for _, rows_in, rows_out in kmap.taps(identity=True):
            candidate, current = x[rows_in], best[rows_out]
            better = candidate > current
            best[rows_out] = torch.where(better, candidate, current)
            source[rows_out] = torch.where(better, rows_in[:, None], source[rows_out])
        ctx.save_for_backward(source)
        ctx.n_in = kmap.n_in
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (source,) = ctx.saved_tensors
        with fixed_order():
            return grad.new_zeros(ctx.n_in, grad.shape[1]).scatter_add(0, source, grad), None


class _WindowPool(nn.Module):
    """[N, C] to [M, C]: output sites as for a strided convolution, which windows must cover."""

    def __init__(self, kernel_size: int | Triple, stride: int | None = None,
                 padding: int | Triple = 0):  # fmt: skip
        super().__init__()
        self.kernel_size, self.padding = triple(kernel_size), triple(padding)
        self.stride = max(self.kernel_size) if stride is None else stride
        geometry = zip(self.kernel_size, self.padding, strict=True)
        if any(k < self.stride or p >= k for k, p in geometry):
            raise ValueError(f"windows {self.kernel_size} with stride {self.stride} and padding "
                             f"{self.padding} leave sites out: the kernel must be at least the "
                             "stride, the padding below it")

    def forward(self, x: SparseTensor) -> SparseTensor:
        kmap = x.sites.kernel_map(self.kernel_size, self.stride, self.padding)
        return SparseTensor(self.pooled(x.feats, kmap), x.sites.downsample(self.stride))

    extra_repr = described("kernel_size", "stride", "padding")


def _window_means(x: Tensor, kmap: KernelMap) -> Tensor:
    sizes = torch.bincount(kmap.rows_out, minlength=kmap.n_out)
    return mean_rows(x[kmap.rows_in], kmap.rows_out, sizes).to(x.dtype)


class SparseMaxPool3d(_WindowPool):
    """Maximum over the occupied sites of each window."""

    pooled = staticmethod(_MaxPool.apply)


class SparseAvgPool3d(_WindowPool):
    """Mean over the occupied sites of each window; empty cells do not count."""

    pooled = staticmethod(_window_means)


class SparseGlobalPool(nn.AdaptiveAvgPool2d):
    """Mean over all sites of a sample [N, C], as a dense [B, C, 1, 1]; zeros without sites.

    ``output_size`` is that of an image model's adaptive pooling. A cloud has no raster of such
    cells, so that each of them gets the mean over the whole cloud.
    """
