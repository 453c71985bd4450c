"""Stages of torchvision's residual blocks in widths that torchvision does not offer."""

from __future__ import annotations

from torch import nn


def residual_stage(
    block: type[nn.Module], channels_in: int, width: int, depth: int, stride: int = 1
) -> nn.Sequential:
    """One stage of torchvision's ``BasicBlock`` or ``Bottleneck``, as its own ResNets have them.

    Args:
        channels_in: channels of the input; the output has ``width * block.expansion``.
        depth: number of blocks; the first has the stride and, where shapes differ, a shortcut
            of a 1x1 convolution and a norm.
    """
    channels = width * block.expansion
    shortcut = None
    if stride != 1 or channels_in != channels:
        shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                                 nn.BatchNorm2d(channels))
    first = block(channels_in, width, stride, shortcut)
    return nn.Sequential(first, *(block(channels, width) for _ in range(depth - 1)))


def he_init(net: nn.Module) -> nn.Module:
    """Draw each convolution anew as torchvision's ResNets do: normal, He, by the fan-out."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net
