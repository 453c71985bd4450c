"""Arrays of an HDF5 file that somebody else wrote: judged by what it declares, then read."""

from pathlib import Path

import h5py
import numpy as np

from i2p_lib.machine import must_fit


def read_arrays(path: Path, names: tuple[str, ...], again: str) -> list[np.ndarray]:
    """Return arrays of an HDF5 file as they are stored there.

    again: what to do where the file is cut short.  Raises ValueError, naming file and array, where
    it is no such file, lacks one, or has a group, no numbers, a link to another file or more than
    the free memory in its place.
    """
    try:
        with h5py.File(path, "r") as file:
            return [_judged(file, name, path)[()] for name in names]
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole HDF5 file ({path.stat().st_size} bytes; {error}) "
                         f"with {' and '.join(map(repr, names))}; it may be cut short: "
                         f"{again}") from error


def _judged(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    where = f"{path}: {name!r}"
    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{where}: expected the array itself, got a link to {link.filename}")
    array = file[name]
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"{where}: expected an array, got a group of {list(array)[:5]}")
    if array.external or array.is_virtual or array.file.filename != file.filename:
        raise ValueError(f"{where}: expected the array itself, its numbers lie in another file")
    if array.shape is None or array.dtype.kind not in "fiub":
        raise ValueError(f"{where}: expected numbers, got {array.shape} {array.dtype}")
    must_fit(array.nbytes, where)
    return array
