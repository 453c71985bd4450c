"""Weights that are given by the path of a file instead of a name."""

from pathlib import Path
from typing import Any

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")


def is_path(weights: Any) -> bool:
    """Tell whether weights are given as a file: a Path, or a text with a slash or a file's ending.

    >>> is_path("mine.pth"), is_path("~/runs/mine"), is_path("imagenet1k")
    (True, True, False)
    """
    if isinstance(weights, str):
        return weights.lower().endswith(ENDINGS) or Path(weights).name != weights
    return isinstance(weights, Path)


def placed(weights: Any, folder: Path = Path()) -> Any:
    """Return the path of a file as an absolute one (`~` is home), anything else as it is.

    folder: where a relative path starts; by default the current folder.
    """
    return str((folder / Path(weights).expanduser()).absolute()) if is_path(weights) else weights
