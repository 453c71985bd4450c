"""Copying a checked weight file into a network: every tensor of both sides is accounted for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
class TransferReport:
    """What became of every tensor of the file and of the network (`net.i2p_transfer`).

    table has one row per tensor:
    name, shape           in the network ("" and () where it has none)
    file_key, file_shape  in the file, before any rule was applied ("" and () where it has none)
    state                 copied | new (not in the file, as the card says) | dropped (no place in
                          the network, as the card says)
    reason                why, where it was not simply copied
    """

    card: WeightCard
    path: Path
    sha256: str
    table: pd.DataFrame


def named_tensors(net: nn.Module, card: WeightCard, path: Path) -> dict[str, tuple[str, Tensor]]:
    """Return {name in the network: (name in the file, tensor)} of a file, by its card's rules.

    Raises ValueError where the file is not laid out as the card says, see `read_tensors`.
    """
    stored, own = read_tensors(card, path), list(net.state_dict())
    if card.names == "in_order":
        if [name.split(".")[-1] for name in own] != [key.split(".")[-1] for key in stored]:
            raise ValueError(f"{path}: expected {len(own)} tensors in the order of the network's, "
                             f"got {len(stored)} in another one")
        return dict(zip(own, stored.items(), strict=True))
    odd = [key for key in stored if not key.startswith((card.prefix, *card.drop))]
    if odd:
        raise ValueError(f"expected every tensor of {card.file_name} to begin with "
                         f"{card.prefix!r}, got {odd[0]!r}")
    return {key.removeprefix(card.prefix): (key, value) for key, value in stored.items()}


def transfer(net: nn.Module, card: WeightCard, path: Path, digest: str,
             found: Mapping[str, tuple[str, Tensor]]) -> TransferReport:  # fmt: skip
    """Copy the tensors of a checked file into a network, all or nothing.

    found: {name in the network: (name in the file, tensor)}, as from `named_tensors`.

    Raises ValueError where one tensor of either side is not accounted for, has another shape or
    kind, or holds a number that is not finite; the network then stays as it was.
    """
    expected, rows = net.state_dict(), []
    for name in dict.fromkeys([*expected, *found]):
        key, value = found.get(name, ("", None))
        state, reason = _judged(card, name, expected.get(name), value)
        rows.append({
            "name": name if name in expected else "", "file_key": key,
            "shape": tuple(expected[name].shape) if name in expected else (),
            "file_shape": () if value is None else tuple(value.shape),
            "state": state, "reason": reason,
        })  # fmt: skip
    faults = [f"{row['name'] or row['file_key']} ({row['reason']})" for row in rows
              if row["state"] == "refused"]  # fmt: skip
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(rows)} tensors of {path.name} do not fit {card.label}: "
            f"{', '.join(faults[:5])}. The file is of another network or release."
        )
    fresh = {row["name"] for row in rows if row["state"] == "new"}
    counters = {n: torch.zeros_like(expected[n]) for n in fresh if n.endswith(_COUNTER)}
    copied = {name: found[name][1] for name in expected.keys() - fresh}
    net.load_state_dict(expected | counters | copied, strict=True)
    net.i2p_transfer = TransferReport(card, path, digest, pd.DataFrame(rows))
    return net.i2p_transfer


def _judged(card: WeightCard, name: str, own: Tensor | None, value: Tensor | None
            ) -> tuple[str, str]:  # fmt: skip
    """State and reason of a tensor of the network, of the file, or of both."""
    if own is None:
        if name.startswith(card.drop):
            return "dropped", "the network has no such layer"
        return "refused", "unexpected, not in the network"
    if value is None:
        if name.endswith(_COUNTER):
            return "new", "BatchNorm's counter starts at zero"
        if name.startswith(card.fresh):
            return "new", "the file has no such layer"
        return "refused", "missing in the file"
    if value.shape != own.shape:
        return "refused", f"shape {list(value.shape)}, expected {list(own.shape)}"
    if value.is_floating_point() != own.is_floating_point():
        return "refused", f"{value.dtype}, expected {own.dtype}"
    if value.is_floating_point() and not bool(value.isfinite().all()):
        return "refused", "holds numbers that are not finite"
    return "copied", "" if value.dtype == own.dtype else f"from {value.dtype} to {own.dtype}"


def read_tensors(card: WeightCard, path: Path) -> dict[str, Tensor]:
    """Return {name in the file: tensor} of a .safetensors file or a PyTorch checkpoint.

    Nothing but tensors is read, and the card's `unwrap` alone says where in the checkpoint.
    Raises ValueError where the file holds more than `weights_only` reads, or is laid out
    differently than the card says.
    """
    if path.suffix == CONVERTED:
        from safetensors.torch import load_file

        return load_file(path)  # `files.check_file` has opened it before
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
    where, entries = "top level", type(stored).__name__
    if isinstance(stored, Mapping):
        entries = list(stored)[:6]
        if unwrap:
            where, stored = f"entry {unwrap!r}", stored.get(unwrap)
    if not isinstance(stored, Mapping) or not stored:
        raise ValueError(f"{path}: expected a mapping of names to tensors at its {where}, got the "
                         f"entries {entries}")
    odd = [key for key, value in stored.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f"{path}: expected tensors and nothing else at its {where}, got {odd[:3]} of the "
            f"entries {entries}. The card of these weights states another layout"
        )
    return dict(stored)


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
