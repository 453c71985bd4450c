"""The golden files, and the original's names, tap orders and weights beside ours."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from i2p_lib.models.original import original_name
from i2p_lib.sparse import SparseTensor

DATA = Path(__file__).parent / "data"
MISSING = float("inf")  # the difference of arrays of different shapes


@cache
def golden(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a golden file, read as they are asked for."""
    return np.load(DATA / f"{name}.npz", allow_pickle=False)


def tensor(name: str, key: str) -> Tensor:
    """An array of a golden file as a tensor."""
    return torch.from_numpy(golden(name)[key])


def apart(ours, theirs) -> float:
    """The largest difference, as a part of their largest value; infinite for other shapes."""
    ours, theirs = (a.detach().double() if isinstance(a, Tensor)
                    else torch.from_numpy(np.array(a, np.float64)) for a in (ours, theirs))
    if ours.shape != theirs.shape:
        return MISSING
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300))


def unlike(ours, theirs) -> float:
    """How many rows are not the same to the bit, those that one of them lacks included."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    common = min(len(ours), len(theirs))
    same = (ours[:common] == theirs[:common]).reshape(common, -1).all(1).sum()
    return max(len(ours), len(theirs)) - float(same)


def only_in_one(ours: Tensor, theirs: Tensor) -> float:
    """How many rows of integers are in one of two sets alone."""
    one, other = ({tuple(row) for row in rows.long().tolist()} for rows in (ours, theirs))
    return float(len(one ^ other))


def our_name(name: str, unet: bool = False) -> str:
    """Our name of a tensor of a network of the original."""
    if ours := original_name(name, unet):
        return ours
    raise ValueError(f"{name!r} has no twin")


@cache
def _order(taps: int) -> tuple[int, ...]:
    """The original's tap at each of our places, which run row-major through (x, y, z)."""
    side = {1: 1, 8: 2, 27: 3}[taps]
    if side == 1:
        return (0,)
    offsets = golden("02_offsets_strides")[f"offset_k{side}_stride1"].tolist()
    return tuple(sorted(range(taps), key=offsets.__getitem__))


def our_taps(kernel: Tensor) -> Tensor:
    """A kernel [K, C_in, C_out] (or [C_in, C_out]) of the original in our order of taps."""
    kernel = kernel if kernel.ndim == 3 else kernel[None]
    return kernel[list(_order(len(kernel)))]


def their_taps(weight: Tensor) -> Tensor:
    """The reverse of `our_taps`."""
    return weight[np.argsort(_order(len(weight))).tolist()] if len(weight) > 1 else weight[0]


def our_sites(coords: Tensor, stride: int = 1) -> Tensor:
    """(x, y, z, batch) in input voxels to (batch, x, y, z) in cells of a stride, int64."""
    coords = coords.long()
    return torch.cat([coords[:, 3:], coords[:, :3].div(stride, rounding_mode="floor")], 1)


def in_order(coords: Tensor, feats: Tensor) -> Tensor:
    """Rows sorted by their site."""
    return feats[np.lexsort(coords.numpy().T[::-1]).tolist()]


def voxels(coords: Tensor, feats: Tensor) -> SparseTensor:
    """The original's coordinates and features as our sparse tensor, rows in their order."""
    return SparseTensor(feats, our_sites(coords))


@lru_cache(maxsize=1)
def closed_form(file: str) -> dict[str, Tensor]:
    """{original name: float64 tensor} of the rule of weights in the README, for a file's names."""
    made = {}
    for i, (name, text) in enumerate(zip(*map(golden(file).get, ("names", "shapes")), strict=True)):
        shape = ast.literal_eval(str(text))
        n = np.arange(int(np.prod(shape)))
        s = np.sin(((7919 * n) % 10007) * 0.37 + i).reshape(shape)
        if name.endswith("kernel"):
            s = s / np.sqrt(np.prod(shape[:-1]))
        elif len(shape) == 2:
            s = s / np.sqrt(shape[1])
        else:
            s = 1 + 0.1 * s if name.endswith("weight") else 0.1 * s
        made[str(name)] = torch.from_numpy(s)
    return made


def load_closed_form(net: nn.Module, file: str, name_of=our_name) -> nn.Module:
    """Give a network the closed-form weights and fresh statistics, in float64.

    Raises RuntimeError where a tensor has no place or another shape.
    """
    net.double()
    state = net.state_dict()
    for name, value in closed_form(file).items():
        state[name_of(name)] = our_taps(value) if name.endswith("kernel") else value
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.zero_()
        elif name.endswith("running_var"):
            value.fill_(1)
    net.load_state_dict(state, strict=True)
    return net
