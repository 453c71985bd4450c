"""Sparse residual U-Net whose encoder is an inflated image network, with SPVCNN's point branch.

As in the original's core/models/collection/spvcnn18.py: a stem of two 3x3x3 convolutions, a
2x2x2 convolution of stride 2, the image network's stages at total strides 2, 4, 8 and 16, and a
decoder of four transposed convolutions, each followed by two residual blocks on the joined skip.
The encoder is the image network's own ``forward`` on sparse sites; the residual blocks of the
decoder are torchvision's with sparse layers inside.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2p_lib.inflation import InflationError, inflate
from i2p_lib.inflation.trace import evaluated
from i2p_lib.models.contract import describe, seeded, shapes
from i2p_lib.models.residual import residual_stage
from i2p_lib.models.stages import around_stages, stage_names, stage_outputs
from i2p_lib.sparse import Sites, SparseBatchNorm, SparseConv3d, SparseConvTranspose3d, SparseTensor
from i2p_lib.sparse.sums import mean_rows
from i2p_lib.weights import image_model
from i2p_lib.weights.cards import is_random

WIDTHS = (512, 256, 192, 192)  # channels of the decoder, coarsest first
STRIDES = (2, 4, 8, 16)  # of the encoder's levels, in input voxels


def unet(image_name: str, num_classes: int, in_channels: int, weights: str | None = "random",
         seed: int = 0, weights_dir: str | Path | None = None, decoder_width: float = 1.0,
         point_branch: bool = False, axis: str = "z", normalize: bool = True) -> UNet:  # fmt: skip
    """Return a U-Net on sparse voxels around an image network with named stages.

    Args:
        image_name, weights, seed, weights_dir: see ``segmenter``.
        in_channels: features per voxel.
        decoder_width: factor on the channels of stem and decoder (1: the paper's 64, and
            512, 256, 192, 192). The encoder keeps the image network's own.
        point_branch: see ``Decoder``.
        axis, normalize: see ``inflate_weight``. The stages get the paper's geometry (its recipe).

    Raises ValueError for a network without named stages or a factor that is not positive, and
    InflationError for one that cannot be inflated or has other levels than strides 2, 4, 8, 16.
    """
    if not decoder_width > 0:
        raise ValueError(f"decoder_width must be positive, got {decoder_width}")
    image = image_model(image_name, weights, seed, weights_dir)
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
                          num_classes, point_branch)  # fmt: skip
    net = UNet(stem, down, encoder, stages, decoder)
    known = {} if is_random(weights) else shapes(image, "encoder.")
    describe(net, ["stem", "down"], "decoder", known, ["stem", "down", "decoder"])
    if not is_random(weights):
        net.i2p_transfer = image.i2p_transfer
    net.i2p_input = "voxels"
    return net


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
        fine = self.stem(x)
        return self.decoder([fine, *stage_outputs(self.encoder, self.stages, self.down(fine))])


class Decoder(nn.Module):
    """Back to the finest level, and a linear classifier on its sites.

    ``channels`` are those of the levels of stride 1, 2, 4, 8, 16. Dropout comes before the first
    and the third step up.

    With the point branch (SPVCNN, Tang et al., ECCV 2020) the features of the finest sites skip
    the grid: to what the coarsest level, the middle of the decoder and its end give back at each
    site, interpolated between cells, a layer on the earlier features is added, and the grid goes
    on with its mean per cell. As in the paper's code the points are the occupied voxels. Cells
    count as lying at their centres; torchsparse puts them at their lowest corners.
    """

    def __init__(self, channels: tuple[int, ...], widths: list[int], num_classes: int,
                 point_branch: bool):  # fmt: skip
        super().__init__()
        inputs, skips = [channels[-1], *widths], channels[-2::-1]
        self.up = nn.ModuleList(
            Up(*sizes) for sizes in zip(inputs, skips, widths, (3, 3, 3, 2), strict=False))
        self.dropout = nn.Dropout(0.3)
        self.points = None
        if point_branch:
            stops = (channels[0], channels[-1], widths[1], widths[3])
            self.points = nn.ModuleList(
                nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
                for a, b in zip(stops, stops[1:], strict=False))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, levels: list[SparseTensor]) -> Tensor:
        """The levels of stride 1 to 16 to logits [finest sites, num_classes]."""
        *skips, x = levels
        points = skips[0].feats
        for step, up in enumerate(self.up):
            if step in (0, 2):
                x, points = self._meet(x, points, step // 2)
                x = self.dropout(x)
            x = up(x, skips.pop())
        return self.classifier(self._meet(x, points, 2)[0].feats)

    def _meet(self, x: SparseTensor, points: Tensor, turn: int) -> tuple[SparseTensor, Tensor]:
        """Join grid and point features where both meet."""
        if self.points is None:
            return x, points
        points = sites_to_points(x) + self.points[turn](points)
        return x.replace(points_to_sites(points, x.sites)), points


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
    """torchvision's basic residual blocks with new 3D convolutions and norms on sparse sites."""
    from torchvision.models.resnet import BasicBlock

    with torch.device("meta"):  # every layer with parameters is replaced
        blocks = residual_stage(BasicBlock, channels, width, depth)
    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, nn.Conv2d):
            blocks.set_submodule(name, SparseConv3d(layer.in_channels, layer.out_channels,
                                                    layer.kernel_size[0], bias=False))  # fmt: skip
        elif isinstance(layer, nn.BatchNorm2d):
            blocks.set_submodule(name, SparseBatchNorm(layer.num_features))
    return blocks


def sites_to_points(x: SparseTensor) -> Tensor:
    """Interpolate a coarse level at the centres of the finest sites: [finest sites, C].

    Trilinear between the centres of the cells; cells without a site do not count, and the weights
    of the others are scaled to one. A site's own cell is always among them.
    """
    if x.stride == 1:
        return x.feats
    index, weight = _corners(x.sites)
    return F.embedding_bag(index, x.feats, mode="sum", per_sample_weights=weight.to(x.dtype))


def points_to_sites(points: Tensor, sites: Sites) -> Tensor:
    """Mean over the finest sites in each cell of a level: [finest sites, C] to [sites, C]."""
    if sites.stride == 1:
        return points
    owner = _cells(sites)
    sizes = torch.bincount(owner, minlength=len(sites))
    return mean_rows(points, owner, sizes).to(points.dtype)


def scaled(channels: int, width: float) -> int:
    """Channels times a factor: a multiple of 8, and 8 at least."""
    return max(8, 8 * round(channels * width / 8))


def _unit(convolution: nn.Module) -> tuple[nn.Module, nn.Module]:
    return convolution, SparseBatchNorm(convolution.out_channels, activation=nn.ReLU())


def _levels(
    encoder: nn.Module, stages: tuple[str, ...], entry: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The last stage of each stride and its channels, found on a tiny cloud."""
    weight = next(encoder.parameters())
    line = torch.arange(4)[:, None] * torch.tensor([[0, 1, 2, 3]])
    cloud = SparseTensor(weight.new_ones(4, entry), Sites(line, 1, STRIDES[0]))
    with evaluated(encoder):
        outputs = stage_outputs(encoder, stages, cloud)
    last = {x.stride: (name, x.feats.shape[1]) for name, x in zip(stages, outputs, strict=False)}
    if len(outputs) != len(stages) or tuple(last) != STRIDES:
        raise InflationError(f"{type(encoder).__name__}: the U-Net needs one map for each of the "
                             f"strides {STRIDES}, the stages {stages} have {tuple(last)}")
    names, channels = zip(*last.values(), strict=True)
    return names, channels


def _cells(sites: Sites) -> Tensor:
    """The cell of a level in which each finest site lies, int64 [finest sites]."""
    key = ("cells", sites.stride)
    if key not in sites.pyramid:
        owner, fine = torch.arange(len(sites), device=sites.coords.device), sites
        while fine.stride > 1:
            fine = fine.level(fine.stride // 2)
            owner = owner[fine.parents(2)]
        sites.pyramid[key] = owner
    return sites.pyramid[key]


def _corners(sites: Sites) -> tuple[Tensor, Tensor]:
    """The 8 cells around each finest site, int64 [finest sites, 8], and their weights."""
    key = ("corners", sites.stride)
    if key not in sites.pyramid:
        finest, owner = sites.level(1), _cells(sites)
        pairs = sites.kernel_map((3, 3, 3), 1, (1, 1, 1))
        tap = torch.repeat_interleave(torch.arange(27), torch.tensor(pairs.sizes))
        near = torch.full((len(sites), 27), -1, device=owner.device)
        near[pairs.rows_out, tap.to(owner.device)] = pairs.rows_in
        cell = sites.coords[owner, 1:]
        offset = (finest.coords[:, 1:] + 0.5) / sites.stride - (cell + 0.5)  # -0.5 to 0.5
        side = torch.where(offset < 0, -1, 1)
        index, weight = [], []
        for corner in torch.cartesian_prod(*[torch.arange(2, device=owner.device)] * 3):
            x, y, z = (1 + corner * side).unbind(1)
            index.append(near[owner, 9 * x + 3 * y + z])
            weight.append(torch.where(corner == 1, offset.abs(), 1 - offset.abs()).prod(1))
        index, weight = torch.stack(index, 1), torch.stack(weight, 1)
        weight = torch.where(index < 0, 0, weight)
        sites.pyramid[key] = index.clamp(min=0), weight / weight.sum(1, keepdim=True)
    return sites.pyramid[key]
