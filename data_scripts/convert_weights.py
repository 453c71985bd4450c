"""Convert a checkpoint that holds more than tensors to safetensors, trusting only what is named.

The book reads tensors and nothing else.  What --trust names may run while this one file is read;
the new file `PATH.safetensors` can stand in its place, since `.PATH.safetensors.sha256` beside it
keeps the hashes of both.

examples:
  python data_scripts/convert_weights.py nce.pth --trust argparse.Namespace --unwrap state_dict
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _scenes import status_of
from safetensors.torch import save_file

from i2p_lib.files import atomic_write, sha256, write_text
from i2p_lib.weights.files import CONVERTED, pin_of
from i2p_lib.weights.loading import read_checkpoint


def convert(path: Path, trusted: Sequence[Any] = (), unwrap: str | None = None) -> Path:
    """Write the tensors of a checkpoint that `weights_only` refuses to `PATH.safetensors`.

    trusted: the classes or functions, themselves and not their names, that the checkpoint may
    ask for besides tensors; they are allowed for this one reading.  unwrap: the entry that holds
    the tensors; None: found as in a file that is given by its path (`read_checkpoint`).

    Raises ValueError where the checkpoint asks for anything else.
    """
    with torch.serialization.safe_globals(list(trusted)):
        tensors = read_checkpoint(path, unwrap)
    target = path.with_name(path.name + CONVERTED)
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(target) as temp:
        save_file(plain, temp)
    write_text(pin_of(target), f"{sha256(target)} {sha256(path)}\n")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the checkpoint")
    parser.add_argument("--trust", nargs="*", default=[], metavar="NAME",
                        help="what it may ask for besides tensors, such as argparse.Namespace")
    parser.add_argument("--unwrap", help="the entry that holds the tensors (default: looked for)")
    options = parser.parse_args(arguments)

    def work() -> None:
        trusted = [pkgutil.resolve_name(name) for name in options.trust]
        print(f"good: {convert(options.path, trusted, options.unwrap)}")

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
