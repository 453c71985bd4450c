"""What a profile would do here, before it is done: its runs, what they lack, what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from i2p_lib.markup import duration
from i2p_lib.runs.cost import CostModel
from i2p_lib.runs.needs import counted, missing_inputs
from i2p_lib.runs.profiles import Profile
from i2p_lib.runs.spec import AnySpec, distinct
from i2p_lib.runs.tables import status

COLUMNS = ["run", "experiments", "state", "why", "needs", "seconds", "gib"]


def plan(profile: Profile, costs: CostModel, store: str | Path | None = None) -> pd.DataFrame:
    """Return one row per distinct run of a profile, teachers included (columns COLUMNS).

    experiments: the names of those that use it.  state, why: as `status` says.  needs: what this
    machine lacks.  seconds, gib: what is left to spend on it (0 where it is done, NaN where its
    network is unknown here).  Nothing is trained but the steps that `CostModel` measures.
    """
    users: dict[str, dict[str, None]] = {}  # a dict without values is a set that keeps its order
    specs: dict[str, AnySpec] = {}
    for name, group in profile.experiments.items():
        for spec in (one for student in group for one in student.chain()):
            specs[spec.key_fields()] = spec
            users.setdefault(spec.key_fields(), {})[name] = None
    table = status(list(specs.values()), store).drop(columns="key")
    table["experiments"] = list(map(tuple, users.values()))
    table["needs"] = list(map(missing_inputs, specs.values()))
    spent = [(0.0, 0.0) if state == "done" else costs.cost(spec)
             for state, spec in zip(table["state"], specs.values(), strict=True)]  # fmt: skip
    table[["seconds", "gib"]] = np.array(spent, float).reshape(-1, 2)
    return table[COLUMNS]


def plan_text(profile: Profile, table: pd.DataFrame, costs: CostModel) -> str:
    """Return a plan as text: experiments, time and memory, total; see `missing_text`, too."""
    lacking = table["needs"].map(len) > 0
    lines = [f"profile {profile.name}: {profile.description}", "", "experiments:"]
    for name in profile.experiments:
        here = table["experiments"].map(lambda users, name=name: name in users)
        mine, lack = table[here], int(lacking[here].sum())
        shared = int((mine["experiments"].map(len) > 1).sum())
        states = ", ".join(f"{n} {state}" for state, n in mine["state"].value_counts().items())
        lines.append(
            f"  {name:<22} {len(mine):>3} runs, {shared} shared with others; {states}"
            f"{f'; {lack} lack an input' if lack else ''}; {_cost_text(mine)}"
        )
    ready = table[(table["state"] != "done") & ~lacking]
    lines += [
        "",
        f"total: {len(table)} runs; one after another {_cost_text(table)}",
        f"that can be trained now: {len(ready)} runs; {_cost_text(ready)}",
        f"the estimate is for this machine: {costs.machine()}",
        f"how sure it is: {costs.error()}",
    ]
    return "\n".join(lines)


def missing_text(profile: Profile) -> str:
    """Return what this machine lacks for a profile, each input once; nothing is measured for it."""
    specs = distinct(spec for student in profile.all_specs() for spec in student.chain())
    waiting = counted(map(missing_inputs, specs))
    lines = ["missing inputs:" if waiting or not profile.images else "missing inputs: none"]
    for need, runs in waiting.items():
        mark = "" if need.known else "UNKNOWN NAME: "
        lines.append(f"  {need.name} ({runs} runs)\n    {mark}{need.how}")
    if not profile.images:
        lines.append(
            "  photographs of your own, for Figure 4 and Table 5 (chapter 5 shows those that the "
            "book's dependencies bring)\n    the paper has Broden and all of ImageNet-1k: write "
            f"the line `images: FOLDER`, with one sub-folder for each class, into {profile.path}"
        )
    return "\n".join(lines)


def _cost_text(part: pd.DataFrame) -> str:
    unknown = int(part["seconds"].isna().sum())
    if not len(part) or unknown == len(part):
        return "no estimate" if len(part) else "0 s"
    text = duration(part["seconds"].sum())
    if part["gib"].max() > 0:
        text += f", up to {part['gib'].max():.1f} GiB each"
    return text + (f" (without {unknown} of unknown networks)" if unknown else "")
