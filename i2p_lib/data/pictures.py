"""Pictures: a folder of the reader's, or photographs of the book's dependencies and fractals."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2p_lib.data.fractal_images import fractal_images

SHIPPED = {
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
    "skimage": ("data", (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
        "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
    )),
}  # fmt: skip
"""Package -> folder and names of its photographs; what is not there is left out."""

CREDITS = "china by danielbuechele and flower by vultilion, both CC BY 2.0"

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LARGEST = 512  # a shorter side of twice as much is scaled down by a whole number


@dataclass(frozen=True)
class Pictures:
    """Views of pictures, in a fixed order.

    views    uint8 [H, W, 3] each: a whole picture or a square cut from it
    owner    int64 [N], the picture of each view
    labels   int64 [N], rows of label_names: the sub-folder, or the picture itself
    source   where they come from, as a noun phrase without a path
    """

    views: tuple[np.ndarray, ...]
    owner: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.views)

    def describe(self) -> str:
        """Return what these are and how many, as a sentence."""
        return f"{len(self)} views of {len(np.unique(self.owner))} pictures: {self.source}."


def pictures(folder: str | Path | None = None, most: int = 500) -> Pictures:
    """Return the pictures of a folder, or by default photographs and fractals.

    folder  searched with its sub-folders, whose names are the labels; one view for each file.
            Of more than `most` files an even choice is taken.
    None    the photographs that the dependencies ship, five views each: the whole, and the four
            squares of half its shorter side that lie in its corners; and one view of one held-out
            fractal of each of the first 20 classes (`i2p_lib.data.fractal_images`).

    Raises FileNotFoundError where there is no picture, ValueError for a file that is none.
    """
    if folder is None:
        return _shipped()
    root = Path(folder).expanduser()
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()
                   and not f.name.startswith("._"))  # macOS' own
    if not files:
        raise FileNotFoundError(f"expected pictures ({', '.join(SUFFIXES)}) in {root}, found none: "
                                "give another folder as `images` in the profile, or leave that "
                                "line out")
    count = min(most, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    names, labels = np.unique([file.parent.name for file in chosen], return_inverse=True)
    text = f"{count} of the {len(files):,} files in the folder {root.name}"
    return Pictures(tuple(map(_read, chosen)), np.arange(count), labels, tuple(names), text)


def _shipped() -> Pictures:
    files = {}
    for package, (folder, names) in SHIPPED.items():
        if spec := importlib.util.find_spec(package):
            root = Path(spec.submodule_search_locations[0], folder)
            files |= {path: package for name in names if (path := root / name).is_file()}
    names, packages = [file.stem for file in files], ", ".join(dict.fromkeys(files.values()))
    fractals = fractal_images("fractals", "held_out").images
    text = (f"the {len(files)} photographs that the packages {packages} bring ({', '.join(names)}; "
            f"{CREDITS}), five views each, and {len(fractals)} fractals, one of each class")
    views = [_views(_read(file)) for file in files]
    views += [[image[..., None].repeat(3, axis=2)] for image in fractals]
    names += [f"fractal {number}" for number in range(len(fractals))]
    owner = np.repeat(np.arange(len(views)), [len(v) for v in views])
    return Pictures(tuple(v for part in views for v in part), owner, owner, tuple(names), text)


def _views(image: np.ndarray) -> list[np.ndarray]:
    side = min(image.shape[:2]) // 2
    rows, columns = ((0, n - side) for n in image.shape[:2])
    return [image] + [image[r : r + side, c : c + side] for r in rows for c in columns]


def _read(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return np.asarray(image.reduce(max(1, min(image.size) // LARGEST)))
