"""Train what a profile lacks and keep the results as small tables that come with the project.

Contract: reads the run store and the tables that are already there, and writes, into one folder,

    runs.csv       one row a run: its experiment, the settings that differ, its scores, the hits on
                   the test clouds, its key, machine, versions and date
    epochs.csv     one row a run and epoch: the run's key, epoch, training loss, validation accuracy
    shared.json    the settings that all runs share
    manifest.json  SHA-256 of each file, how many runs the profile has and how many are here

`hits` says for each test cloud whether it was named rightly: hexadecimal, first cloud in the
highest bit, filled up with zeros.  `spec` names a run's settings, so that a row stays where the
store has gone: a study is done in pieces, on one machine or several, and every piece is kept.
With --train the runs that no row tells of are trained first, and the tables are written after
every few of them, so that an interrupt loses little.  Runs whose data are not here are left out.

Examples:
    python data_scripts/record_study.py study --train
    python data_scripts/record_study.py study --train --experiment kicad_lite0 --workers 2
    python data_scripts/record_study.py study_rates --output rates
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from i2p_lib.files import sha256, write_text
from i2p_lib.paper.claims import Study, on_test
from i2p_lib.runs import RunError, run_all
from i2p_lib.runs.needs import missing_inputs
from i2p_lib.runs.profiles import Profile, load_profile
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import Entry, write_csv
from i2p_lib.runs.tables import RunResult, finished
from i2p_lib.sources import PACKAGE

SCORES = ("val_top1", "top1", "train_top1", "train_loss", "seconds_total")
MEASURED = (*SCORES, "hits", "clouds", "cdnv", "key", "hardware", "torch", "finished")


def main() -> None:
    """Train what is missing, if asked, and write the tables of one profile."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__[__doc__.index("Examples:"):],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("profile", help="name or path, such as study")
    parser.add_argument("-o", "--output", type=Path,
                        help="folder (default: i2p_lib/recorded/<profile>)")
    parser.add_argument("--train", action="store_true", help="train what no row tells of")
    parser.add_argument("-e", "--experiment", help="train the runs of this one alone")
    parser.add_argument("-w", "--workers", type=int, help="processes that train (default: cores)")
    parser.add_argument("--every", type=int, default=8, help="runs between two records (default 8)")
    parser.add_argument("--drop", action="store_true", help="leave out rows of no planned run")
    options = parser.parse_args()
    try:
        work(options)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"error: {error}\n")


def work(options: argparse.Namespace) -> None:
    """Train and record what the command line asks for."""
    if options.every < 1:
        raise ValueError(f"--every: expected 1 or more, got {options.every}")
    profile = load_profile(options.profile)
    folder = options.output or PACKAGE / "recorded" / profile.name
    specs = profile.experiment(options.experiment) if options.experiment else profile.all_specs()
    if options.train:
        known = recorded(folder)[0]
        wanted = [s for s in specs if name_of(s) not in known and not missing_inputs(s)]
        wanted.sort(key=lambda spec: spec.seed)  # a piece has the same seeds of every arm
        for start in range(0, len(wanted), options.every):
            try:
                run_all(wanted[start : start + options.every], workers=options.workers)
            except RunError as error:  # one that diverges has no row; the others go on
                print(error, file=sys.stderr)
            print(record(profile, folder, options.drop), file=sys.stderr)
    print(record(profile, folder, options.drop), file=sys.stderr)


def name_of(spec: AnySpec) -> str:
    """Return what names a run's settings, whatever the sources: those that are not defaults."""
    fields, said = type(spec).model_fields, spec.model_dump(mode="json", exclude_defaults=True)
    said = {name: value for name, value in said.items()
            if getattr(spec, name) != fields[name].default}  # fields with a serializer stay in it
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded(folder: Path) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Return {name of a run: what was measured} and the epochs that a folder's tables hold."""
    if not (folder / "runs.csv").exists():
        return {}, pd.DataFrame(columns=["key"])
    study = Study.load(folder)
    rows = study.runs.set_index("spec")
    rows = rows[[name for name in MEASURED if name in rows]].astype(object)
    return rows.where(rows.notna(), None).to_dict("index"), study.epochs


def record(profile: Profile, folder: Path, drop: bool = False) -> str:
    """Write the tables of a profile's runs, old rows and new; return how many there are.

    Raises ValueError where the folder has rows of runs that the profile lacks, unless they drop.
    """
    measured, curves = recorded(folder)
    specs = {name_of(spec): spec for spec in profile.all_specs()}
    if (others := len(measured.keys() - specs.keys())) and not drop:
        raise ValueError(f"{folder} has {others} runs that {profile.path} does not plan: give "
                         "another --output, or --drop to leave them out")
    unknown = [spec for name, spec in specs.items() if name not in measured]
    new = [spec for spec in unknown if not missing_inputs(spec) and Entry.of(spec).done()]
    runs = [RunResult.load(Entry.of(spec)) for spec in new]
    about = finished(new).to_dict("records")
    for run, row in zip(runs, about, strict=True):
        known = {name: row[name] for name in MEASURED if name in row}
        measured[name_of(run.spec)] = known | on_test(run)
    here = {name: spec for name, spec in specs.items() if name in measured}
    if not here:
        raise ValueError(f"no run of {profile.name} is done: give --train")
    rows, same = _settings(profile, list(here.values()))
    rows = rows.assign(spec=list(here)).join(pd.DataFrame([measured[name] for name in here]))
    epochs = [run.history[["epoch", "train_loss", "val_top1"]].assign(key=run.key[:16])
              for run in runs]  # fmt: skip
    epochs = pd.concat([curves[curves["key"].isin(rows["key"])], *epochs])
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "runs.csv", rows)
    write_csv(folder / "epochs.csv", epochs.round(5))
    write_text(folder / "shared.json", json.dumps(same, indent=1, sort_keys=True) + "\n")
    files = {name: sha256(folder / name) for name in ("epochs.csv", "runs.csv", "shared.json")}
    manifest = {"files": files, "planned": len(specs), "done": len(here)}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return f"{len(here)} of {len(specs)} runs of {profile.name} in {folder}"


def _settings(profile: Profile, specs: Sequence[AnySpec]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the settings that differ, with each run's experiments, and those that all share."""
    where: dict[AnySpec, list[str]] = {}
    for name, block in profile.experiments.items():
        for spec in block:
            where.setdefault(spec, []).append(name)
    table = pd.DataFrame([spec.row() for spec in specs]).astype(object)
    same = {name: column.iloc[0] for name, column in table.items()
            if column.map(repr).nunique() == 1}  # fmt: skip
    names = [";".join(where[spec]) for spec in specs]
    return table.drop(columns=list(same)).assign(experiment=names), same


if __name__ == "__main__":
    main()
