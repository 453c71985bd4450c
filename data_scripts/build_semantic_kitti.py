"""Check SemanticKITTI in its official folder, where its scans stay, and write a manifest.

You download data_odometry_velodyne.zip (80 GB) from
https://www.cvlibs.net/datasets/kitti/eval_odometry.php and data_odometry_labels.zip from
https://semantic-kitti.org/dataset.html and unpack both into one folder; it holds `sequences`.
Every scan of sequences 00 to 10 is read: a whole number of points, as many labels, finite metres,
intensities 0 to 1, raw labels of the official map.  23,201 scans, 4,071 of them in sequence 08,
and the classes' shares must be found.  Stop it at any moment: it goes on where it was, and
without manifest.json, written last, the set counts as absent.

examples:
  python data_scripts/build_semantic_kitti.py ~/kitti/dataset --workers 8
  python data_scripts/build_semantic_kitti.py FOLDER --output /data/semantic_kitti
  python data_scripts/build_semantic_kitti.py SIMULATED_STREETS --part --output /tmp/streets
"""

from __future__ import annotations

import sys

from _scenes import run


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run("semantic_kitti", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
