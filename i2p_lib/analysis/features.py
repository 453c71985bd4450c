"""What an image network and its inflated twin compute inside: on pictures, and on clouds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.analysis.taps import pooled
from i2p_lib.inflation.trace import watched
from i2p_lib.sparse import SparseGlobalPool, SparseTensor

VALUES = 15_000  # the paper's number of element-wise samples of each layer


@dataclass(frozen=True)
class Seen:
    """What a network computed of N samples (images or clouds).

    values  {convolution: float32 [count]}, single elements of its output, before norm and
            activation
    owner   int64 [count], the sample of each value, the same in all layers
    units   float32 [N, C], the units of the last stage: their mean over the positions
    """

    values: dict[str, np.ndarray]
    owner: np.ndarray
    units: np.ndarray


def backbone_convolutions(net: nn.Module) -> list[str]:
    """Return the convolutions of an inflated network that come from the image network.

    The new input layer is none of them, and shortcuts are left out: the paper's 16 layers of a
    ResNet-18 are counted so.
    """
    return [name.removesuffix(".weight") for name, role in net.i2p_roles.items()
            if role == "backbone" and name.endswith(".weight") and ".downsample." not in name
            and net.get_parameter(name).ndim > 1]  # fmt: skip


def unit_layer(net: nn.Module) -> str:
    """Return the name of the pooling whose input are the units of the last stage.

    Raises ValueError for a network without global pooling, such as one on points.
    """
    names = [n for n, m in net.named_modules() if isinstance(m, SparseGlobalPool)]
    if not names:
        raise ValueError(f"{type(net).__name__} has no global pooling to tell its last stage by")
    return names[-1]


@torch.inference_mode()
def observe(net: nn.Module, inputs: Iterable[SparseTensor | Tensor], samples: int,
            layers: Sequence[str], units: str, generator: torch.Generator,
            count: int = VALUES) -> Seen:
    """Run a network on batches and keep `count` random elements of each layer, and the units.

    inputs   batches of images [B, 3, H, W] or of clouds, `samples` in all
    layers   names of convolutions; units: name of the last pooling (see `unit_layer`)
    Each sample gives as many elements as the others (give or take one), drawn with replacement
    from all its positions and channels.  The network must be in eval mode.
    Raises ValueError where the batches hold another number of samples.
    """
    shares = torch.full((samples,), count // samples)
    shares[: count % samples] += 1
    drawn: dict[str, list[Tensor]] = {name: [] for name in layers}
    rows: list[Tensor] = []
    done = 0

    def keep(name: str, x: SparseTensor | Tensor, out: SparseTensor | Tensor) -> None:
        drawn[name].append(_elements(out, shares[done : done + len(places)], places))

    with watched(net, layers, keep):
        for x in inputs:
            size = x.sites.batch_size if isinstance(x, SparseTensor) else len(x)
            shape = (size, int(shares.max()))
            places = torch.rand(shape, generator=generator, dtype=torch.float64)
            rows.append(pooled(unit_maps(net, x, units)).float().cpu())
            done += size
    if done != samples:
        raise ValueError(f"expected {samples} samples, got {done}")
    values = {name: torch.cat(parts).numpy() for name, parts in drawn.items()}
    owner = torch.repeat_interleave(torch.arange(samples), shares).numpy()
    return Seen(values, owner, torch.cat(rows).numpy())


@torch.inference_mode()
def unit_maps(net: nn.Module, x: SparseTensor | Tensor, units: str) -> SparseTensor | Tensor:
    """Return the units of the last stage at every position: [B, C, H, W], or on sparse sites."""
    seen: list = []
    with watched(net, [units], lambda name, maps, out: seen.append(maps)):
        net(x)
    return seen[0]


def _elements(out: SparseTensor | Tensor, shares: Tensor, places: Tensor) -> Tensor:
    """Return `shares[b]` elements of sample b at the relative places [B, most] in 0..1."""
    wanted = torch.arange(places.shape[1]) < shares[:, None]
    if not isinstance(out, SparseTensor):
        flat = out.flatten(1)
        index = (places * flat.shape[1]).long().to(out.device)
        return flat.gather(1, index).float().cpu()[wanted]
    order = torch.argsort(out.sites.batch, stable=True)
    counts = out.sites.counts.cpu()
    first = (counts.cumsum(0) - counts)[:, None]
    channels = out.feats.shape[1]
    index = (places * (counts * channels)[:, None]).long()
    site = order[(first + index // channels).to(order.device)]
    return out.feats[site, (index % channels).to(order.device)].float().cpu()[wanted]
