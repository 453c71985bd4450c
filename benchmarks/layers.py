"""Part `layers`: one layer at a time, ours beside every peer, forward and forward + backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.cases import Case, Scale
from benchmarks.dense import DenseConv
from benchmarks.goals import COPY_BYTES, GEMM_WORK, HALF, NORM, OURS
from benchmarks.inputs import VoxelSet, voxel_sets
from benchmarks.peers import ENGINES, PeerConv, Unsupported, must_run
from i2p_lib.sparse import SparseBatchNorm, SparseConv3d, SparseConvTranspose3d, SparseTensor

MOST_WORK = 2e11  # floating point operations of forward + backward that are waited for
MOST_HALF_WORK = 7e10  # the same for bf16
MOST_GATHERED = 2**28  # bytes of neighbours that ocnn gathers
TOLERANCE = {HALF: 3e-2}  # largest difference from ours, as a share of the largest value
USUAL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Kind:
    """A kind of layer: its kernel, and the channels and voxel sets that it is measured with."""

    name: str
    kernel: int
    stride: int = 1
    transposed: bool = False
    depthwise: bool = False
    half: bool = False
    channels: tuple[int, ...] = (16, 64, 256)
    sets: tuple[int, ...] = (2, 4)

    def layer(self, channels: int) -> nn.Module:
        """The layer of ours, with fixed weights."""
        make = SparseConvTranspose3d if self.transposed else SparseConv3d
        groups = channels if self.depthwise else 1
        return make(channels, channels, self.kernel, self.stride, groups=groups, bias=False,
                    generator=torch.Generator().manual_seed(0))


KINDS = (
    Kind("submanifold 3", 3, half=True, channels=(16, 64, 128, 256, 512), sets=(0, 1, 2, 3, 4, 5)),
    Kind("strided 2", 2, stride=2),
    Kind("strided 3", 3, stride=2),
    Kind("transposed 2", 2, stride=2, transposed=True),
    Kind("depthwise 3", 3, depthwise=True, half=True),
    Kind("depthwise 5", 5, depthwise=True),
)


def cases(device: torch.device, scale: Scale) -> Iterator[Case]:
    """Yield the part's cases; a layer of more than `MOST_WORK` is left out."""
    sets = dict(enumerate(voxel_sets(scale.voxels, device)))
    for kind in KINDS:
        for voxels in filter(None, map(sets.get, kind.sets)):
            for channels in kind.channels:
                case = LayerCase(kind, channels, voxels, device, scale.budget)
                if case.work <= MOST_WORK:
                    yield Case(f"{kind.name}, {channels} channels, {voxels.name}",
                               scale.budget + 8 * case.work / 1e11, case.measure)
    for voxels in filter(None, map(sets.get, (2, 4))):
        for channels in (64, 256):
            case = NormCase(channels, voxels, device, scale.budget)
            yield Case(f"{NORM}, {channels} channels, {voxels.name}", scale.budget, case.measure)


@dataclass(frozen=True)
class LayerCase:
    """One kind of layer with so many channels on one voxel set."""

    kind: Kind
    channels: int
    voxels: VoxelSet
    device: torch.device
    budget: float

    @cached_property
    def pairs(self) -> int:
        """Pairs of an input and an output voxel that exist."""
        layer = self.kind.layer(1)
        kmap = self.voxels.sites.kernel_map(layer.kernel_size, layer.stride, layer.padding)
        return len(kmap.rows_in)

    @property
    def work(self) -> float:
        """Floating point operations of forward + backward, over existing pairs."""
        return 6.0 * self.pairs * self.channels * (1 if self.kind.depthwise else self.channels)

    def measure(self) -> list[dict]:
        """Return a row for each engine; one that cannot run the layer says why."""
        layer = self.kind.layer(self.channels).to(self.device)
        sites = self.voxels.sites
        sites_in = sites.downsample(2) if self.kind.transposed else sites
        sites_out = sites if self.kind.transposed else sites.downsample(self.kind.stride)
        make = torch.Generator().manual_seed(0)
        feats = torch.randn(len(sites_in), self.channels, generator=make).to(self.device)
        grad = torch.randn(len(sites_out), self.channels, generator=make).to(self.device)
        x = SparseTensor(feats, sites_in)
        turns = {OURS: Turn(layer, x, grad, self.device)}
        notes = {}
        if self.kind.half and self.work < MOST_HALF_WORK and timing.fast_bf16(self.device):
            turns[HALF] = Turn(layer, x.to(torch.bfloat16), grad.bfloat16(), self.device)
        for peer in [*ENGINES, "dense"]:
            try:
                turns[peer] = self._peer(peer, layer, x, grad)
            except Unsupported as reason:
                notes[peer] = str(reason)
        _must_be_equal(turns)
        about = {"layer": self.kind.name, "channels": self.channels, "set": self.voxels.name,
                 "voxels": len(sites), "outputs": len(sites_out), "pairs": self.pairs}
        return rows(about, turns, notes, self.device, self.budget)

    def _peer(self, peer: str, layer: nn.Module, x: SparseTensor, grad: Tensor) -> Turn:
        if peer == "dense":
            return DenseTurn(DenseConv(layer, x, MOST_WORK / 4), x, grad, self.device)
        must_run(peer, self.device)
        gathered = 4 * grad.numel() * len(layer.weight)
        if peer == "ocnn" and gathered > MOST_GATHERED:
            raise Unsupported(f"left out: {gathered / 2**20:.0f} MiB of gathered neighbours")
        return Turn(PeerConv(layer, peer).to(self.device), x, grad, self.device)


@dataclass(frozen=True)
class NormCase:
    """BatchNorm with the ReLU behind it, in one pass, beside torch's two layers."""

    channels: int
    voxels: VoxelSet
    device: torch.device
    budget: float

    def measure(self) -> list[dict]:
        """Return the rows of both."""
        sites = self.voxels.sites
        make = torch.Generator().manual_seed(0)
        feats, grad = (torch.randn(len(sites), self.channels, generator=make).to(self.device)
                       for _ in range(2))
        x = SparseTensor(feats, sites)
        ours = SparseBatchNorm(self.channels, activation=nn.ReLU()).to(self.device)
        torchs = _TorchNorm(self.channels).to(self.device)
        turns = {name: Turn(net, x, grad, self.device)
                 for name, net in ((OURS, ours), ("torch", torchs))}
        _must_be_equal(turns)
        about = {"layer": NORM, "channels": self.channels, "set": self.voxels.name,
                 "voxels": len(sites), "outputs": len(sites), "pairs": 0}
        return rows(about, turns, {}, self.device, self.budget)


class _TorchNorm(nn.BatchNorm1d):
    def forward(self, x: SparseTensor) -> SparseTensor:
        """BatchNorm, then ReLU, on the features."""
        return x.replace(F.relu(super().forward(x.feats)))


class Turn:
    """A layer with its input and the gradient of its output; a call runs it both ways."""

    def __init__(self, layer: nn.Module, x: SparseTensor, grad: Tensor, device: torch.device):
        self.layer, self.grad, self.device = layer, grad, device
        self.x = x.replace(x.feats.clone().requires_grad_())

    def __call__(self) -> list[float]:
        """Return the seconds of the forward pass, and of forward + backward."""
        self.x.feats.grad = None
        self.layer.zero_grad(set_to_none=True)
        start = timing.now(self.device)
        out = self.layer(self.x).feats
        middle = timing.now(self.device)
        out.backward(self.grad)
        return [middle - start, timing.now(self.device) - start]

    def outcome(self) -> tuple[Tensor, Tensor]:
        """Return the output's features and the gradient of the input's."""
        self.x.feats.grad = None
        out = self.layer(self.x).feats
        out.backward(self.grad)
        return out.detach(), self.x.feats.grad


class DenseTurn(Turn):
    """The same for a dense volume, which holds the sites' features and zeros elsewhere."""

    def __init__(self, layer: DenseConv, x: SparseTensor, grad: Tensor, device: torch.device):
        self.layer, self.device = layer.to(device), device
        self.volume = layer.volume(x.feats).requires_grad_()
        self.grad = layer.spread(grad)

    def __call__(self) -> list[float]:
        """Return the seconds of the forward pass, and of forward + backward."""
        self.volume.grad = None
        self.layer.zero_grad(set_to_none=True)
        start = timing.now(self.device)
        out = self.layer(self.volume)
        middle = timing.now(self.device)
        out.backward(self.grad)
        return [middle - start, timing.now(self.device) - start]

    def outcome(self) -> tuple[Tensor, Tensor]:
        """Return the output and the gradient of the input at the sites."""
        self.volume.grad = None
        out = self.layer(self.volume)
        out.backward(self.grad)
        return self.layer.read_out(out.detach()), self.layer.read_in(self.volume.grad)


def _must_be_equal(turns: dict[str, Turn]) -> None:
    """Raise ValueError where an engine does not compute what ours does."""
    ours = turns[OURS].outcome()
    for name, turn in turns.items():
        for what, a, b in zip(("outputs", "gradients"), turn.outcome(), ours, strict=True):
            off = float((a.float() - b.float()).abs().max() / b.float().abs().max())
            if not off <= TOLERANCE.get(name, USUAL_TOLERANCE):
                raise ValueError(f"{name}: {what} differ from ours by {off:.1e} of the largest")


def rows(
    about: dict, turns: dict[str, Turn], notes: dict[str, str], device: torch.device, budget: float
) -> list[dict]:
    """Let the engines and the machine's limits take turns; return a row for each engine."""
    seconds = timing.take_turns(turns | timing.limits(device, HALF in turns), budget)
    gemm, copy = (np.median(seconds[name]) for name in ("gemm", "copy"))
    found = []
    for name in turns:
        forward, both = seconds[name].T
        product = seconds["gemm bf16" if name == HALF else "gemm"][:, 0]
        found.append(about | {
            "engine": name,
            "forward_s": np.median(forward),
            "both_s": np.median(both),
            "times_ours_forward": timing.ratio(forward, seconds[OURS][:, 0]),
            "times_ours": timing.ratio(both, seconds[OURS][:, 1]),
            "in_gemms": timing.ratio(both, product),
            "in_copies": timing.ratio(both, seconds["copy"][:, 0]),
            "gemm_gflops": GEMM_WORK / gemm / 1e9,
            "copy_gbs": COPY_BYTES / copy / 1e9,
            "rounds": len(both),
            "note": "",
        })  # fmt: skip
    return found + [about | {"engine": name, "note": note} for name, note in notes.items()]
