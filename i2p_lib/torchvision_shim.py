"""torchvision beside any torch: what must happen just before `import torchvision`, and only then.

PyPI's torchvision wheels for Linux are CUDA builds.  Beside a CPU build of torch their operators
cannot load, and the import ends with "operator torchvision::nms does not exist".  Declaring the
two operators' schemas first is enough: models, transforms and weight listings then work, and only
calls such as `torchvision.ops.nms` stay unavailable.

`environment.py install` puts a copy of this file and a .pth file beside the installed packages,
so that every interpreter of the environment has it, whatever it imports first; `i2p_lib` calls
`install` itself for those who installed it in another way.  Nothing but `sys` is imported here,
because every start of Python waits for it.
"""

import sys

# The two operators that torchvision registers unguarded while it is imported (0.26 to 0.28).
_UNGUARDED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A torch.library.Library withdraws its declarations when it is collected, so it lives here.
_kept_alive: list[object] = []


class TorchvisionFinder:
    """A finder on sys.meta_path: it finds nothing but torchvision, and where `PathFinder` does."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object | None:
        """Return torchvision's own spec, whose loader declares the operators first; else None."""
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations:
            run = spec.loader.exec_module

            def declare_and_run(module: object) -> None:
                _declare_operators(spec.submodule_search_locations[0])
                run(module)

            spec.loader.exec_module = declare_and_run
        return spec


def install() -> None:
    """Let the next `import torchvision` of this interpreter work.  Imports nothing.

    Does nothing where it was done before, or torchvision is there.  Windows and macOS wheels are
    CPU builds, so there is nothing to do there.
    """
    there = any(getattr(f, "__name__", "") == TorchvisionFinder.__name__ for f in sys.meta_path)
    if sys.platform == "linux" and "torchvision" not in sys.modules and not there:
        sys.meta_path.insert(0, TorchvisionFinder)


def _declare_operators(package: str) -> None:
    """Declare the operators, unless the compiled ones in the package's folder load."""
    from pathlib import Path

    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return
    for path in sorted(Path(package).glob("_C*.so")):
        try:
            torch.ops.load_library(path)  # loading it twice does no harm
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _UNGUARDED:
        library.define(name + _SCHEMA)
    _kept_alive.append(library)
