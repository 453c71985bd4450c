"""Copying a checked weight file into a network: every tensor of both sides is accounted for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.files import atomic_write, sha256
from i2p_lib.weights.cards import WeightCard
from i2p_lib.weights.files import CONVERTED, ORIGIN

# BatchNorm's counter: files of before 2018's BatchNorm lack it, and it is no weight.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a transfer.

    name, shape           in the network ("" and () where it has none)
    file_key, file_shape  in the file, before any rule was applied ("" and () where it has none)
    state                 copied | new (not in the file, as the card says) | dropped (no place in
                          the network, as the card says) | refused
    reason                why, where it was not simply copied
    """

    name: str
    file_key: str
    shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    state: str
    reason: str = ""


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor of the file and of the network (`net.i2p_transfer`)."""

    card: WeightCard
    path: Path
    sha256: str
    rows: tuple[TensorRow, ...]

    @property
    def table(self) -> pd.DataFrame:
        """One line per tensor: name, file_key, shape, file_shape, state, reason."""
        return pd.DataFrame([vars(row) for row in self.rows])

    @property
    def faults(self) -> tuple[TensorRow, ...]:
        """The refused rows; empty after a good transfer."""
        return tuple(row for row in self.rows if row.state == "refused")


def transfer(net: nn.Module, card: WeightCard, path: Path, digest: str) -> TransferReport:
    """Copy a file's tensors (`files.verified`) into a network by its card's rules, all or nothing.

    Raises ValueError where one tensor of either side is not accounted for, has another shape or
    kind, or holds a number that is not finite; the network then stays as it was.
    """
    stored = read_tensors(card, path)
    keys = {_target_name(card, key, net): key for key in stored}
    if len(keys) != len(stored):
        twice = sorted(set(stored) - set(keys.values()))
        raise ValueError(f"{path}: {twice[:3]} get the same name as other tensors of the file")
    values = {name: stored[key] for name, key in keys.items()}
    expected = net.state_dict()
    rows = [_row(card, name, tensor, keys.get(name), values) for name, tensor in expected.items()]
    rows += [_left_over(card, name, keys[name], values[name])
             for name in values if name not in expected]  # fmt: skip
    report = TransferReport(card, path, digest, tuple(rows))
    if report.faults:
        first = ", ".join(f"{row.name or row.file_key} ({row.reason})" for row in report.faults[:5])
        raise ValueError(
            f"{len(report.faults)} of {len(rows)} tensors of {path.name} do not fit {card.label}: "
            f"{first}. The file is of another network or release."
        )
    copied = {row.name: values[row.name] for row in rows if row.state == "copied"}
    kept = {row.name: expected[row.name] for row in rows if row.state == "new"}
    kept |= {name: torch.zeros_like(t) for name, t in kept.items() if name.endswith(_COUNTER)}
    net.load_state_dict(copied | kept, strict=True)
    return report


def tensor_table(net: nn.Module) -> pd.DataFrame:
    """Return what became of each tensor of the file in this network, be it 2D or inflated.

    One row per tensor: name, file_key, shape (in the network), file_shape, state (copied,
    inflated, new or dropped), reason.  `net` is what `image_model` returned with weights, or what
    `inflate` made of it; ValueError where it carries no transfer report.
    """
    report = getattr(net, "i2p_transfer", None)
    if report is None:
        raise ValueError("this network was built without a weight file, so nothing was copied")
    if not hasattr(net, "i2p_report"):
        return report.table
    new = set(net.i2p_report.query("action == 'new'")["layer"])
    inflated = set(net.i2p_report.query("action == 'inflated'")["layer"])
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    why, rows = "the layer is new on points", []
    for row in report.rows:
        layer, _, kind = row.name.rpartition(".")
        if layer in new and row.file_key:
            rows.append(replace(row, name="", shape=(), state="dropped", reason=why))
            continue
        is_filter = row.state == "copied" and layer in inflated and kind == "weight"
        state = "inflated" if is_filter else row.state
        rows.append(replace(row, shape=shapes.get(row.name, row.shape), state=state))
    named = {row.name for row in rows}
    rows += [TensorRow(name, "", shapes[name], (), "new", why)
             for name in shapes if name not in named]  # fmt: skip
    return replace(report, rows=tuple(rows)).table


def _row(
    card: WeightCard, name: str, tensor: Tensor, key: str | None, values: Mapping[str, Tensor]
) -> TensorRow:
    """Judge one tensor of the network."""
    shape = tuple(tensor.shape)
    if key is None:
        if name.endswith(_COUNTER):
            return TensorRow(name, "", shape, (), "new", "BatchNorm's counter starts at zero")
        if name.startswith(card.fresh):
            return TensorRow(name, "", shape, (), "new", "the file has no such layer")
        return TensorRow(name, "", shape, (), "refused", "missing in the file")
    value = values[name]
    found, state = tuple(value.shape), "refused"
    if found != shape:
        reason = f"shape {list(found)}, expected {list(shape)}"
    elif value.is_floating_point() != tensor.is_floating_point():
        reason = f"{value.dtype}, expected {tensor.dtype}"
    elif value.is_floating_point() and not bool(value.isfinite().all()):
        reason = "holds numbers that are not finite"
    else:
        state = "copied"
        reason = "" if value.dtype == tensor.dtype else f"from {value.dtype} to {tensor.dtype}"
    return TensorRow(name, key, shape, found, state, reason)


def _left_over(card: WeightCard, name: str, key: str, value: Tensor) -> TensorRow:
    """Judge one tensor of the file that the network does not have."""
    shape = tuple(value.shape)
    if name.startswith(card.drop):
        return TensorRow("", key, (), shape, "dropped", "the network has no such layer")
    return TensorRow("", key, (), shape, "refused", "unexpected, not in the network")


def read_tensors(card: WeightCard, path: Path) -> dict[str, Tensor]:
    """Return {name in the file: tensor} of a .safetensors file or a PyTorch checkpoint.

    Nothing but tensors is read, and the card's `unwrap` alone says where in the checkpoint.
    Raises ValueError where the file holds more than `weights_only` reads, or is laid out
    differently than the card says.
    """
    if path.suffix == CONVERTED:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return _unwrapped(_unpickled(path), card.unwrap, path)


def _unpickled(path: Path) -> Any:
    """Read a checkpoint with `weights_only=True`, or say what keeps it from being read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        names = re.findall(r"GLOBAL ([\w.]+) was not an allowed global", str(error))[:1]
        with contextlib.suppress(Exception):  # of files of before torch 1.6 the first one is known
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        if not names:
            raise ValueError(f"{path} is not a whole PyTorch checkpoint: {error}") from error
        listed = ", ".join(names)
        raise ValueError(
            f"{path} holds more than tensors ({listed}), and reading that can run code from the "
            "file, so it is not read. If you know these names and trust them, convert the file "
            "once, allowing them and nothing else:\n"
            f"  from i2p_lib.weights import convert_checkpoint\n"
            f"  convert_checkpoint({str(path)!r}, trusted=[{listed}], unwrap=...)"
        ) from error


def _unwrapped(stored: Any, unwrap: str, path: Path) -> dict[str, Tensor]:
    entries = list(stored)[:6] if isinstance(stored, Mapping) else type(stored).__name__
    if unwrap:
        if not isinstance(stored, Mapping) or unwrap not in stored:
            raise ValueError(
                f"{path}: expected the tensors in its entry {unwrap!r}, got the entries {entries}"
            )
        stored = stored[unwrap]
    where = f"entry {unwrap!r}" if unwrap else "top level"
    if not isinstance(stored, Mapping) or not stored:
        raise ValueError(f"{path}: expected a mapping of names to tensors at its {where}")
    odd = [key for key, value in stored.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f"{path}: expected tensors and nothing else at its {where}, got {odd[:3]} of the "
            f"entries {entries}. The card of these weights states another layout"
        )
    return dict(stored)


def _target_name(card: WeightCard, key: str, net: nn.Module) -> str:
    """Return a tensor's name in the network: the card's prefix removed, its names translated."""
    if card.prefix and not key.startswith(card.prefix):
        if key.startswith(card.drop):
            return key
        raise ValueError(
            f"expected every tensor of {card.file_name} to begin with {card.prefix!r}, got {key!r}"
        )
    name = key.removeprefix(card.prefix)
    if card.names == "efficientnet_lite":
        return lite_key(name, [len(stage) for stage in net.blocks])
    return name


def lite_key(key: str, depths: list[int]) -> str:
    """Translate a key of the EfficientNet-Lite files to timm's name for the same tensor.

    The files number the blocks through (`_blocks.4`), timm counts per stage (`blocks.2.1`);
    depths holds the number of blocks of each stage.  A block without expansion (those of the
    first stage) has no `_expand_conv`, so timm counts its norms from the depthwise one.

    >>> lite_key("_blocks.1._expand_conv.weight", [1, 2])
    'blocks.1.0.conv_pw.weight'
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
             "_fc": "classifier"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
             "_bn2": "bn2"}  # fmt: skip
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
                 "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    part, _, rest = key.partition(".")
    if part != "_blocks":
        return f"{outer.get(part, part)}.{rest}"
    number, layer, tensor = rest.split(".")
    stage, block = 0, int(number)
    while stage < len(depths) and block >= depths[stage]:
        block -= depths[stage]
        stage += 1
    names = plain if stage == 0 else expanding
    return f"blocks.{stage}.{block}.{names.get(layer, layer)}.{tensor}"


def convert_checkpoint(path: str | Path, trusted: Sequence[Any] = (), unwrap: str = "") -> Path:
    """Write the tensors of a checkpoint that `weights_only` refuses to `PATH.safetensors`.

    trusted: the classes or functions, themselves and not their names, that the checkpoint may
    ask for besides tensors; they are allowed for this one reading.  unwrap: the entry that holds
    the tensors.  The new file remembers the hash of the old one, so it can stand in its place.

    Raises ValueError where the checkpoint asks for anything else.
    """
    path = Path(path)
    with torch.serialization.safe_globals(list(trusted)):
        tensors = _unwrapped(_unpickled(path), unwrap, path)
    from safetensors.torch import save_file

    target = path.with_name(path.name + CONVERTED)
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(target) as temp:
        save_file(plain, temp, metadata={ORIGIN: sha256(path)})
    return target
