"""What `i2p doctor` looks at: Python, torch, machine, optional engines, data and weights."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import i2p_lib
from i2p_lib.machine import cores, cpu_name, gpu_names, memory_gib

Finding = tuple[str, str, str]
"""A mark ("ok", "note": works without, or "bad"), what was looked at, and what was found."""


def examine(folder: Path) -> list[Finding]:
    """Return the findings on this machine; `folder` is where the disk is measured."""
    return [*_software(), *_hardware(folder), *_backends(), *_inputs()]


def _software() -> Iterator[Finding]:
    yield "ok", "python", platform.python_version()
    try:
        torch, vision = metadata.version("torch"), metadata.version("torchvision")
        pins = " ".join(metadata.requires("torchvision") or ())
    except metadata.PackageNotFoundError as error:
        yield "bad", "torch", f"{error}: make setup"
        return
    yield "ok", "torch", torch
    wanted = re.search(r"\btorch\W*==([\d.]+)", pins)  # its operators fit one torch release only
    paired = wanted is None or torch.split("+")[0] == wanted[1]
    text = vision if paired else f"{vision} fits torch {wanted[1]}, got {torch}: make setup"
    yield "ok" if paired else "bad", "torchvision", text
    first = [sys.executable, "-c", "import torchvision"]
    if paired and subprocess.run(first, capture_output=True).returncode:
        why = "its operators do not fit this torch; run python environment.py shim"
        yield "note", "import order", f"cannot be imported before i2p_lib: {why}"
    elif paired:
        yield "ok", "import order", "can be imported before i2p_lib"


def _hardware(folder: Path) -> Iterator[Finding]:
    yield "ok", "processor", f"{cpu_name()}, {cores()} cores usable"
    memory = memory_gib()
    yield "ok" if memory >= 4 else "note", "memory", f"{memory} GiB (demo wants 4)"
    free = shutil.disk_usage(folder).free / 2**30
    yield "ok" if free >= 2 else "note", "free disk", f"{free:.0f} GiB (demo wants 2)"
    if i2p_lib.temporary_cache:
        yield "note", "compiled code", (
            "is kept for one command only, since neither the package's folder nor the home can be "
            "written: set NUMBA_CACHE_DIR to a folder of yours")  # fmt: skip
    gpus = gpu_names()
    text = ", ".join(gpus) or "none usable by torch; smoke and demo need none"
    yield "ok" if gpus else "note", "GPU", text


def _backends() -> Iterator[Finding]:
    """Say of each optional engine of `sparse.backends` where it computes, or why it cannot."""
    from i2p_lib.sparse.backends import BACKENDS

    for name, backend in BACKENDS.items():
        if problem := backend.problem():
            yield "note", name, f"not usable: {problem}; the book does not need it"
        else:
            formats = ", ".join(str(kind).removeprefix("torch.") for kind in backend.formats)
            where = f"{backend.version()}, usable on {' and '.join(backend.devices())}"
            yield "ok", name, f"{where} in {formats}; the default is torch"


def _inputs() -> Iterator[Finding]:
    from i2p_lib.data import dataset_card, dataset_hash, dataset_names
    from i2p_lib.weights import presence, weight_cards

    for name in dataset_names():
        try:
            yield "ok", name, f"checked, sha256 {dataset_hash(name)[:16]}"
        except FileNotFoundError:
            mark = "bad" if dataset_card(name).embedded else "note"
            yield mark, name, f"absent, looked for in {dataset_card(name).root()}"
        except ValueError as error:
            yield "bad", name, str(error)
    for card in weight_cards():
        state = presence(card)
        if state == "present":
            yield "ok", card.model, f"{card.weights} weights checked"
        elif state == "absent":
            how = f"i2p weights get {card.label}"
            yield "note", card.model, f"weights absent: {how}"
        elif state != "never released":
            yield "bad", card.model, state.removeprefix("damaged: ")
