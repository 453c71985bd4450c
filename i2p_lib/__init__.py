"""Image2Point as a library: the public names, loaded on first use."""

from __future__ import annotations

from importlib import import_module

from i2p_lib import torchvision_shim

torchvision_shim.install()  # costs nothing: it only waits for `import torchvision`

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
