"""Keep what a profile's finished runs found as small tables that come with the project.

Contract: reads the run store and writes, into one folder,

    runs.csv       one row a run: its experiment, the settings that differ, its scores, the hits on
                   the test clouds, its key, machine, versions and date
    epochs.csv     one row a run and epoch: the run's key, epoch, training loss, validation accuracy
    shared.json    the settings that all runs share
    manifest.json  SHA-256 of each file, how many runs the profile has and how many are here

`hits` says for each test cloud whether it was named rightly: hexadecimal, first cloud in the
highest bit, filled up with zeros.  Nothing is trained here; a profile of which some runs are
missing gives the tables of those that are there.

Examples:
    i2p run --profile study && python data_scripts/record_study.py study
    python data_scripts/record_study.py study_rates --output rates
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from i2p_lib.analysis.few_clouds import unbiased_cdnv
from i2p_lib.files import sha256, write_text
from i2p_lib.runs.needs import missing_inputs
from i2p_lib.runs.profiles import Profile, load_profile
from i2p_lib.runs.store import Entry, write_csv
from i2p_lib.runs.tables import RunResult, finished
from i2p_lib.sources import PACKAGE

SCORES = ("val_top1", "top1", "train_top1", "train_loss", "seconds_total")


def main() -> None:
    """Write the tables of one profile."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__[__doc__.index("Examples:"):],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("profile", help="name or path, such as study")
    parser.add_argument("-o", "--output", type=Path, help="folder (default: recorded/<profile>)")
    options = parser.parse_args()
    profile = load_profile(options.profile)
    folder = options.output or PACKAGE / "recorded" / profile.name
    print(record(profile, folder), file=sys.stderr)


def record(profile: Profile, folder: Path) -> str:
    """Write the tables of a profile's finished runs into a folder; return how many there are."""
    entries = [Entry.of(spec) for spec in profile.all_specs() if not missing_inputs(spec)]
    runs = [RunResult.load(entry) for entry in entries if entry.done()]
    if not runs:
        raise SystemExit(f"no run of {profile.name} is done: i2p run --profile {profile.name}")
    where = {}
    for name, specs in profile.experiments.items():
        for spec in specs:
            where.setdefault(spec.key_fields(), []).append(name)
    about = finished([run.spec for run in runs])
    settings = pd.DataFrame([run.spec.row() for run in runs]).astype(object)
    same = {name: column.iloc[0] for name, column in settings.items()
            if column.map(repr).nunique() == 1}  # fmt: skip
    rows = settings.drop(columns=list(same)).assign(
        experiment=[";".join(where[run.spec.key_fields()]) for run in runs],
        **{name: about[name] for name in SCORES if name in about},
        **pd.DataFrame([_on_test(run) for run in runs]),
        key=about["key"], hardware=about["hardware"], torch=about["torch"],
        finished=about["finished"],
    )  # fmt: skip
    epochs = pd.concat([
        run.history[["epoch", "train_loss", "val_top1"]].assign(key=run.key[:16]) for run in runs
    ])
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "runs.csv", rows)
    write_csv(folder / "epochs.csv", epochs.round(5))
    write_text(folder / "shared.json", json.dumps(same, indent=1, sort_keys=True) + "\n")
    files = {name: sha256(folder / name) for name in ("epochs.csv", "runs.csv", "shared.json")}
    manifest = {"files": files, "planned": len(profile.all_specs()), "done": len(runs)}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return f"{len(runs)} of {manifest['planned']} runs of {profile.name} in {folder}"


def _on_test(run: RunResult) -> dict[str, object]:
    """Return the hits on the test clouds and how collapsed their features are, where measured."""
    kept = run.features()
    if "test_logits" not in kept:
        return {}
    labels = kept["test_labels"]
    hits = kept["test_logits"].argmax(1) == labels
    return {"hits": np.packbits(hits).tobytes().hex(), "clouds": len(hits),
            "cdnv": unbiased_cdnv(kept["test_features"], labels)}  # fmt: skip


if __name__ == "__main__":
    main()
