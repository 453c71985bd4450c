"""The page of recorded results: runs carried out once elsewhere, kept as tables in the project."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from i2p_lib.analysis.methods import with_method
from i2p_lib.markup import cell, raw, table
from i2p_lib.paper.claims import Study
from i2p_lib.runs.profiles import load_profile, profile_names
from i2p_lib.sources import PACKAGE

FOLDER = PACKAGE / "recorded"
_GROUPS = ["experiment", "data", "model", "method", "start", "lr", "shots", "epochs"]


def recorded(folder: Path = FOLDER) -> str:
    """Return the page of the tables that were kept: files of `i2p results`, and studies."""
    tables = {file: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}
    studies = {path.parent: Study.load(path.parent)
               for path in sorted(folder.glob("*/manifest.json"))}  # fmt: skip
    parts = [_part(place, runs) for place, runs in tables.items()]
    parts += [_part(place, study.runs) for place, study in studies.items()]
    return (
        "# Recorded results\n\n"
        "These runs were carried out once and their numbers kept, because they take longer than "
        "this book may or another machine.\n"
        "They were not run together with this book; `i2p run --profile NAME` runs them anew, "
        "`i2p results --profile NAME -o FILE` writes such a table, and "
        "`data_scripts/record_study.py` keeps a study.\n"
        "Each row of a table is one run with all of its settings; its name begins with the "
        "profile's.\n"
        "Where a method has words in brackets, its random weights were made by that rule (a random "
        "image network, *inflated*) and not by the protocol's, or its weights were scaled to the "
        "size of others.\n\n" + "\n".join(parts)
    )


def _part(place: Path, runs: pd.DataFrame) -> str:
    runs = with_method(runs if "experiment" in runs else runs.assign(experiment=""))
    column, what = ("top1", "test") if "top1" in runs else ("val_top1", "validation")
    init, norms = (runs[name].fillna("") if name in runs else pd.Series("", runs.index)
                   for name in ("init", "norms"))  # fmt: skip
    scaled = norms.where(norms == "", "size of " + norms)
    start = (init + ", " + scaled).str.strip(", ")
    shots = runs["shots"].fillna(0)
    grouped = runs.assign(shots=shots, start=start).groupby(_GROUPS, observed=True)[column]
    rows = []
    for (experiment, data, model, method, start, lr, shots, epochs), values in grouped:
        spread = f" ± {100 * values.std():.1f}" if len(values) > 1 else ""
        rows.append([
            "<br>".join(map(cell, filter(None, (experiment, data, model)))),
            cell(f"{method} ({start})" if start else method),
            f"{lr:g}",
            str(int(shots)) if shots else "all", str(epochs), str(len(values)),
            f"{100 * values.mean():.1f}{spread}",
        ])  # fmt: skip
    columns = ["experiment, data, network", "method", "learning rate", "shots", "epochs", "runs",
               f"{what} accuracy (%)"]  # fmt: skip
    return (
        f"## {_title(place)}\n\n{raw(f'<p>{_provenance(place, runs)}</p>')}\n"
        f"{table(columns, rows, [2, 3, 4, 5, 6])}"
    )


def _title(place: Path) -> str:
    """Return a table's name as a heading; only plain names are read as Markdown unchanged."""
    if not place.stem.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{place}: expected a name of letters, digits, - and _")
    return f"`{place.stem}`"


def _provenance(place: Path, runs: pd.DataFrame) -> str:
    """Return where, with what and when a table's runs were carried out, as far as it says."""
    profile = place.stem.split("-")[0]
    known = [f"i2p_lib/recorded/{cell(place.name)}: {len(runs)} runs"]
    if profile in profile_names():
        planned = len(load_profile(profile).all_specs())
        known = [f"{known[0]} of the {planned} of profile {cell(profile)}"]
    for column, title in (("hardware", "on"), ("torch", "with torch"), ("finished", "finished")):
        if column in runs:
            values = sorted(runs[column].dropna().astype(str).unique())
            text = " to ".join(dict.fromkeys((values[0], values[-1]))) if values else ""
            known.append(f"{title} {cell(text)}")
    minutes = runs["seconds_training" if "seconds_training" in runs else "seconds_total"].sum() / 60
    known.append(f"{minutes:.0f} minutes of training in all")
    return ", ".join(known) + "."
