"""What a trained network makes of rooms: every point of a file labelled, written as .ply."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from i2p_lib.data.cloud_files import FORMATS, BadCloud
from i2p_lib.data.own_scenes import About, features_of, read_file
from i2p_lib.data.scenes import IGNORED, Scene, SceneCard
from i2p_lib.files import atomic_write
from i2p_lib.models.encodings import Encoding


@dataclass(frozen=True)
class ReadsScenes:
    """How a trained network reads scenes and what its answers are called; `net.i2p_reads`."""

    encoding: Encoding
    card: SceneCard
    class_names: tuple[str, ...]

    def labelled(self, net: nn.Module, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return the points [N, 3] of a file, where they lie there, and the class of each, [N].

        Raises BadCloud as `read_file` does, and where a feature is missing.
        """
        points, found = read_file(file, About.beside(file.parent))
        features = features_of(found, self.card.feature_names)
        scene = Scene(file.name, points, features, np.full(len(points), IGNORED))
        place = next(net.parameters()).device
        return found.points, self.encoding.predict(net, scene, place).argmax(1).cpu().numpy()


def label_files(
    net: nn.Module, files: Iterable[str | Path], folder: str | Path
) -> Iterator[tuple[Path, dict[str, float]]]:
    """Write each room with its labels, NAME_labelled.ply in a folder; yield (path, shares).

    Points lie where they lie in the file; `label` is the class's number, and colours tell classes
    apart.  shares: of the points of each class that occurs.
    Raises FileNotFoundError for a file that is not there, and ValueError for two of one name,
    before any is written; ValueError for a file that is no room.
    """
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a file of a room, got none")
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"{path}: expected one of {' '.join(FORMATS)}")
    if len({path.stem for path in paths}) < len(paths):
        names = ", ".join(sorted(path.name for path in paths))
        raise ValueError(f"expected files of different names, so that {folder} can hold all, got "
                         f"{names}: label them one call at a time, each into a folder of its own")
    for path in paths:
        try:
            points, classes = net.i2p_reads.labelled(net, path)
        except BadCloud as error:
            raise ValueError(f"{path}: {error}") from error
        names = net.i2p_reads.class_names
        out = Path(folder) / f"{path.stem}_labelled.ply"
        write_ply(out, points, classes, len(names))
        counts = np.bincount(classes, minlength=len(names)) / len(classes)
        order = np.argsort(-counts, kind="stable")
        yield out, {names[i]: float(counts[i]) for i in order if counts[i]}


def write_ply(path: Path, points: np.ndarray, classes: np.ndarray, count: int) -> None:
    """Write points [N, 3] with `label` and a colour of each class as a binary .ply file."""
    hues = [colorsys.hsv_to_rgb(i / count, 0.45 + 0.35 * (i % 2), 0.9) for i in range(count)]
    kind = [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("red", "u1"), ("green", "u1"),
            ("blue", "u1"), ("label", "<i4")]  # fmt: skip
    rows = np.empty(len(points), kind)
    colours = (np.array(hues)[classes] * 255).round().astype(np.uint8)
    for number, (one, three) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        rows[one], rows[three] = points[:, number], colours[:, number]
    rows["label"] = classes
    types = {"<f8": "double", "u1": "uchar", "<i4": "int"}
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}",
            *(f"property {types[what]} {name}" for name, what in kind), "end_header", ""]
    with atomic_write(path) as temp:
        temp.write_bytes("\n".join(head).encode() + rows.tobytes())
