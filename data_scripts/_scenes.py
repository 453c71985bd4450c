"""What the scripts that make sets of scenes share: work on many files, counts, command lines."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from tqdm.auto import tqdm

from i2p_lib.data.making import folder_lock
from i2p_lib.data.scenes import IGNORED, describe_scenes, scene_card, scene_hash


def run(
    name: str, text: str, convert: Callable, arguments: Sequence[str] | None = None
) -> int:
    """Convert the official folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the official folder")
    parser.add_argument("--output", type=Path, default=scene_card(name).root(),
                        help="folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--part", action="store_true",
                        help="take a part of the set, or other scenes in its layout: the "
                        "published counts need not be found")
    options = parser.parse_args(arguments)

    def work() -> None:
        with folder_lock(options.output, timeout=0):
            convert(options.source, options.output, options.part, options.workers)
        print(f"{describe_scenes(name, options.output)}\ngood: {options.output}")
        print(f"sha256 {scene_hash(name, options.output)}")

    return status_of(work)


def status_of(work: Callable[[], Any]) -> int:
    """Return the exit status of a script's work; say in one line what went wrong."""
    try:
        work()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except Timeout as error:
        print(f"error: another process is making this set now ({error.lock_file}); wait for it",
              file=sys.stderr)  # fmt: skip
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def do_all(
    work: Callable[[Any], Any], items: Sequence, workers: int, progress: bool, unit: str
) -> list:
    """Return `work(item)` of all items, in order, with a bar that shows the time left.

    With more than one worker `work` runs in processes and must be picklable.  At the first error,
    or when interrupted, what has not begun is dropped.  Raises ValueError for less than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    bar = partial(tqdm, total=len(items), unit=unit, disable=not progress)
    if workers == 1:
        return [work(item) for item in bar(items)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            return list(bar(pool.map(work, items)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def histogram(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the points of each class and, last, of none: [classes + 1] int64."""
    counts = np.bincount(labels.astype(np.int64) - IGNORED, minlength=classes + 1)
    return np.roll(counts, -1)


def unlike_published(
    source: Path, names: Sequence[str], found: Sequence[int], published: Sequence[float],
    factor: float,
) -> None:  # fmt: skip
    """Raise ValueError where a class's share of the labelled points is far from a published one.

    found: points of each class (one more, of no class, is not counted); factor: how far.
    """
    found, published = np.array(found[: len(names)], float), np.array(published, float)
    found, published = found / found.sum(), published / published.sum()
    off = (found > factor * published) | (published > factor * found)
    if off.any():
        which = ", ".join(
            f"{names[i]} {found[i]:.3g} (published {published[i]:.3g})" for i in np.flatnonzero(off)
        )
        raise ValueError(
            f"{source}: shares of points that are more than {factor} times off: {which}; the set "
            "is not the published one (--part takes others)"
        )
