"""Runs on many machines: jobs go to a Dask scheduler, and finished runs come back as files.

A worker trains each job in a process of its own, as `pool` does here, so that a Dask worker with
n threads trains n runs at a time.  It keeps runs in its own store ($I2P_RUNS there); where that is
also the caller's, nothing is sent back and a broken-off run goes on from its checkpoint.
Dask itself gives the runs of a worker that dies to another one.
"""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from i2p_lib.files import atomic_write, sweep
from i2p_lib.runs import pool, store
from i2p_lib.runs.spec import spec_from

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 10.0  # seconds to wait for a scheduler and its first worker


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Connect to a scheduler that has workers.

    Raises ImportError where Dask is not installed, and ConnectionError where no scheduler answers
    at the address or no worker has joined it; both within seconds.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "a scheduler needs Dask, which is not installed here: "
            "pip install 'distributed>=2026', which is this project's extra 'cluster'"
        ) from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, "
            "which prints its address, and workers with `dask worker ADDRESS`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise ConnectionError(
                f"the scheduler at {address} has no workers: start some with "
                f"`dask worker {address} --nthreads N`, each for N runs at a time"
            ) from error
        yield client


def work(
    client: Client, jobs: list[pool.Job], on_event: Callable[[pool.Job, pool.Event], None]
) -> None:
    """Let the scheduler's workers do the jobs, longest first; returns when each has ended.

    Events are those of `pool.work`; a run is in the store of its job before it is "done".
    Stopping this call lets the runs that workers have begun go on; they keep them.
    """
    if not jobs:
        return
    events: queue.Queue = queue.Queue()
    topic = f"i2p-{uuid.uuid4().hex}"
    waiting, futures = {job["key"]: job for job in jobs}, []
    marker = Path(jobs[0]["store"]) / f".{topic}"  # who sees it has the caller's own store
    with atomic_write(marker):
        pass
    client.subscribe_topic(topic, lambda event: events.put(event[1]))
    try:
        for key, job in waiting.items():
            name = f"{topic}-{key}"
            future = client.submit(train_on_worker, job, topic, marker.name, key=name)
            future.add_done_callback(lambda future, key=key: events.put((key, future)))
            futures.append(future)
        while waiting:
            key, what = events.get()
            if not isinstance(what, int):
                job = waiting.pop(key)
                on_event(job, _last_event(job, what))
            elif key in waiting:
                on_event(waiting[key], {"event": "epoch", "epoch": what})
    finally:
        client.unsubscribe_topic(topic)
        client.cancel(futures)
        marker.unlink(missing_ok=True)


def _last_event(job: pool.Job, future: Future) -> pool.Event:
    """Fetch and keep what a worker trained; return "done", or "failed" with the reason."""
    try:
        files = future.result()
        if files is not None:
            entry = store.Entry.of(spec_from(job["spec"], "job"), job["store"])
            unpack(entry, files)
    except ModuleNotFoundError as error:
        reason = f"{error}: install this project where the scheduler and every worker run"
        return {"event": "failed", "traceback": reason}
    except Exception as error:
        return {"event": "failed", "traceback": str(error) or repr(error)}
    return {"event": "done"}


def train_on_worker(job: pool.Job, topic: str, marker: str) -> dict[str, bytes] | None:
    """Train one job in a process of its own; return its files, None where the caller sees them.

    Called by Dask on a worker; tells the caller of each epoch under `topic`.
    """
    from distributed import get_worker

    worker, root, last = get_worker(), store.store_root(), {}

    def on_event(job: pool.Job, event: pool.Event) -> None:
        last.update(event)
        if event["event"] == "epoch":
            worker.log_event(topic, (job["key"], event["epoch"]))

    pool.work([job | {"store": str(root)}], 1, on_event)
    if last["event"] == "failed":
        raise RuntimeError(last["traceback"])
    return None if (root / marker).exists() else packed(root / job["key"][:16])


def packed(folder: Path) -> dict[str, bytes]:
    """Return the files of a finished run as {name: content}."""
    names = (*store.read_json(folder / "state.json")["files"], "state.json")
    return {name: (folder / name).read_bytes() for name in names}


def unpack(entry: store.Entry, files: dict[str, bytes]) -> None:
    """Put the files of a run that was finished in another store into its place in this one.

    Raises DamagedRun where they are not what was written there.
    """
    with entry.lock():
        sweep(entry.folder)
        # the last says that the others are whole
        for name in sorted(files, key="state.json".__eq__):
            with atomic_write(entry.folder / name) as temp:
                temp.write_bytes(files[name])
        entry.done()
        (entry.folder / store.CHECKPOINT).unlink(missing_ok=True)
