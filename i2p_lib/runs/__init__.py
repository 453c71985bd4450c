"""Runs: what is trained, how it is kept, and how it is found again."""

from i2p_lib.runs.needs import status
from i2p_lib.runs.spec import RunSpec
from i2p_lib.runs.store import DamagedRun
from i2p_lib.runs.tables import RunResult, finished, load_run, results
from i2p_lib.runs.training import RunError, run, run_all, train_missing

__all__ = [
    "DamagedRun", "RunError", "RunResult", "RunSpec", "finished", "load_run", "results", "run",
    "run_all", "status", "train_missing",
]  # fmt: skip
