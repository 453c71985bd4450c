"""Get ModelNet40: fetch or find modelnet40_ply_hdf5_2048.zip, unpack it with care, check it.

The archive (435 MB) is taken from --archive, else from beside the folder, else from the first
mirror that has it; an interrupted download goes on.  Of the archive come only the data set's own
files; absolute names, `..`, links and files of absurd size end the work before anything is
written.  The published hashes, 9,840 train and 2,468 test clouds of 2,048 points, the unit sphere
and the classes' counts are checked, then manifest.json is written.  Repeat it at will.

examples:
  python data_scripts/get_modelnet40.py
  python data_scripts/get_modelnet40.py --archive ~/Downloads/modelnet40_ply_hdf5_2048.zip
  python data_scripts/get_modelnet40.py --mirror https://example.org/modelnet40_ply_hdf5_2048.zip
  python data_scripts/get_modelnet40.py --output /data/modelnet40_ply_hdf5_2048

The same as `i2p data get modelnet40`, with more choices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from i2p_lib.data import dataset_hash, dataset_root
from i2p_lib.data.modelnet40 import MIRRORS, get_modelnet40


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, help="the zip file, where you have it")
    parser.add_argument("--mirror", action="append", metavar="URL",
                        help="address of the zip file; may be given again (default: "
                        f"{', '.join(MIRRORS)})")
    parser.add_argument("--output", type=Path, default=dataset_root("modelnet40"),
                        help="folder (default: %(default)s)")
    parser.add_argument("--part", action="store_true",
                        help="take other clouds in this layout: no published hashes and counts")
    options = parser.parse_args(arguments)
    try:
        folder = get_modelnet40(
            options.output, options.archive, options.mirror or MIRRORS, options.part
        )
        print(f"good: {folder}\nsha256 {dataset_hash('modelnet40', folder)}")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
