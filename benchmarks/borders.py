"""Image functions without a border: what an inflated network computes, where no site ends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SameBorders(TorchFunctionMode):
    """Image functions as they are without a border: what an inflated network computes.

    Windows that shrink the image get TensorFlow's "same" padding, whatever was padded before; means
    leave the padding out, and adaptive pooling gives every cell the mean of the whole image.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return self._conv(*args, **kwargs)
        if func in (F.max_pool2d, torch.max_pool2d):
            return self._pool(torch.max_pool2d, -torch.inf, *args, **kwargs)
        if func is F.avg_pool2d:
            mean = self._pool(func, 0.0, *args, **kwargs)
            return mean / self._pool(func, 0.0, torch.ones_like(args[0]), *args[1:], **kwargs)
        if func is F.pad and _surrounds(*args[1:], **kwargs):
            return args[0]
        if func is F.adaptive_avg_pool2d:
            size = args[1] if len(args) > 1 else kwargs["output_size"]
            size = (size, size) if isinstance(size, int) else size
            return args[0].mean((2, 3), keepdim=True).expand(-1, -1, *size)
        return func(*args, **kwargs)

    def _conv(self, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        padding = -1 if isinstance(padding, str) else padding  # "same" in whatever spelling
        kernel, stride, padding, dilation = map(
            _pair, (weight.shape[2:], stride, padding, dilation))
        x = _same(x, kernel, stride, padding, dilation, 0.0)
        return torch.conv2d(x, weight, bias, stride, 0, dilation, groups)

    def _pool(self, func, fill, x, kernel_size, stride=None, padding=0, *_, **__):
        kernel = _pair(kernel_size)
        stride = _pair(stride) if stride else kernel
        return func(_same(x, kernel, stride, _pair(padding), (1, 1), fill), kernel, stride)


def _surrounds(pad, mode: str = "constant", value: float | None = None) -> bool:
    """Whether arguments of F.pad put constant cells around an image, and do nothing else."""
    return mode == "constant" and len(pad) == 4 and min(pad) >= 0


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _same(x: Tensor, kernel, stride, padding, dilation, fill: float) -> Tensor:
    """Pad so that the window gives ceil(n / stride) outputs, with the layer's own start if it does.

    Independent of the sparse engine: it counts the cells of the image at hand.
    """
    pads = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        wanted = -(-n // s)
        before = p if (n + 2 * p - reach) // s + 1 == wanted else max(0, reach - s) // 2
        pads = [before, max(0, (wanted - 1) * s + reach - n - before), *pads]
    return F.pad(x, pads, value=fill)
