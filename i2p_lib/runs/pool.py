"""Worker processes: hand out jobs, collect events, and leave no worker behind.

Workers are plain subprocesses that read jobs (one JSON line each) from stdin and write events to
stdout.  So the caller's main module is never imported again (safe in notebooks and in scripts
without a main guard), and a worker whose parent dies sees its stdin close and ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Event = dict[str, Any]

PATIENCE = 1.0  # seconds to wait for one run of another process before looking at the next
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class _Worker:
    """One subprocess, the job it works on, and the thread that reads its events."""

    def __init__(self, module: str, events: queue.Queue) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.job: Job | None = None
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": path},
        )
        self.reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self.reader.start()

    def _read(self, events: queue.Queue) -> None:
        for line in self.process.stdout:
            events.put((self, json.loads(line)))
        events.put((self, None))

    def give(self, job: Job | None) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # of a worker that died, which its reader reports
            if job is not None:
                self.process.stdin.write(json.dumps(job) + "\n")
                self.process.stdin.flush()

    def last_words(self) -> str:
        """Return what a worker that ended by itself wrote to stderr, at most its last lines."""
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        reason = f"the worker process ended with code {code}"
        if code in (-9, 137):
            reason += " (killed, perhaps for want of memory: use fewer workers)"
        return "\n".join([*text.splitlines()[-20:], reason])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.reader.join(timeout=5)
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):  # an unsent job of a worker that died
                stream.close()


def work(
    jobs: Iterable[Job],
    workers: int,
    on_event: Callable[[Job, Event], None],
    module: str = "i2p_lib.runs.worker",
) -> None:
    """Let `workers` processes do the jobs in order; returns when each job has ended.

    A job that is "busy", since another process does it, is passed over and tried again at the end.

    `on_event(job, event)` is called in this thread for every event of a worker.
    The last event of a job is {"event": "done"} or {"event": "failed", "traceback": text};
    a worker that dies gives its job such a failure and is replaced.
    On any exception, KeyboardInterrupt included, all workers are ended.
    """
    waiting, crew = deque(jobs), set()
    events: queue.Queue = queue.Queue()

    def hire() -> None:
        if waiting:
            crew.add(worker := _Worker(module, events))
            worker.give(waiting.popleft())

    try:
        for _ in range(workers):
            hire()
        while any(worker.job is not None for worker in crew):
            worker, event = events.get()
            if event is None:  # it ended by itself
                crew.discard(worker)
                if worker.job is not None:
                    on_event(worker.job, {"event": "failed", "traceback": worker.last_words()})
                worker.end()
                hire()
                continue
            if event["event"] == "busy":  # the others first, then this one again
                waiting.append(worker.job | {"patience": PATIENCE})
            else:
                on_event(worker.job, event)
            if event["event"] in ("done", "failed", "busy"):
                worker.give(waiting.popleft() if waiting else None)
    finally:
        for worker in crew:
            worker.end()
