"""The lab of a notebook: an experiment's name in, its finished runs as tables out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from i2p_lib.runs import tables
from i2p_lib.runs.needs import available, prepare, reason, skipped_text, status
from i2p_lib.runs.profiles import Profile, load_profile
from i2p_lib.runs.tables import RunResult
from i2p_lib.runs.training import train_missing, undone


@dataclass
class Lab:
    """What a notebook asks for results: an experiment's name in, tables out.

    The first question about an experiment trains what is missing and prints one line on it.
    """

    profile: Profile
    store: Path | None = None
    progress: bool = True
    _found: dict[str, list[RunResult]] = field(default_factory=dict, repr=False)

    def results(self, experiment: str) -> list[RunResult]:
        """Return an experiment's finished runs, in the profile's order.

        Runs whose data or weights are not here are left out, and said to be (see `skipped`).
        """
        if experiment in self._found:
            return self._found[experiment]
        profile = self.profile
        prepare(profile.experiment(experiment), self.progress)
        began = time.perf_counter()
        entries, skipped = available(profile.experiment(experiment), self.store)
        missing = len(undone(entries)[0])
        train_missing(entries, profile.workers, self.progress, profile.device)
        found = self._found[experiment] = [RunResult.load(entry) for entry in entries]
        done, seconds = len(found) - missing, time.perf_counter() - began
        print(f"{experiment}: {done} runs found, {missing} trained in {seconds:.0f} s")
        if skipped:
            print(skipped_text(skipped))
        return found

    def run(self, experiment: str) -> pd.DataFrame:
        """Return one row per run of an experiment: settings and metrics."""
        return tables.results(self.results(experiment))

    def results_of(self, *experiments: str) -> list[RunResult]:
        """Return the runs of those experiments that this profile has, each run once."""
        names = [name for name in experiments if name in self.profile.experiments]
        found = [result for name in names for result in self.results(name)]
        return list({result.key: result for result in found}.values())

    def any_of(self, *experiments: str) -> pd.DataFrame:
        """Return `results_of` as a table.

        Where the profile has none of the experiments, it has columns and no rows.
        """
        return tables.results(self.results_of(*experiments))

    def histories(self, *experiments: str) -> pd.DataFrame:
        """Return one row per run and epoch of those experiments that this profile has."""
        return tables.joined(self.results_of(*experiments), lambda run: run.history)

    def probes(self, experiment: str) -> pd.DataFrame:
        """Return one row per run, epoch, split, layer and metric of an experiment."""
        return tables.joined(self.results(experiment), RunResult.probes)

    def skipped(self, experiment: str) -> pd.DataFrame:
        """Return the runs of an experiment that cannot be trained here, and what they need."""
        _, skipped = available(self.profile.experiment(experiment), self.store)
        return pd.DataFrame(
            [(spec.label(), reason(needs)) for spec, needs in skipped], columns=["run", "why"]
        )

    def status(self, chapter: str | None = None) -> pd.DataFrame:
        """Return which runs of a chapter, or of the profile, are there, and why others are not."""
        return status(self.profile.all_specs(chapter), self.store)


def open_lab(profile: str | Path, store: str | Path | None = None, progress: bool = True) -> Lab:
    """Open the lab of a profile (a name such as "demo", or a path)."""
    return Lab(load_profile(profile), None if store is None else Path(store), progress)
