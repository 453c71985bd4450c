"""What this machine is: processor, memory, GPU and package versions, for provenance and doctor."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pandas", "numba", "matplotlib", "plotly"),
    *("papermill", "jupyter-book"),
)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name, with its family and model in brackets where they are told.

    Processors of one name differ in their instructions, and then in the last bits of sums.
    """
    info = Path("/proc/cpuinfo")
    if info.is_file():
        first = info.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        parts = (line.partition(":") for line in first.splitlines())
        said = {key.strip(): value.strip() for key, _, value in parts}
        if name := said.get("model name"):
            chip = [said[key] for key in ("cpu family", "model") if key in said]
            return f"{name} ({'.'.join(chip)})" if chip else name
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Return the machine's memory in GiB."""
    import psutil

    return round(psutil.virtual_memory().total / 2**30, 1)


def must_fit(size: int, what: str | Path) -> None:
    """Raise ValueError, before any is taken, where so many bytes of memory are not free."""
    import psutil

    if size > (free := psutil.virtual_memory().available):
        raise ValueError(f"{what} would take {size / 2**30:,.1f} GiB of memory, "
                         f"{free / 2**30:,.1f} GiB are free: use a smaller one")  # fmt: skip


def gpu_names() -> list[str]:
    """Return the CUDA devices that torch can use."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def describe_machine() -> dict[str, str | int | float]:
    """Return what a reader needs to judge a time: no host name, no user, no path."""
    return {"processor": cpu_name(), "cores": cores(), "memory_gib": memory_gib(),
            "gpu": ", ".join(gpu_names()) or "none",
            "system": f"{platform.system()} {platform.machine()}"}


def package_versions() -> dict[str, str]:
    """Return the versions that decide results: Python and the main packages."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}
