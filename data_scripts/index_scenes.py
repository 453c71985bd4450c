"""Check scenes that lie as the set's own module reads them, and write their manifest.

For a set whose files need no conversion: its module in i2p_lib/data has, beside `read_scene`,
`find_scenes(folder)`, which returns {scene: its files}.  Every scene is read once and checked; the
files stay where they are.  Its card says `made_by: data_scripts/index_scenes.py NAME`, so that
`i2p data get NAME --from FOLDER` works.

examples:
  python data_scripts/index_scenes.py my_scans ~/my_scans --output /data/my_scans
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from _scenes import do_all, histogram, status_of

from i2p_lib.data.making import folder_lock
from i2p_lib.data.manifests import write_manifest
from i2p_lib.data.scenes import Scene, describe_scenes, scene_card
from i2p_lib.files import sha256


def index(name: str, source: Path, output: Path, workers: int = 1, progress: bool = True) -> None:
    """Read every scene of a set below `source`, and write the manifest to `output`.

    Raises FileNotFoundError where there is no scene, ValueError, naming the scene, for a wrong one.
    """
    found = scene_card(name).reader.find_scenes(source)
    if not found:
        raise FileNotFoundError(f"{source}: no scene of {name} lies here")
    checked = do_all(partial(_check, name, source), sorted(found), workers, progress, "scenes")
    output.mkdir(parents=True, exist_ok=True)
    write_manifest(output, {
        "layout": scene_card(name).layout,
        "scenes_in": "." if source.samefile(output) else str(source.resolve()),
        "scenes": dict(zip(sorted(found), (int(one.sum()) for one in checked), strict=True)),
        "class_points": np.sum(checked, axis=0).tolist(),
        "repairs": [],
        "files": {file: sha256(source / file) for files in found.values() for file in files},
    })  # fmt: skip


def _check(name: str, source: Path, scene: str) -> np.ndarray:
    """Return the points of each class and of none in a scene that is right."""
    card = scene_card(name)
    read = Scene(scene, *card.reader.read_scene(source, scene))
    features, classes = len(card.feature_names), len(card.class_names)
    if read.features.shape[1] != features or read.labels.max() >= classes:
        raise ValueError(
            f"{scene}: expected {features} features and labels below {classes}, got "
            f"{read.features.shape[1]} and {read.labels.max()}"
        )
    return histogram(read.labels, classes)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the set")
    parser.add_argument("source", type=Path, help="the folder with its files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the manifest")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args(arguments)

    def work() -> None:
        with folder_lock(options.output, timeout=0):
            index(options.name, options.source, options.output, options.workers)
        print(describe_scenes(options.name, options.output))

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
