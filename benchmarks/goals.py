"""The goals for the sparse engine's speed, as data, and their evaluation on measured tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

PARTS = ("layers", "steps", "pipeline", "growth")
OURS, HALF = "ours", "ours, bf16"
NORM = "norm + ReLU"
LEAST_VOXELS = 2000  # below that a layer's time is mostly the call's
GEMM_SIDE = 1024  # of the square product that layers are compared with
GEMM_WORK = 2 * GEMM_SIDE**3  # its floating point operations
COPIED = 2**24  # float32 values of the copy (64 MiB)
COPY_BYTES = 2 * 4 * COPIED  # read and written
DEPTHWISE_PASSES = 7  # reads and writes of [N, C] that forward + backward cannot do without
INPUT_STAGES = ("augmentation", "voxelisation", "maps")

Tables = Mapping[str, pd.DataFrame]
"""The measured tables of one machine by part; a part that was not measured is missing."""


@dataclass(frozen=True)
class Reading:
    """What was measured for a goal: the value that decides, and what it belongs to."""

    value: float
    where: str


@dataclass(frozen=True)
class Goal:
    """A goal: its text, how its value is computed, and the bound that the value must keep.

    `least` says whether the bound is the least allowed value or the largest.
    """

    name: str
    how: str
    bound: float
    least: bool
    read: Callable[[Tables], Reading | None]


@dataclass(frozen=True)
class Verdict:
    """A goal with what was measured; `ratio` is at least 1 where the goal is met.

    `met` is None where nothing was measured.
    """

    goal: Goal
    reading: Reading | None

    @property
    def ratio(self) -> float:
        """Value over bound, or bound over value where small values are good; NaN: no value."""
        if self.reading is None:
            return math.nan
        value, bound = self.reading.value, self.goal.bound
        return value / bound if self.goal.least else bound / value

    @property
    def met(self) -> bool | None:
        """Whether the value keeps the bound."""
        return None if self.reading is None else self.ratio >= 1


def read_results(folder: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Return {hardware: {part: table}} of the files `<part>-<hardware>.csv` of a folder."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for part in PARTS:
        for file in sorted(folder.glob(f"{part}-*.csv")):
            hardware = file.stem.removeprefix(f"{part}-")
            found.setdefault(hardware, {})[part] = pd.read_csv(file, keep_default_na=True)
    return found


def evaluate(tables: Tables) -> list[Verdict]:
    """Return the verdict on every goal, in the order of `GOALS`."""
    return [Verdict(goal, goal.read(tables)) for goal in GOALS]


def as_text(verdicts: list[Verdict]) -> str:
    """Return the verdicts as lines for a terminal."""
    lines = []
    for verdict in verdicts:
        word = {True: "met", False: "missed", None: "not measured"}[verdict.met]
        found = "" if verdict.reading is None else (
            f"  ratio {verdict.ratio:.2f}: {verdict.reading.value:.3g} ({verdict.reading.where})")
        lines.append(f"{word:12} {verdict.goal.name}{found}")
    return "\n".join(lines)


def measured_layers(tables: Tables) -> pd.DataFrame | None:
    """Return the rows of layers that have times, with their rates.

    gemm_share: multiplications of existing pairs over those of the product in the same time;
    traffic: time over that in which a copy moves what a depthwise layer must read and write.
    """
    if "layers" not in tables:
        return None
    rows = tables["layers"].dropna(subset=["both_s"]).copy()
    work = 6 * rows["pairs"] * rows["channels"] ** 2
    rows["gemm_share"] = work / GEMM_WORK / rows["in_gemms"]
    moved = 4 * DEPTHWISE_PASSES * rows["voxels"] * rows["channels"]
    rows["traffic"] = rows["in_copies"] / (moved / COPY_BYTES)
    return rows


def against_peers(layers: pd.DataFrame, column: str = "times_ours") -> pd.DataFrame:
    """Return one row per layer, channels and voxel set: the fastest peer and its time over ours."""
    peers = layers[~layers["engine"].isin([OURS, HALF]) & (layers["layer"] != NORM)]
    if peers.empty:
        return peers
    return peers.loc[peers.groupby(["layer", "channels", "voxels"])[column].idxmin()]


def growth_exponents(growth: pd.DataFrame) -> pd.Series:
    """Return b of the law seconds = a * voxels^b for each thing, from `LEAST_VOXELS` voxels on."""
    large = growth[growth["voxels"] >= 0.8 * LEAST_VOXELS]
    return pd.Series({
        what: float(np.polyfit(np.log(part["voxels"]), np.log(part["seconds"]), 1)[0])
        for what, part in large.groupby("what", sort=False) if len(part) > 1
    }, dtype=float)  # fmt: skip


def input_shares(pipeline: pd.DataFrame) -> pd.Series:
    """Return the share of a step that its input takes, for each network."""
    rows = pipeline[pipeline["stage"].isin(INPUT_STAGES)]
    return rows.groupby("network", sort=False)["share"].sum()


def _worst(rows: pd.DataFrame, column: str, least: bool, named: Callable) -> Reading | None:
    """Return the row that is farthest from the goal."""
    rows = rows.dropna(subset=[column])
    if rows.empty:
        return None
    row = rows.loc[rows[column].idxmin() if least else rows[column].idxmax()]
    return Reading(float(row[column]), named(row))


def _layer_name(row: pd.Series) -> str:
    return f"{row['layer']}, {row['channels']} channels, {row['voxels']:,} voxels"


def _level(column: str) -> Callable[[Tables], Reading | None]:
    def read(tables: Tables) -> Reading | None:
        layers = measured_layers(tables)
        if layers is None:
            return None
        pairs = against_peers(layers[layers["voxels"] > LEAST_VOXELS], column)
        level = int((pairs[column] >= 1).sum()) if len(pairs) else 0
        return _worst(pairs, column, True, lambda row: (
            f"{_layer_name(row)}, {row['engine']}; level or ahead in {level} of {len(pairs)}"))
    return read


def _gemm_share(channels: int) -> Callable[[Tables], Reading | None]:
    def read(tables: Tables) -> Reading | None:
        layers = measured_layers(tables)
        if layers is None:
            return None
        rows = layers[(layers["layer"] == "submanifold 3") & (layers["channels"] == channels)
                      & (layers["engine"] == OURS) & (layers["voxels"] > LEAST_VOXELS)]
        return _worst(rows, "gemm_share", True, lambda row: f"{row['voxels']:,} voxels")
    return read


def _traffic(tables: Tables) -> Reading | None:
    layers = measured_layers(tables)
    if layers is None:
        return None
    rows = layers[layers["layer"].str.startswith("depthwise") & (layers["engine"] == OURS)
                  & (layers["voxels"] > LEAST_VOXELS)]
    kept = int((rows["traffic"] <= 2).sum())
    return _worst(rows, "traffic", False, lambda row: (
        f"{_layer_name(row)}; kept in {kept} of {len(rows)}"))


def _norm(tables: Tables) -> Reading | None:
    layers = measured_layers(tables)
    if layers is None:
        return None
    rows = layers[(layers["layer"] == NORM) & (layers["engine"] == "torch")]
    return _worst(rows, "times_ours", True, lambda row: (
        f"{row['channels']} channels, {row['voxels']:,} voxels"))


def _steps_ahead(tables: Tables) -> Reading | None:
    if "steps" not in tables:
        return None
    rows = tables["steps"].dropna(subset=["step_s"])
    peers = rows[~rows["engine"].isin([OURS, HALF])]
    if peers.empty:
        return None
    fastest = peers.loc[peers.groupby("network")["times_ours"].idxmin()]
    return _worst(fastest, "times_ours", True, lambda row: f"{row['network']}, {row['engine']}")


def _half(tables: Tables) -> Reading | None:
    if "steps" not in tables:
        return None
    rows = tables["steps"]
    rows = rows[rows["engine"] == HALF].assign(gain=lambda half: 1 / half["times_ours"])
    return _worst(rows, "gain", True, lambda row: row["network"] + _half_products(tables))


def _half_products(tables: Tables) -> str:
    """Return how fast the machine multiplies bf16, where the layers' table tells."""
    layers = measured_layers(tables)
    if layers is None or not (layers["engine"] == HALF).any():
        return ""
    seconds = (layers["both_s"] / layers["in_gemms"]).groupby(layers["engine"]).median()
    times = seconds[OURS] / seconds[HALF]
    return f"; this machine's bf16 matrix products have {times:.2f} times float32's rate"


def _memory(tables: Tables) -> Reading | None:
    if "steps" not in tables:
        return None
    rows = tables["steps"]
    rows = rows[rows["engine"] == OURS].assign(
        times=lambda ours: ours["peak_bytes"] / ours["saved_bytes"])
    return _worst(rows, "times", False, lambda row: row["network"])


def _input(tables: Tables) -> Reading | None:
    if "pipeline" not in tables:
        return None
    shares = input_shares(tables["pipeline"]).rename("share").reset_index()
    return _worst(shares, "share", False, lambda row: row["network"])


def _linear(tables: Tables) -> Reading | None:
    if "growth" not in tables:
        return None
    found = growth_exponents(tables["growth"]).rename("exponent").rename_axis("what").reset_index()
    return _worst(found, "exponent", False, lambda row: row["what"])


_ABOVE = f"above {LEAST_VOXELS:,} voxels"
GOALS: tuple[Goal, ...] = (
    Goal("Level with the fastest peer on every layer, forward + backward",
         f"least of the fastest peer's time over ours, all layers {_ABOVE}", 1.0, True,
         _level("times_ours")),
    Goal("Level with the fastest peer on every layer, forward alone",
         f"least of the fastest peer's time over ours, all layers {_ABOVE}", 1.0, True,
         _level("times_ours_forward")),
    Goal("1.3 times faster than the fastest peer on whole training steps",
         "least over the networks of the fastest peer's time over ours, float32", 1.3, True,
         _steps_ahead),
    Goal("65 % of the GEMM peak at 64 channels",
         f"least share over the voxel sets {_ABOVE}, forward + backward of a submanifold "
         "convolution, existing pairs only", 0.65, True, _gemm_share(64)),
    Goal("80 % of the GEMM peak at 256 channels", "as above", 0.80, True, _gemm_share(256)),
    Goal("bf16 1.6 times faster than float32 on whole training steps",
         "least over the networks of the float32 step's time over the bf16 step's", 1.6, True,
         _half),
    Goal("Depthwise layers within 2 times their memory traffic",
         f"largest time over that of a copy of {DEPTHWISE_PASSES} N C values, all depthwise layers "
         f"{_ABOVE}, forward + backward", 2.0, False, _traffic),
    Goal("BatchNorm with its activation faster than torch's two layers",
         "least of torch's time over ours, forward + backward", 1.0, True, _norm),
    Goal("Augmentation, voxelisation and maps at most 10 % of a training step",
         "largest share over the networks, all stages one after the other", 0.10, False, _input),
    Goal("Memory of a step at most 1.5 times the saved activations",
         "largest peak of what a step makes and releases, maps included, over the bytes saved for "
         "the backward pass; parameters, gradients and the optimizer's state do not count", 1.5,
         False, _memory),
    Goal("Cost linear in the voxels up to 500,000",
         f"largest exponent b of seconds = a voxels^b, fitted {_ABOVE}; 1.1 counts as linear", 1.1,
         False, _linear),
)  # fmt: skip
