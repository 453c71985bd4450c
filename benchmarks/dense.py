"""The dense convolution that equals a sparse layer at its sites, where its volume fits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import Unsupported
from i2p_lib.sparse import SparseConvTranspose3d, SparseTensor

MOST_BYTES = 2**26  # of one volume


class DenseConv(nn.Module):
    """torch's conv3d (or conv_transpose3d) with a sparse layer's weights, on the sites' box.

    The box begins at a multiple of the stride and has a multiple of it as sides.
    Raises Unsupported where its volume or the work on it is too large.
    """

    def __init__(self, layer: nn.Module, x: SparseTensor, most_work: float):
        super().__init__()
        self.transposed = isinstance(layer, SparseConvTranspose3d)
        stride = layer.stride
        fine = x.sites.level(x.stride // stride) if self.transposed else x.sites
        coarse = fine.downsample(stride)
        low = fine.coords[:, 1:].amin(0).div(stride, rounding_mode="floor")
        sides = coarse.coords[:, 1:].amax(0) - low + 1
        cells = x.batch_size * int(sides.prod())
        taps = len(layer.weight)
        self.groups = layer.groups
        channels = layer.in_channels
        work = 6.0 * taps * cells * channels * (channels // self.groups)
        size = 4 * cells * stride**3 * channels
        if size > MOST_BYTES or work > most_work:
            raise Unsupported(f"left out: a volume of {size / 2**20:.0f} MiB and "
                              f"{work / 1e9:.0f} GFLOP")
        self.settings = {"stride": stride, "padding": layer.padding, "groups": self.groups}
        self.weight = nn.Parameter(_dense_weight(layer, self.transposed))
        ends = [(fine, low * stride, sides * stride), (coarse, low, sides)]
        self.ends = ends[::-1] if self.transposed else ends

    def forward(self, volume: Tensor) -> Tensor:
        """[B, C, X, Y, Z] to [B, C, X', Y', Z']."""
        function = F.conv_transpose3d if self.transposed else F.conv3d
        return function(volume, self.weight, **self.settings)

    def volume(self, feats: Tensor) -> Tensor:
        """Put features [N, C] at the input's sites of a volume of zeros."""
        return _put(feats, *self.ends[0])

    def spread(self, feats: Tensor) -> Tensor:
        """Put features [M, C] at the output's sites of a volume of zeros."""
        return _put(feats, *self.ends[1])

    def read_in(self, volume: Tensor) -> Tensor:
        """Read [N, C] at the input's sites."""
        return _read(volume, *self.ends[0])

    def read_out(self, volume: Tensor) -> Tensor:
        """Read [M, C] at the output's sites."""
        return _read(volume, *self.ends[1])


def _dense_weight(layer: nn.Module, transposed: bool) -> Tensor:
    weight = layer.weight.detach().unflatten(0, layer.kernel_size)
    if layer.depthwise:
        return weight.permute(3, 0, 1, 2)[:, None].contiguous()
    return weight.permute(*((3, 4) if transposed else (4, 3)), 0, 1, 2).contiguous()


def _place(sites, low: Tensor) -> tuple[Tensor, ...]:
    return (sites.batch, *(sites.coords[:, 1:] - low).unbind(1))


def _put(feats: Tensor, sites, low: Tensor, sides: Tensor) -> Tensor:
    volume = feats.new_zeros(sites.batch_size, *sides.tolist(), feats.shape[1])
    return volume.index_put(_place(sites, low), feats).permute(0, 4, 1, 2, 3).contiguous()


def _read(volume: Tensor, sites, low: Tensor, sides: Tensor) -> Tensor:
    return volume.permute(0, 2, 3, 4, 1)[_place(sites, low)]
