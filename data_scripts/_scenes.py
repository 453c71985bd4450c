"""The command line that the scripts of S3DIS and SemanticKITTI share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from i2p_lib.data.scenes import convert_scenes, describe_scenes, scene_hash, scene_root


def run(name: str, text: str, arguments: list[str] | None = None) -> int:
    """Convert the official folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the official folder")
    parser.add_argument("--output", type=Path, default=scene_root(name),
                        help="folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--part", action="store_true",
                        help="take a part of the set, or other scenes in its layout: the "
                        "published counts need not be found")
    options = parser.parse_args(arguments)
    try:
        folder = convert_scenes(name, options.source, options.output, options.part, options.workers)
        print(f"{describe_scenes(name, folder)}\ngood: {folder}")
        print(f"sha256 {scene_hash(name, folder)}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
