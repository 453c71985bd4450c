"""Convert S3DIS from its official folder: every room to one HDF5 file, checked, with a manifest.

You ask for the set at http://buildingparser.stanford.edu/dataset.html and unpack
Stanford3dDataset_v1.2_Aligned_Version.zip (about 30 GB of text); its folder holds Area_1 to
Area_6.  Each annotation text is read once; a line that is not six numbers is an error that names
file and line, except that a stray byte is repaired where only one reading is possible (the
official set has one in Area_5/hallway_6/Annotations/ceiling_1.txt:180389); repairs are printed
and listed in the manifest.  272 rooms in six areas, about 273 million points and the classes'
shares must be found.  Stop it at any moment: rooms that are done are not done again, and without
manifest.json, written last, the set counts as absent.

examples:
  python data_scripts/build_s3dis.py ~/Stanford3dDataset_v1.2_Aligned_Version --workers 8
  python data_scripts/build_s3dis.py FOLDER --output /data/s3dis
  python data_scripts/build_s3dis.py SIMULATED_ROOMS --part --output /tmp/rooms
"""

from __future__ import annotations

import sys

from _scenes import run


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run("s3dis", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
