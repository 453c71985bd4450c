"""The worker process behind `run_all`: trains the runs that its stdin names, one at a time.

It imports torch only with its first job, so that a parent's end is noticed from the beginning.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable


def main() -> None:
    """Serve jobs until stdin closes.

    A job is {"spec": {...}, "key": ..., "parts": {...}, "store": ..., "device": ...}.
    Ctrl-C is left to the parent, which ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()

    _keep_memory()

    def tell(**event: object) -> None:
        answers.write(json.dumps(event) + "\n")

    while True:
        job = jobs.get()
        try:
            _serve(job, tell)
        except Exception:
            tell(event="failed", traceback=traceback.format_exc())
        else:
            tell(event="done")
        _give_back_memory()


def _serve(job: dict, tell: Callable[..., None]) -> None:
    from i2p_lib.runs.execute import train_entry
    from i2p_lib.runs.spec import spec_from
    from i2p_lib.runs.store import Entry

    entry = Entry.of(spec_from(job["spec"], "job"), job["store"])
    if entry.key != job["key"]:
        other = entry.changed(job["parts"])
        raise RuntimeError(
            f"this worker would train another run than the one planned; other are: {other}. "
            "If files changed meanwhile, start again; on a cluster, give every worker the version "
            "of project, data and weights that starts the runs"
        )
    train_entry(entry, job["device"], [lambda state: tell(event="epoch", epoch=state.epoch)])


def _keep_memory() -> None:
    """Let glibc keep what a step frees for the next step, which is slow to get from the system."""
    trim_threshold, map_threshold = -1, -3  # names of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not on every system
        libc = ctypes.CDLL(None)
        libc.mallopt(map_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**30)


def _give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps it, and twenty runs later twice as much."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not on every system
        ctypes.CDLL(None).malloc_trim(0)


def _read_jobs(jobs: queue.Queue) -> None:
    """Pass on jobs; when the parent closes the pipe or dies, end at once, even in training."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
