"""What runs need and what is left to do: inputs that are not here, states, a profile's plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from i2p_lib.data.scenes import prepare_scenes, scene_card, scene_names
from i2p_lib.files import once
from i2p_lib.markup import duration
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import DamagedRun, Entry, last_line, store_root, stored_runs

if TYPE_CHECKING:
    from i2p_lib.runs.cost import CostModel
    from i2p_lib.runs.profiles import Profile


@dataclass(frozen=True)
class Need:
    """An input that a run lacks.

    name: such as "data set modelnet40".  how: how to get it, or what is wrong with its name.
    known: False where no card describes it, so that it cannot be got (or its file is damaged).
    """

    name: str
    how: str
    known: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.how})"


def prepare(specs: Sequence[AnySpec], progress: bool = True) -> None:
    """Make what runs need and this machine can make: simulated scenes that are not here yet."""
    names = [name for name in dict.fromkeys(spec.on for spec in specs)
             if name in scene_names() and scene_card(name).simulated]  # fmt: skip
    with ThreadPoolExecutor() as pool:  # one bar is enough for both
        list(pool.map(lambda name: prepare_scenes(name, progress and name == names[0]), names))


def missing_inputs(spec: AnySpec, known: dict | None = None) -> tuple[Need, ...]:
    """Return what a run needs and this machine lacks, its data before its weights.

    known: keeps the answers for other specs, see `store.key_parts`.
    """
    def need(name: str, look: Callable[[], str]) -> Need | None:
        try:
            once(known, ("hash", name), look)
        except (FileNotFoundError, ValueError) as error:
            return Need(name, str(error), known=isinstance(error, FileNotFoundError))

    needs = [once(known, ("need", name), partial(need, name, look))
             for name, look in spec.inputs().values()]  # fmt: skip
    return tuple(filter(None, needs))


def reason(needs: Sequence[Need]) -> str:
    """Return why a run is skipped, in one line: "needs A (how to get it); B (...)"."""
    return "needs " + "; ".join(map(str, needs))


Skipped = list[tuple[AnySpec, tuple[Need, ...]]]


def available(
    specs: Iterable[AnySpec], root: str | Path | None = None
) -> tuple[list[Entry], Skipped]:
    """Split specs into the store entries that can be trained here and [(spec, needs)] skipped.

    Raises ValueError, before any work, for a name that no card knows or a damaged file.
    """
    entries, skipped, known = [], [], {}
    for spec in specs:
        needs = missing_inputs(spec, known)
        if unknown := [need for need in needs if not need.known]:
            raise ValueError(f"{unknown[0].name}: {unknown[0].how}")
        if needs:
            skipped.append((spec, needs))
        else:
            entries.append(Entry.of(spec, root, known))
    return entries, skipped


def counted(needs: Iterable[Sequence[Need]]) -> Counter[Need]:
    """Return each need with the number of runs that have it, given those of each run."""
    return Counter(need for of_run in needs for need in of_run)


def skipped_text(skipped: Skipped) -> str:
    """Return what skipped runs lack, one line for each input with the number of such runs."""
    counts = counted(needs for _, needs in skipped)
    return "\n".join(f"  {runs} skipped: needs {need}" for need, runs in counts.items())


def lacking_text(specs: Sequence[AnySpec]) -> str | None:
    """Return why nothing of these specs can be trained here; None where something can."""
    known: dict = {}
    needs = [missing_inputs(spec, known) for spec in specs]
    if not needs or not all(needs):
        return None
    names = dict.fromkeys(need.name for need in counted(needs))
    return f"none of its {len(needs)} runs can be trained here, needs {', '.join(names)}"


def status(specs: Sequence[AnySpec], store: str | Path | None = None) -> pd.DataFrame:
    """Return one row per spec: run, state (done, running, failed, stale or missing), why, key.

    A run whose data or weights are not on this machine is missing; why says how to get them.
    """
    found = sorted(stored_runs(store), key=lambda item: item[0].stat().st_mtime)
    older = {parts["spec"]: parts for _, parts in found}  # the newest of each spec
    rows, known = [], {}
    here = {path.name for path in store_root(store).glob("*")}
    for spec in specs:
        if needs := missing_inputs(spec, known):
            key, state, why = "", "missing", reason(needs)
        else:
            entry = Entry.of(spec, store, known)
            key, (state, why) = entry.key[:16], _state_of(entry, older, here)
        rows.append({"run": spec.label(), "state": state, "why": why, "key": key})
    return pd.DataFrame(rows, columns=["run", "state", "why", "key"])


def _state_of(
    entry: Entry, older: dict[str, dict[str, str]], here: set[str]
) -> tuple[str, str]:
    if not here.isdisjoint((entry.folder.name, f".{entry.folder.name}.lock")):
        try:
            if entry.done():
                return "done", ""
        except DamagedRun as error:
            return "failed", str(error)
        if entry.locked():
            return "running", ""
        state = entry.state()
        if state.get("state") == "failed":
            return "failed", last_line(str(state.get("traceback", "")))
        if state:
            return "missing", "interrupted; goes on from its checkpoint where there is one"
    before = older.get(entry.parts["spec"])
    if before is None:
        return "missing", "never run"
    return "stale", f"changed since: {entry.changed(before)}"


def plan(profile: Profile, costs: CostModel, store: str | Path | None = None) -> pd.DataFrame:
    """Return one row per distinct run of a profile, teachers included.

    experiments: the names of those that use it.  run, state, why: as in `status`.  needs: what this
    machine lacks.  seconds, gib: what is left to spend on it (0 where it is done, NaN where its
    network is unknown here).  Nothing is trained but the steps that `CostModel` measures.
    """
    users: dict[AnySpec, dict[str, None]] = {}  # a dict without values: a set that keeps its order
    for name, group in profile.experiments.items():
        for spec in (one for student in group for one in student.chain()):
            users.setdefault(spec, {})[name] = None
    table = status(list(users), store).drop(columns="key")
    table["experiments"] = list(map(tuple, users.values()))
    known: dict = {}
    table["needs"] = [missing_inputs(spec, known) for spec in users]
    spent = [(0.0, 0.0) if state == "done" else costs.cost(spec)
             for state, spec in zip(table["state"], users, strict=True)]  # fmt: skip
    table[["seconds", "gib"]] = np.array(spent, float).reshape(-1, 2)
    return table


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
    specs = dict.fromkeys(one for spec in profile.all_specs() for one in spec.chain())
    known: dict = {}
    waiting = counted(missing_inputs(spec, known) for spec in specs)
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
