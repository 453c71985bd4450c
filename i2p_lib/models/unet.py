"""Sparse residual U-Net whose encoder is an inflated image network: the paper's SPVCNN18.

As in the paper's code (``core/models/collection/spvcnn18.py``): a stem of two 3x3x3 convolutions,
a 2x2x2 convolution of stride 2, the image network's stages at total strides 2, 4, 8 and 16, and a
decoder of four transposed convolutions, each followed by two residual blocks on the joined skip.
At strides 1 and 16 features go from the voxels to the points (trilinear) and back (mean), and the
logits are read at the points, which are the occupied voxels themselves.
The encoder is the image network's own ``forward`` on sparse sites; the residual blocks of the
decoder are torchvision's with sparse layers inside.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from i2p_lib.inflation import InflationError, inflate
from i2p_lib.inflation.regimes import describe, shapes
from i2p_lib.inflation.trace import evaluated, tiny_clouds
from i2p_lib.models.stages import around_stages, residual_stage, stage_names, stage_outputs
from i2p_lib.sparse import SparseBatchNorm, SparseConv3d, SparseConvTranspose3d, SparseTensor
from i2p_lib.sparse.points import Points
from i2p_lib.weights.building import image_model, seeded

WIDTHS = (512, 256, 192, 192)  # channels of the decoder, coarsest first
STRIDES = (2, 4, 8, 16)  # of the encoder's levels, in input voxels


class UNet(nn.Module):
    """Made by ``unet``: SparseTensor with stride 1 to logits [sites, num_classes]."""

    def __init__(self, stem: nn.Module, down: nn.Module, encoder: nn.Module,
                 stages: tuple[str, ...], decoder: nn.Module):  # fmt: skip
        super().__init__()
        self.stem, self.down, self.encoder, self.decoder = stem, down, encoder, decoder
        self.stages = stages

    def forward(self, x: SparseTensor) -> Tensor:
        """Logits of each site, in the order of the sites; ValueError on a coarser level."""
        if x.stride != 1:
            raise ValueError(f"expected voxels of stride 1, got {x}")
        points, fine = Points.of_voxels(x), self.stem(x)
        through = points.average(points.interpolate(fine), fine)
        outputs = stage_outputs(self.encoder, self.stages, self.down(through))
        return self.decoder([fine, *outputs], points)


def unet(image_name: str, num_classes: int, in_channels: int, weights: str | Path | None = "random",
         seed: int = 0, weights_dir: str | Path | None = None, decoder_width: float = 1.0,
         axis: str = "z", normalize: bool = True, weights_except: Sequence[str] = ()
         ) -> UNet:  # fmt: skip
    """Return a U-Net on sparse voxels around an image network with named stages.

    Args:
        image_name, weights, seed, weights_dir: see ``segmenter``; weights_except: see
            ``image_model``.
        in_channels: features per voxel.
        decoder_width: factor on the channels of stem and decoder (1: the paper's 64, and
            512, 256, 192, 192). The encoder keeps the image network's own.
        axis, normalize: see ``inflate_weight``. The stages get the paper's geometry (its recipe).

    Raises ValueError for a network without named stages, and InflationError for one that cannot
    be inflated or has other levels than strides 2, 4, 8, 16.
    """
    image = image_model(image_name, weights, seed, weights_dir, weights_except)
    stages = stage_names(image)
    before, behind = around_stages(image, stages)
    first = [image.get_submodule(name) for name in before]
    entry = [layer.out_channels for layer in first if isinstance(layer, nn.Conv2d)][-1]
    encoder = inflate(image, in_channels, axis=axis, normalize=normalize, recipe="paper",
                      generator=torch.Generator().manual_seed(seed))  # fmt: skip
    for name in before + behind:
        encoder.set_submodule(name, nn.Identity())
    stages, channels = _levels(encoder, stages, entry)
    width = scaled(entry, decoder_width)
    with seeded(seed):
        stem = nn.Sequential(*_unit(SparseConv3d(in_channels, width, 3, bias=False)),
                             *_unit(SparseConv3d(width, width, 3, bias=False)))
        down = nn.Sequential(*_unit(SparseConv3d(width, entry, 2, 2, bias=False)))
        decoder = Decoder((width, *channels), [scaled(w, decoder_width) for w in WIDTHS],
                          num_classes)  # fmt: skip
    net = UNet(stem, down, encoder, stages, decoder)
    known = shapes(image, "encoder.")
    return describe(net, ["stem", "down"], ["decoder"], known, takes="voxels")


class Decoder(nn.Module):
    """Back to the finest level, and a linear classifier at the points.

    ``channels`` are those of the levels of stride 1, 2, 4, 8, 16. The coarsest level goes to the
    points and back, through dropout, and up. SPVCNN (Tang et al., ECCV 2020) has MLPs on the
    points; the paper's code has none. There the points are visited in the middle of the decoder
    as well, with dropout behind it, but what comes back is not used.
    """

    def __init__(self, channels: tuple[int, ...], widths: list[int], num_classes: int):
        super().__init__()
        inputs, skips = [channels[-1], *widths], channels[-2::-1]
        self.up = nn.ModuleList(
            Up(*sizes) for sizes in zip(inputs, skips, widths, (3, 3, 3, 2), strict=False))
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, levels: list[SparseTensor], points: Points) -> Tensor:
        """The levels of stride 1 to 16 to logits [points, num_classes]."""
        *skips, x = levels
        x = self.dropout(points.average(points.interpolate(x), x))
        for up in self.up:
            x = up(x, skips.pop())
        return self.classifier(points.interpolate(x))


class Up(nn.Module):
    """Transposed convolution to the next finer level, its skip joined, two residual blocks."""

    def __init__(self, channels: int, skip: int, width: int, kernel: int):
        super().__init__()
        self.transposed = nn.Sequential(
            *_unit(SparseConvTranspose3d(channels, width, kernel, 2, bias=False)))
        self.blocks = residual_blocks(width + skip, width, 2)

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """A level and the next finer one to features on the sites of the finer one."""
        return self.blocks(torch.cat([self.transposed(x), skip], 1))


def residual_blocks(channels: int, width: int, depth: int) -> nn.Sequential:
    """torchvision's basic residual blocks with new 3D convolutions and norms on sparse sites.

    A shortcut that changes the channels is 2x2x2, with stride 1, as in the paper's code.
    """
    from torchvision.models.resnet import BasicBlock

    with torch.device("meta"):  # every layer with parameters is replaced
        blocks = residual_stage(BasicBlock, channels, width, depth)
    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, nn.Conv2d):
            kernel = 2 if "downsample" in name else 3
            blocks.set_submodule(
                name, SparseConv3d(layer.in_channels, layer.out_channels, kernel, bias=False))
        elif isinstance(layer, nn.BatchNorm2d):
            blocks.set_submodule(name, SparseBatchNorm(layer.num_features))
    return blocks


def scaled(channels: int, width: float) -> int:
    """Channels times a factor: a multiple of 8, and 8 at least."""
    return max(8, 8 * round(channels * width / 8))


def _unit(convolution: nn.Module) -> tuple[nn.Module, nn.Module]:
    return convolution, SparseBatchNorm(convolution.out_channels, activation=nn.ReLU())


def _levels(encoder: nn.Module, stages: tuple[str, ...],
            entry: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The last stage of each stride and its channels, found on a tiny cloud."""
    with evaluated(encoder):
        outputs = stage_outputs(encoder, stages, tiny_clouds(encoder, entry, STRIDES[0]))
    last = {x.stride: (name, x.feats.shape[1]) for name, x in zip(stages, outputs, strict=False)}
    if len(outputs) != len(stages) or tuple(last) != STRIDES:
        raise InflationError(f"{type(encoder).__name__}: the U-Net needs one map for each of the "
                             f"strides {STRIDES}, the stages {stages} have {tuple(last)}")
    names, channels = zip(*last.values(), strict=True)
    return names, channels
