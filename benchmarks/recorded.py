"""The page of recorded results: runs carried out once elsewhere, kept as tables in the project."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from i2p_lib.analysis.methods import with_method
from i2p_lib.markup import cell, raw, table
from i2p_lib.runs.profiles import load_profile, profile_names
from i2p_lib.sources import PACKAGE

FOLDER = PACKAGE / "recorded"
_GROUPS = ["data", "model", "method", "init", "lr", "shots", "epochs"]


def recorded(folder: Path = FOLDER) -> str:
    """Return the page of the tables that `i2p results` wrote and that were kept."""
    parts = [_part(file) for file in sorted(folder.glob("*.csv"))]
    return (
        "# Recorded results\n\n"
        "These runs were carried out once and their numbers kept, because they take longer than "
        "this book may or another machine.\n"
        "They were not run together with this book; `i2p run --profile NAME` runs them anew, and "
        "`i2p results --profile NAME -o FILE` writes such a table.\n"
        "Each file holds one row per run with all of its settings; its name begins with the "
        "profile's.\n"
        "Where scratch has a word in brackets, its random weights were made by that rule (a random "
        "image network, *inflated*) and not by the protocol's.\n\n" + "\n".join(parts)
    )


def _part(file: Path) -> str:
    runs = with_method(pd.read_csv(file))
    column, what = ("top1", "test") if "top1" in runs else ("val_top1", "validation")
    init = runs["init"].fillna("") if "init" in runs else ""
    shots = runs["shots"].fillna(0)
    grouped = runs.assign(shots=shots, init=init).groupby(_GROUPS, observed=True)[column]
    rows = []
    for (data, model, method, init, lr, shots, epochs), values in grouped:
        spread = f" ± {100 * values.std():.1f}" if len(values) > 1 else ""
        rows.append([
            f"{cell(data)},<br>{cell(model)}", cell(f"{method} ({init})" if init else method),
            f"{lr:g}",
            str(int(shots)) if shots else "all", str(epochs), str(len(values)),
            f"{100 * values.mean():.1f}{spread}",
        ])  # fmt: skip
    columns = ["data, network", "method", "learning rate", "shots", "epochs", "runs",
               f"{what} accuracy (%)"]  # fmt: skip
    return (
        f"## {_title(file)}\n\n{raw(f'<p>{_provenance(file, runs)}</p>')}\n"
        f"{table(columns, rows, [2, 3, 4, 5, 6])}"
    )


def _title(file: Path) -> str:
    """Return the file's name as a heading; only plain names are read as Markdown unchanged."""
    if not file.stem.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{file}: expected a name of letters, digits, - and _")
    return f"`{file.stem}`"


def _provenance(file: Path, runs: pd.DataFrame) -> str:
    """Return where, with what and when a file's runs were carried out, as far as it says."""
    profile = file.stem.split("-")[0]
    known = [f"i2p_lib/recorded/{cell(file.name)}: {len(runs)} runs"]
    if profile in profile_names():
        planned = len(load_profile(profile).all_specs())
        known = [f"{known[0]} of the {planned} of profile {cell(profile)}"]
    for column, title in (("hardware", "on"), ("torch", "with torch"), ("finished", "finished")):
        if column in runs:
            values = sorted(runs[column].dropna().astype(str).unique())
            text = " to ".join(dict.fromkeys((values[0], values[-1]))) if values else ""
            known.append(f"{title} {cell(text)}")
    minutes = runs["seconds_training"].sum() / 60
    known.append(f"{minutes:.0f} minutes of training in all")
    return ", ".join(known) + "."
