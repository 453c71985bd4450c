"""Copying a checked weight file into a network: every tensor of both sides is accounted for."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.machine import must_fit
from i2p_lib.weights.cards import WeightCard
from i2p_lib.weights.files import CONVERTED

MOST_INFLATED = 10  # times the file's size; torch itself packs nothing
# BatchNorm's counter: files of before 2018's BatchNorm lack it, and it is no weight.
_COUNTER = "num_batches_tracked"


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


def transfer(net: nn.Module, card: WeightCard, path: Path,
             found: Mapping[str, tuple[str, Tensor]]) -> pd.DataFrame:  # fmt: skip
    """Copy the tensors of a checked file into a network, all or nothing.

    found: {name in the network: (name in the file, tensor)}, as from `named_tensors`.

    Returns what became of every tensor of both, a row each, also kept as `net.i2p_transfer`:
    name, shape           in the network ("" and () where it has none)
    file_key, file_shape  in the file, before any rule was applied ("" and () where it has none)
    state                 copied | new (not in the file, as the card says) | dropped (no place in
                          the network, as the card says)
    reason                why, where it was not simply copied

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
    net.i2p_transfer = pd.DataFrame(rows)
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

    The card's `unwrap` alone says where in a checkpoint; raises as `read_checkpoint` does.
    """
    if path.suffix == CONVERTED:
        from safetensors.torch import load_file

        return load_file(path)  # `files.check_file` has opened it before
    return read_checkpoint(path, card.unwrap)


def read_checkpoint(path: Path, unwrap: str = "") -> dict[str, Tensor]:
    """Return {name: tensor} of a PyTorch checkpoint; unwrap: the entry that holds the tensors.

    Raises ValueError where the file holds more than `weights_only` reads, or something else than
    tensors at that place, and, before it is unpacked, where it says that it becomes far larger.
    """
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as file:
        whole = sum(part.file_size for part in file.infolist())
        if whole > MOST_INFLATED * (size := path.stat().st_size):
            raise ValueError(f"{path}: its {size / 2**20:,.1f} MiB say that they unpack to "
                             f"{whole / 2**20:,.0f} MiB, which no weights do: get it again")
        must_fit(whole, path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        names = re.findall(r"GLOBAL ([\w.]+) was not an allowed global", str(error))[:1]
        with contextlib.suppress(Exception):  # of files of before torch 1.6 the first one is known
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        if not names:
            raise ValueError(f"{path} is not a whole PyTorch checkpoint: {error}") from error
        entry = f" --unwrap {unwrap}" if unwrap else ""
        raise ValueError(
            f"{path} holds more than tensors ({', '.join(names)}), and reading that can run code "
            "from the file, so it is not read. If you know these names and trust them, convert "
            "the file once, allowing them and nothing else:\n"
            f"  python data_scripts/convert_weights.py {path} --trust {' '.join(names)}{entry}"
        ) from error
    where, entries = f"entry {unwrap!r}" if unwrap else "top level", type(stored).__name__
    if isinstance(stored, Mapping):
        entries, stored = list(stored)[:6], stored.get(unwrap) if unwrap else stored
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
