"""The worker process behind `run_all`: trains the runs that its stdin names, one at a time."""

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

from filelock import Timeout

from i2p_lib.runs import execute
from i2p_lib.runs.spec import spec_from
from i2p_lib.runs.store import Entry


def main() -> None:
    """Serve jobs until stdin closes.

    A job is {"spec": {...}, "key": ..., "parts": {...}, "store": ..., "device": ...}, and may
    have "patience": seconds to wait where another process trains the same run, then it is "busy".
    Ctrl-C is left to the parent, which ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    # what a step frees is kept for the next step, as it is slow to get from the system
    _glibc("mallopt", -3, 2**25)  # M_MMAP_THRESHOLD of malloc.h
    _glibc("mallopt", -1, 2**30)  # M_TRIM_THRESHOLD

    def tell(**event: object) -> None:
        answers.write(json.dumps(event) + "\n")

    while True:
        job = jobs.get()
        try:
            _serve(job, tell)
        except Timeout:
            tell(event="busy")
        except Exception:
            tell(event="failed", traceback=traceback.format_exc())
        else:
            tell(event="done")
        gc.collect()
        _glibc("malloc_trim", 0)  # else twenty runs later twice as much is held


def _serve(job: dict, tell: Callable[..., None]) -> None:
    entry = Entry.of(spec_from(job["spec"], "job"), job["store"])
    if entry.key != job["key"]:
        other = entry.changed(job["parts"])
        raise RuntimeError(
            f"this worker would train another run than the one planned; other are: {other}. "
            "If files changed meanwhile, start again; on a cluster, give every worker the version "
            "of project, data and weights that starts the runs"
        )
    execute.note = lambda text: tell(event="note", text=text)  # the user sees the parent's stderr
    execute.train_entry(entry, job["device"], [lambda now: tell(event="epoch", epoch=now.epoch)],
                        job.get("patience", -1))  # fmt: skip


def _glibc(function: str, *values: int) -> None:
    """Call one of glibc's functions on memory; other systems have none and need none."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*values)


def _read_jobs(jobs: queue.Queue) -> None:
    """Pass on jobs; when the parent closes the pipe or dies, end at once, even in training."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
