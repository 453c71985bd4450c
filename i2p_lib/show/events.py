"""TensorBoard: the curves, tables and a few clouds of runs as event files, and the server."""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from i2p_lib.runs import RunResult, load_run
from i2p_lib.runs.spec import RunSpec
from i2p_lib.runs.store import Entry
from i2p_lib.show.drawings import gallery
from i2p_lib.train.clouds import load_splits

EVENTS = "events"
CLOUDS = 6  # shown of a run
SECONDS = 3  # between two looks at runs in training


def write_events(folder: str | Path) -> Path:
    """Write the event files of a run into its folder, anew; return where they lie.

    Scalars: every number of the history by epoch.  Of a finished run of classification also a
    table of its classes, and some test clouds with label and answer.
    Raises FileNotFoundError for no folder of a run, ImportError where tensorboard is not here.
    """
    _Events(folder).update()
    return Path(folder).expanduser().resolve() / EVENTS


class _Events:
    """The event files of one run, which grow with its history."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard is not here: pip install "
                              "'image2point-book[tensorboard]'") from error  # fmt: skip
        self.entry = Entry.found(folder)
        shutil.rmtree(self.entry.folder / EVENTS, ignore_errors=True)
        self.writer = SummaryWriter(str(self.entry.folder / EVENTS))
        self.rows, self.whole = 0, False

    def update(self) -> None:
        """Write the epochs that came since and, once the run is done, what it answered."""
        file = self.entry.folder / "history.csv"
        history = pd.read_csv(file) if file.is_file() else pd.DataFrame()
        for _, row in history.iloc[self.rows :].iterrows():
            for name, value in row.drop("epoch").dropna().items():
                group, _, rest = name.partition("_")
                tag = f"{group}/{rest}" if group in ("train", "val", "test") else f"run/{name}"
                self.writer.add_scalar(tag, value, int(row["epoch"]))
        self.rows = len(history)
        if not self.whole and self.entry.state().get("state") == "done":
            self.whole = True
            self.writer.add_text("settings", f"`{self.entry.spec.label()}`")
            if isinstance(self.entry.spec, RunSpec):
                self._answers(load_run(self.entry.folder))
        self.writer.flush()

    def _answers(self, result: RunResult) -> None:
        """The table of the classes, and some clouds, wrong ones first."""
        answers = result.answers
        self.writer.add_text("classes", answers.per_class().round(3).to_html(index=False))
        order = np.argsort(answers.hits, kind="stable")[:CLOUDS]
        try:
            points = load_splits(result.spec).test.points[order, :, :3].numpy()
        except FileNotFoundError:  # its clouds are not on this machine
            return
        names = answers.class_names
        titles = [f"{names[answers.labels[i]]}, named {names[answers.named[i]]}" for i in order]
        self.writer.add_figure("test clouds", gallery(points, titles, 3), self.rows)


def serve(folders: Sequence[str | Path], port: int = 6006) -> None:
    """Write the event files of runs, serve them on a port, and follow runs in training.

    It ends when it is interrupted.  Raises as `write_events` does, and ValueError for a port that
    is taken.
    """
    runs = [_Events(folder) for folder in folders]
    for run in runs:
        run.update()
    from tensorboard import program

    board, spec = program.TensorBoard(), ",".join(
        f"{run.entry.folder.name}:{run.entry.folder / EVENTS}" for run in runs)  # fmt: skip
    board.configure(argv=["tensorboard", "--port", str(port), "--logdir_spec", spec])
    try:
        print(f"TensorBoard: {board.launch()}  (Ctrl-C ends it)", flush=True)
    except program.TensorBoardPortInUseError as error:
        raise ValueError(f"port {port} is taken: choose another one with --port") from error
    while True:
        time.sleep(SECONDS)
        for run in runs:
            with suppress(OSError, ValueError):  # it may be in the middle of a write
                run.update()
