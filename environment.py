"""The Python environment: which Python and torch the book runs on, and installing its packages.

`install` also lets torchvision be imported first beside any torch, see
i2p_lib/torchvision_shim.py; that part alone is `shim`, for an environment that was made in
another way.

Run as a script by the Makefile before anything is installed, so it imports the standard library
only and stays readable for old Pythons, which get a clear message instead of a syntax error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

PYTHON_RANGE = ((3, 11), (3, 13))
TORCH = "2.13.0"
# torchvision's compiled operators fit one torch release only
TORCHVISION_FOR = {
    "2.11.0": "0.26.0",
    "2.12.0": "0.27.0",
    "2.12.1": "0.27.1",
    "2.13.0": "0.28.0",
}
LOCK = "requirements.lock"
ROOT = Path(__file__).resolve().parent
SHIM = ROOT / "i2p_lib" / "torchvision_shim.py"
SHIM_NAME = "_image2point_torchvision"


def python_problem(version: tuple[int, int]) -> str | None:
    """Return why this Python does not fit, or None where it does."""
    lowest, highest = PYTHON_RANGE
    if lowest <= tuple(version[:2]) <= highest:
        return None
    return (
        f"this is Python {version[0]}.{version[1]}; the book needs Python "
        f"{lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}. "
        "Name one, for example: make book PYTHON=python3.12"
    )


def torchvision_for(torch_version: str) -> str | None:
    """Return the torchvision that pairs with a torch version, None where that torch does not fit.

    >>> torchvision_for("2.13.0+cpu")
    '0.28.0'
    """
    return TORCHVISION_FOR.get(torch_version.split("+")[0])


def installed_version(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def shim_files(folder: Path | None = None) -> dict[Path, str]:
    """Return {path: content} of the start-up shim of torchvision: a module, and its .pth file.

    Python's `site` runs the .pth file's line at each start, also under `python -I` and in the
    kernels of JupyterLab, but not under `python -S`.  Deleting the two files removes the shim.
    folder: where packages are installed, this Python's own by default.
    """
    folder = folder or Path(sysconfig.get_paths()["purelib"])
    return {
        folder / f"{SHIM_NAME}.py": SHIM.read_text(encoding="utf-8"),
        folder / f"{SHIM_NAME}.pth": f"import {SHIM_NAME}; {SHIM_NAME}.install()\n",
    }


def write_shim(folder: Path | None = None) -> None:
    """Install the shim, or bring it up to date; the module is there before the line that asks it.

    Raises OSError where the folder cannot be written.
    """
    for path, text in shim_files(folder).items():
        temp = path.with_name(f"{path.name}.{os.getpid()}.part")
        temp.write_text(text, encoding="utf-8")
        os.replace(temp, path)


def has_shim(folder: Path | None = None) -> bool:
    """Return whether the shim is installed as this version of the book has it."""
    files = shim_files(folder)
    return all(p.is_file() and p.read_text(encoding="utf-8") == t for p, t in files.items())


def install(root: Path) -> None:
    """Install torch where no suitable one is there, its torchvision, the lock and the package.

    Runs pip of the Python that runs this.  Raises CalledProcessError where pip fails, OSError
    where the shim cannot be written.
    """
    torch = installed_version("torch")
    if torch is None or torchvision_for(torch) is None:
        print(f"set-up: installing torch {TORCH} (found {torch or 'none'}); "
              "this takes a few minutes", flush=True)  # fmt: skip
        _pip("install", f"torch=={TORCH}")
        torch = TORCH
    vision = torchvision_for(torch)
    if (installed_version("torchvision") or "").split("+")[0] != vision:
        _pip("install", "--no-deps", f"torchvision=={vision}")
    print(f"set-up: torch {torch}, torchvision {vision}; installing the packages of {LOCK}",
          flush=True)  # fmt: skip
    _pip("install", "--no-deps", "-r", str(root / LOCK))
    _pip("install", "--no-deps", "--no-build-isolation", "--editable", str(root))
    write_shim()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True)


def main(arguments: list[str]) -> int:
    """`check`: is this Python suitable?  `install`: everything into it.  `shim`: only the shim."""
    problem = python_problem(sys.version_info[:2])
    if problem or arguments not in (["check"], ["install"], ["shim"]):
        print(problem or "usage: environment.py check|install|shim", file=sys.stderr)
        return 2
    try:
        if arguments == ["install"]:
            install(ROOT)
        elif arguments == ["shim"]:
            write_shim()
    except subprocess.CalledProcessError as error:
        print(f"set-up stopped: {' '.join(error.cmd[1:])}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"set-up stopped: {error}; use an environment that you can write to", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
