"""Images of fractals with their classes, drawn by data_scripts/build_fractals.py and read here."""

from dataclasses import dataclass

import h5py
import numpy as np

from i2p_lib.data.making import made

SPLITS = ("train", "held_out")
_SCRIPT = "data_scripts/build_fractals.py --size 96 --seed 1"  # the seed of the packaged weights
SETS = {
    "fractals": f"{_SCRIPT} --categories 20 --each 10 --held-out 1",
    "fractals_anew": f"{_SCRIPT} --categories 12 --each 20 --held-out 20 --draw-seed 2",
}
"""Set -> how it is made.  Both have the first classes that the packaged fractal weights learned;
the images of "fractals" are the first that the pretraining saw, those of "fractals_anew" none."""


@dataclass(frozen=True)
class FractalImages:
    """One split: images [N, 96, 96] uint8 (0 to 127), labels [N] int64, and how many maps make
    each class.  In "held_out" are shapes that no training image has."""

    images: np.ndarray
    labels: np.ndarray
    maps: tuple[int, ...]


def fractal_images(name: str, split: str, classes: int | None = None) -> FractalImages:
    """Return a split ("train", "held_out") of a set, made in a few seconds where it is not here.

    classes: only the first so many.
    Raises ValueError for an unknown name or split and a damaged file, and as `made` does.
    """
    if name not in SETS or split not in SPLITS:
        raise ValueError(f"expected one of {', '.join(SETS)} and of {', '.join(SPLITS)}, got "
                         f"{name!r}, {split!r}")
    path = made(name, SETS[name]) / "fractals.h5"
    try:
        with h5py.File(path, "r") as file:
            images, labels = file[f"{split}/images"][:], file[f"{split}/labels"][:]
            maps = tuple(len(one) for one in file["categories"].values())[:classes]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove its folder, and it is made "
                         "again") from error
    chosen = labels < len(maps)
    return FractalImages(images[chosen], labels[chosen], maps)
