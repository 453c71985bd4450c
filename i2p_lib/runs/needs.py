"""What runs need from outside: data sets and weight files, here or not, known or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from i2p_lib.data.scenes import prepare_scenes, scene_card, scene_names
from i2p_lib.runs.spec import AnySpec
from i2p_lib.runs.store import Entry


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
    for name in dict.fromkeys(spec.on for spec in specs):
        if name in scene_names() and scene_card(name).simulated:
            prepare_scenes(name, progress)


def missing_inputs(spec: AnySpec) -> tuple[Need, ...]:
    """Return what a run needs and this machine lacks, its data before its weights."""
    needs = []
    for name, look in spec.inputs().values():
        try:
            look()
        except FileNotFoundError as error:
            needs.append(Need(name, str(error), known=True))
        except ValueError as error:
            needs.append(Need(name, str(error), known=False))
    return tuple(needs)


def reason(needs: Sequence[Need]) -> str:
    """Return why a run is skipped, in one line: "needs A (how to get it); B (...)"."""
    return "needs " + "; ".join(map(str, needs))


Skipped = list[tuple[AnySpec, tuple[Need, ...]]]


def available(
    specs: Sequence[AnySpec], root: str | Path | None = None
) -> tuple[list[Entry], Skipped]:
    """Split specs into the store entries that can be trained here and [(spec, needs)] skipped.

    Raises ValueError, before any work, for a name that no card knows or a damaged file.
    """
    entries, skipped = [], []
    for spec in specs:
        needs = missing_inputs(spec)
        if unknown := [need for need in needs if not need.known]:
            raise ValueError(f"{unknown[0].name}: {unknown[0].how}")
        if needs:
            skipped.append((spec, needs))
        else:
            entries.append(Entry.of(spec, root))
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
    entries, skipped = available(specs)
    if entries or not skipped:
        return None
    names = dict.fromkeys(need.name for need in counted(needs for _, needs in skipped))
    return f"none of its {len(skipped)} runs can be trained here, needs {', '.join(names)}"
