"""Image2Point as a library: the public names, loaded on first use."""

import os
import sys
from importlib import import_module

from i2p_lib import torchvision_shim

torchvision_shim.install()  # costs nothing: it only waits for `import torchvision`


def _writable(folder: str) -> bool:
    """Tell whether a folder can be written, or made."""
    folder = os.path.abspath(os.path.expanduser(folder))
    while not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def _numba_cache() -> object | None:
    """Give numba a folder for what it compiles where it would find none, and stop; else None.

    It takes $NUMBA_CACHE_DIR, else a folder beside the sources, else one in the user's home.  This
    one goes with the process; those that it starts use it, too.
    """
    home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "numba")
    beside = os.path.join(os.path.dirname(__file__), "sparse", "__pycache__")
    if os.environ.get("NUMBA_CACHE_DIR") or _writable(beside) or _writable(home):
        return None
    from tempfile import TemporaryDirectory

    folder = TemporaryDirectory(prefix="i2p-numba-", ignore_cleanup_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder.name
    if "numba" in sys.modules:  # it has read its settings
        sys.modules["numba"].config.CACHE_DIR = folder.name
    return folder


temporary_cache = _numba_cache()

PUBLIC = {
    "SparseTensor": "i2p_lib.sparse",
    "voxelize": "i2p_lib.sparse",
    "inflate": "i2p_lib.inflation",
    "inflate_weight": "i2p_lib.inflation",
    "REGIMES": "i2p_lib.inflation.regimes",
    "freeze": "i2p_lib.inflation.regimes",
    "image_model": "i2p_lib.weights",
    "load_original": "i2p_lib.models.original",
    "fit": "i2p_lib.train.fit",
    "point_clouds": "i2p_lib.train.clouds",
    "PointClouds": "i2p_lib.data.own",
    "Scenes": "i2p_lib.data.own_scenes",
    "predict": "i2p_lib.train.reading",
    "load_run": "i2p_lib.runs",
    "RunSpec": "i2p_lib.runs.spec",
    "SegmentSpec": "i2p_lib.runs.spec",
    "run": "i2p_lib.runs",
    "run_all": "i2p_lib.runs",
    "open_lab": "i2p_lib.runs.lab",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module 'i2p_lib' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
