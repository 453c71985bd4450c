"""Copying a checked weight file into a network: every tensor of both sides is accounted for."""

import contextlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from i2p_lib.inflation.regimes import chosen
from i2p_lib.machine import must_fit
from i2p_lib.weights.cards import WeightCard
from i2p_lib.weights.files import CONVERTED
from i2p_lib.weights.recognise import seemingly

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Entries of a checkpoint that hold its tensors, as Lightning, timm, MMDetection3D and
torchvision's references write them; what stands beside them is no weight."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What data-parallel training, Lightning and `torch.compile` put before every name."""

MOST_INFLATED = 10  # times the file's size; torch itself packs nothing
# BatchNorm's counter: files of before 2018's BatchNorm lack it, and it is no weight.
_COUNTER = "num_batches_tracked"


def named_tensors(net: nn.Module, card: WeightCard, path: Path) -> dict[str, tuple[str, Tensor]]:
    """Return {name in the network: (name in the file, tensor)} of a file, by its card's rules.

    A file that was given by its path may have a prefix of `PREFIXES` before every name.

    Raises ValueError where the file is not laid out as the card says, see `read_tensors`.
    """
    stored, own = read_tensors(card, path), list(net.state_dict())
    if card.names == "in_order":
        if [name.split(".")[-1] for name in own] != [key.split(".")[-1] for key in stored]:
            raise ValueError(f"{path}: expected {len(own)} tensors in the order of the network's, "
                             f"got {len(stored)} in another one")
        return dict(zip(own, stored.items(), strict=True))
    prefix = common_prefix(stored) if card.path else card.prefix
    odd = [key for key in stored if not key.startswith((prefix, *card.drop))]
    if odd:
        raise ValueError(f"expected every tensor of {card.file_name} to begin with "
                         f"{prefix!r}, got {odd[0]!r}")
    return {key.removeprefix(prefix): (key, value) for key, value in stored.items()}


def common_prefix(names: Iterable[str]) -> str:
    """Return what training put before every one of some names: of `PREFIXES`, or several of them.

    >>> common_prefix(["_orig_mod.module.fc.weight", "_orig_mod.module.fc.bias"])
    '_orig_mod.module.'
    """
    names, prefix = list(names), ""
    while more := [p for p in PREFIXES if all(name.startswith(prefix + p) for name in names)]:
        prefix += more[0]
    return prefix


def transfer(net: nn.Module, card: WeightCard, path: Path, found: Mapping[str, tuple[str, Tensor]],
             weights_except: Sequence[str] = ()) -> pd.DataFrame:
    """Copy the tensors of a checked file into a network, all or nothing.

    found: {name in the network: (name in the file, tensor)}, as from `named_tensors`.
    weights_except: modules or tensors of the network, such as "layer4", that stay as they are,
    whatever the file holds of them.

    Returns what became of every tensor of both, a row each, also kept as `net.i2p_transfer`:
    name, shape           in the network ("" and () where it has none)
    file_key, file_shape  in the file, before any rule was applied ("" and () where it has none)
    state                 copied | new (not in the file, as the card says, or left out by
                          weights_except) | dropped (no place in the network, likewise)
    reason                why, where it was not simply copied

    Raises ValueError where one tensor of either side is not accounted for, has another shape or
    kind, or holds a number that is not finite, and for a name in weights_except under which the
    network has no tensor; the network then stays as it was.
    """
    expected, rows = net.state_dict(), []
    if odd := [one for one in weights_except if not any(chosen(n, (one,)) for n in expected)]:
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in expected))
        raise ValueError(f"weights_except: {card.model} has no tensor under {odd[0]!r}; its parts "
                         f"are {known}, and the parts of those")
    for name in dict.fromkeys([*expected, *found]):
        key, value = found.get(name, ("", None))
        state, reason = _judged(card, name, expected.get(name), value)
        if chosen(name, weights_except):
            state, reason = "new" if name in expected else "dropped", "left out by weights_except"
        rows.append({"name": name if name in expected else "", "file_key": key,
                     "shape": tuple(expected[name].shape) if name in expected else (),
                     "file_shape": () if value is None else tuple(value.shape),
                     "state": state, "reason": reason})
    if faults := [row for row in rows if row["state"] == "refused"]:
        raise ValueError(
            f"{len(faults)} of {len(rows)} tensors of {path.name} do not fit {card.label}: "
            + _listed(faults, {name: tuple(value.shape) for name, (_, value) in found.items()})
        )
    fresh = {row["name"] for row in rows if row["state"] == "new"}
    counters = {n: torch.zeros_like(expected[n]) for n in fresh if n.endswith(_COUNTER)}
    copied = {name: found[name][1] for name in expected.keys() - fresh}
    net.load_state_dict(expected | counters | copied, strict=True)
    net.i2p_transfer = pd.DataFrame(rows)
    return net.i2p_transfer


def _listed(faults: list[dict], stored: Mapping[str, tuple[int, ...]]) -> str:
    """The first faults of each kind with the number of such ones, and what the file seems to be."""
    kinds: dict[str, list[str]] = {}
    for row in faults:
        text = f"{row['name'] or row['file_key']} ({row['reason']})"
        kind = row["reason"].partition(" ")[0].strip(",")
        kinds.setdefault("of another shape" if kind == "shape" else kind, []).append(text)
    text = "; ".join(
        ", ".join(some[:3]) + (f" and {len(some) - 3} more {kind}" if len(some) > 3 else "")
        for kind, some in kinds.items()
    )
    parts = {row["name"].partition(".")[0] for row in faults}
    if len(parts) == 1 and "" not in parts:
        text += f". To leave that part random: weights_except: [{parts.pop()}]"
    return f"{text}. The file is of another network or release{seemingly(stored)}."


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

    The card's `unwrap` alone says where in a checkpoint, except for one given by its path: there
    the tensors may stand in one of `WRAPPERS`.  Raises as `read_checkpoint` does.
    """
    if path.suffix == CONVERTED:
        from safetensors.torch import load_file

        return load_file(path)  # `files.check_file` has opened it before
    return read_checkpoint(path, None if card.path else card.unwrap)


def read_checkpoint(path: Path, unwrap: str | None = "") -> dict[str, Tensor]:
    """Return {name: tensor} of a PyTorch checkpoint.

    unwrap: the entry that holds the tensors; "": the file itself does; None: the only one of
    `WRAPPERS` that is there, else the file itself.

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
            why = str(error).partition("\n")[0].partition("Re-running")[0].strip(". ")
            raise ValueError(f"{path} is not a whole PyTorch checkpoint ({why}): get it anew, or "
                             "save the network's state_dict() with torch.save") from error
        entry = f" --unwrap {unwrap}" if unwrap else ""
        raise ValueError(f"{path} holds more than tensors ({', '.join(names)}), and reading that "
                         "can run code from the file, so it is not read. If you know these names "
                         "and trust them, convert the file once, allowing them and nothing else:\n "
                         f" python data_scripts/convert_weights.py {path} --trust "
                         f"{' '.join(names)}{entry}\nwhich writes "
                         f"{path.name}{CONVERTED}") from error
    if unwrap is None:
        held = [name for name in WRAPPERS if isinstance(stored, Mapping)
                and isinstance(stored.get(name), Mapping)]  # fmt: skip
        if len(held) > 1:
            raise ValueError(f"{path}: expected the tensors in one of {list(WRAPPERS)}, got "
                             f"{held}: save the one that you mean by itself")
        unwrap = "".join(held)
    where, entries = f"entry {unwrap!r}" if unwrap else "top level", type(stored).__name__
    if isinstance(stored, Mapping):
        entries, stored = list(stored)[:6], stored.get(unwrap) if unwrap else stored
    if not isinstance(stored, Mapping) or not stored:
        raise ValueError(f"{path}: expected a mapping of names to tensors at its {where}, got the "
                         f"entries {entries}")
    odd = [key for key, value in stored.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{path}: expected tensors and nothing else at its {where}, got {odd[:3]} "
                         f"of the entries {entries}. Expected is a state_dict, by itself or where "
                         "the card of these weights says; in a file of your own it may be one of "
                         f"the entries {list(WRAPPERS)}")
    return dict(stored)
