"""Build a database of fractal images in the manner of FractalDB (fractals.py).

Contract: from a seed and the sizes below the script writes one folder with

    fractals.h5        train/images, held_out/images [N, S, S] uint8 (0 to 127), train/labels,
                       held_out/labels [N] int64; categories/00000 ... the maps [M, 6] float64 of
                       each category, with its fill rate; the settings as attributes
    contact_sheet.png  training instances of some categories, for the eye

Held-out images use weights of the parameters that no training image has.
The same settings give the same images.  One core draws about 15,000 images of 96 pixels a minute;
the search takes about 0.4 s a category.

Examples:
    python data_scripts/build_fractals.py --output fractals
    python data_scripts/build_fractals.py --output tiny --categories 5 --each 20 --size 32
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np
from fractals import (
    FILL_RATE,
    SPLITS,
    Category,
    find_categories,
    fractal_image,
    fractal_images,
)
from tqdm.auto import tqdm

from i2p_lib.files import atomic_write

SHEET_ROWS, SHEET_COLUMNS = 14, 10


def build(
    output: Path, categories: int, each: dict[str, int], size: int, seed: int,
    fill_rate: float = FILL_RATE, draw_seed: int | None = None,
) -> None:  # fmt: skip
    """Write the folder: `each` split's instances of every category, at `size` pixels.

    draw_seed: that of the instances, where it is not that of the categories.

    Raises ValueError for settings out of range, before anything is written.
    """
    if any(each[split] < 1 for split in SPLITS):
        raise ValueError(f"expected one instance or more of every category, got {each}")
    found = find_categories(categories, seed, fill_rate, progress=True)
    drawn = seed if draw_seed is None else draw_seed
    fractal_image(found, 0, 0, size, drawn)  # refuses a size before the file is begun
    settings = {"seed": seed, "size": size, "least_fill_rate": fill_rate}
    settings |= {} if draw_seed is None else {"draw_seed": draw_seed}
    with atomic_write(output / "fractals.h5") as temp, h5py.File(temp, "w") as file:
        file.attrs.update(settings)
        for label, category in enumerate(found):
            stored = file.create_dataset(f"categories/{label:05d}", data=category.maps)
            stored.attrs["fill_rate"] = category.fill_rate
        for split in SPLITS:
            _write_split(file, found, each[split], size, drawn, split)
    _write_sheet(output / "contact_sheet.png", found, size, drawn)


def _write_split(
    file: h5py.File, found: list[Category], each: int, size: int, seed: int, split: str
) -> None:
    total = each * len(found)
    images = file.create_dataset(
        f"{split}/images", (total, size, size), np.uint8, chunks=(1, size, size),
        compression="gzip", compression_opts=1,
    )  # fmt: skip
    labels = file.create_dataset(f"{split}/labels", (total,), np.int64)
    drawn = fractal_images(found, each, size, seed, split)
    for place, (label, image) in enumerate(tqdm(drawn, f"draw {split}", total, unit="image")):
        images[place], labels[place] = image, label


def _write_sheet(path: Path, found: list[Category], size: int, seed: int) -> None:
    from i2p_lib.show.drawings import sheet

    chosen = found[:SHEET_ROWS]
    rows = [(f"{label}: {len(one.maps)} maps",
             [("", fractal_image(found, label, number, size, seed))
              for number in range(SHEET_COLUMNS)])
            for label, one in enumerate(chosen)]  # fmt: skip
    with atomic_write(path) as temp:
        sheet(rows, size=(1.1, 1.13)).savefig(temp, dpi=100)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--categories", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--each", type=int, default=180,
                        help="training images of a category (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=20,
                        help="held-out images of a category (default: %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="pixels across (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--draw-seed", type=int, help="of the images (default: --seed)")
    parser.add_argument("--fill-rate", type=float, default=FILL_RATE,
                        help="least share of the image that is filled (default: %(default)s)")
    options = parser.parse_args(arguments)
    each = {"train": options.each, "held_out": options.held_out}
    try:
        build(options.output, options.categories, each, options.size, options.seed,
              options.fill_rate, options.draw_seed)  # fmt: skip
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.categories} categories, {each} images of each, written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
