"""torchvision beside any torch: what must happen before the first `import torchvision`."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path

import torch

# The two operators that torchvision registers unguarded while it is imported (0.26 to 0.28).
_UNGUARDED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A torch.library.Library withdraws its declarations when it is collected, so it lives here.
_kept_alive: list[torch.library.Library] = []


@functools.cache
def ensure_torchvision() -> bool:
    """Make `import torchvision` work; return True where its compiled operators are there.

    PyPI's torchvision wheels for Linux are CUDA builds.  Beside a CPU build of torch their
    operators cannot load, and the import ends with "operator torchvision::nms does not exist".
    Declaring the two operators' schemas first is enough: models, transforms and weight listings
    then work, and only calls such as `torchvision.ops.nms` stay unavailable (return value False).

    Nothing is declared where the compiled operators load, and torchvision itself is not imported.
    Call this before any package that imports torchvision (timm does).

    Raises ModuleNotFoundError where torchvision is not installed.
    """
    if "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "torchvision is not installed; it holds the image models. Install the release that "
            f"pairs with torch {torch.__version__}: pip install --no-deps torchvision"
        )
    # Windows and macOS wheels are CPU builds, and Windows needs torchvision's own DLL folders.
    if sys.platform != "linux" or _compiled_operators_load(Path(spec.origin).parent):
        return True
    library = torch.library.Library("torchvision", "DEF")
    for name in _UNGUARDED:
        library.define(name + _SCHEMA)
    _kept_alive.append(library)
    return False


def _compiled_operators_load(package: Path) -> bool:
    """Return whether one of the package's `_C` libraries loads; loading it twice does no harm."""
    for path in sorted(package.glob("_C*.so")):
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return True
    return False
