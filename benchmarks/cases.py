"""What a part of the suite consists of: cases, each measured by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One measurement: its name, about how many seconds it takes, and what returns its rows."""

    name: str
    seconds: float
    measure: Callable[[], list[dict]]


@dataclass(frozen=True)
class Scale:
    """How much is measured: voxels at most, objects of a batch, seconds a case may take."""

    voxels: int = 500_000
    batch: int = 16
    budget: float = 1.0
    networks: tuple[str, ...] = ("resnet18", "resnet50", "efficientnet_lite0")
