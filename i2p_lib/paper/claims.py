"""The paper's claims as data, and what recorded runs say about each: same, opposite, undecided."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, ValidationError

from i2p_lib.analysis.bootstrap import DRAWS, interval, two_way
from i2p_lib.analysis.collapse import unbiased_cdnv
from i2p_lib.data.manifests import read_manifest
from i2p_lib.files import sha256
from i2p_lib.runs.tables import RunResult, joined
from i2p_lib.sources import PACKAGE
from i2p_lib.train.settings import explain, unknown_key

RECORDED = PACKAGE / "recorded" / "study"
CLAIMS_FILE = Path(__file__).with_name("claims.yml")
SAME, OPPOSITE, UNDECIDED, NOT_RUN = "same direction", "opposite direction", "undecided", "not run"
LEVEL, FEWEST = 0.05, 5  # no verdict rests on fewer pairs


class Claim(BaseModel, extra="forbid", frozen=True):
    """One claim of the paper and the contrast that tests it; the keys are explained in the file."""

    id: str
    claim: str
    place: str
    measure: Literal["top1", "epochs", "first_epoch", "cdnv", "gain_of_shots"] | None = None
    contrast: tuple[str, str] | None = None
    says: Literal["more", "less"] = "more"
    margin: float = 0.0
    target: float | None = Field(None, gt=0, lt=1)
    shots: int | tuple[int, int] | None = None
    primary: bool = False
    chapter: str
    paper: float | None = None
    derived: str | None = None
    note: str | None = None
    not_run: str | None = None


class Claims(BaseModel, extra="forbid", frozen=True):
    """The file of claims: the settings and arms that contrasts name, and the claims in order."""

    settings: dict[str, dict[str, Any]]
    arms: dict[str, dict[str, Any]]
    claims: tuple[Claim, ...]

    def title(self, setting: str) -> str:
        """Return what a setting is called."""
        return self.settings[setting]["title"]

    def runs_of(self, arm: str, setting: str, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the runs of an arm in a setting; what neither names is unset in them."""
        where = {k: v for k, v in self.settings[setting].items() if k != "title"}
        images = where.pop("images")
        wanted = {"init": None, "norms": None} | self.arms[arm] | where
        wanted = {k: images if v == "images" else v for k, v in wanted.items()}
        fits = [runs[k].isna() if v is None else runs[k].eq(v) for k, v in wanted.items()]
        return runs[np.logical_and.reduce(fits)]


def load_claims(path: Path = CLAIMS_FILE) -> Claims:
    """Read and check the claims.

    Raises ValueError for an unknown key or arm, a claim that lacks what its measure reads or that
    has no contrast and does not say why it is not run, and an id that occurs twice.
    """
    try:
        claims = Claims.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path.name}: {explain(error)}") from error
    names = [claim.id for claim in claims.claims]
    for claim in claims.claims:
        unknown = [arm for arm in claim.contrast or () if arm not in claims.arms]
        wrong = {"its id occurs twice": names.count(claim.id) > 1,
                 "give a contrast, or say why it is not_run":
                     bool(claim.contrast) == bool(claim.not_run),
                 "epochs need a target": claim.measure == "epochs" and claim.target is None,
                 "gain_of_shots needs two shots, all others one or none":
                     (claim.measure == "gain_of_shots") != isinstance(claim.shots, tuple),
                 **{unknown_key(arm, claims.arms, "arm"): True for arm in unknown}}
        for text in (text for text, is_so in wrong.items() if is_so):
            raise ValueError(f"{path.name}: {claim.id}: {text}")
    return claims


@dataclass(frozen=True)
class Study:
    """A recorded study, as data_scripts/record_study.py writes it: its runs, and their epochs.

    planned: how many runs its profile has; the others were not run when it was recorded.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    planned: int = 0

    @classmethod
    def of(cls, results: Sequence[RunResult]) -> Self:
        """Return finished runs of clouds as a study: those of a reader, beside the recorded one."""
        rows = [r.spec.row() | r.metrics | on_test(r) | {"key": r.key[:16]} for r in results]
        epochs = joined(results, lambda run: run.history[["epoch", "train_loss", "val_top1"]])
        return cls(pd.DataFrame(rows), epochs, len(rows))

    @classmethod
    def load(cls, folder: Path = RECORDED) -> Self:
        """Read a study's tables; raises ValueError where a file is not the one that was sealed."""
        manifest = read_manifest(folder, ("files", "planned"))
        for name, wanted in manifest["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != wanted:
                raise ValueError(f"{folder / name} was changed after it was recorded: restore it, "
                                 "or move the folder away and record the study anew")
        shared = json.loads((folder / "shared.json").read_text(encoding="utf-8"))
        digits = dict.fromkeys(("hits", "key", "spec"), str)  # hexadecimal, which may look decimal
        runs, epochs = (pd.read_csv(folder / f"{name}.csv", dtype=digits)
                        for name in ("runs", "epochs"))
        return cls(runs.assign(**shared), epochs, manifest["planned"])


def findings(claims: Claims, study: Study, setting: str, seed: int = 0,
             draws: int = DRAWS) -> pd.DataFrame:
    """Return one row per claim: value, low, high, p, pairs, p_holm and verdict in one setting.

    Two arms are paired by seed, few-shot ones by episode; every draw takes pairs and test clouds
    (`two_way`), alike for all claims; of measures with one number a run, pairs alone.  p is
    two-sided, from the draws, against the claim's margin.  p_holm corrects the primary claims
    together; a verdict needs FEWEST pairs and p_holm (primary) or p (exploratory) below LEVEL, and
    else is undecided.
    """
    rows, columns = [], ["id", "value", "low", "high", "pairs", "p", "more", "verdict"]
    for claim in claims.claims:
        found, rng = None, np.random.default_rng(seed)
        if claim.contrast is not None:
            sides = [claims.runs_of(arm, setting, study.runs) for arm in claim.contrast]
            shots = claim.shots if isinstance(claim.shots, tuple) else (claim.shots,)
            pairs = _paired(*sides, shots)
            if len(pairs[0][0]) >= 2:
                if claim.measure == "epochs":
                    curves = [_curves(side, study) for side in pairs[0]]
                    found = *_epochs(*curves, claim.target, rng, draws), len(curves[0])
                else:
                    gaps = _gaps(claim, pairs, study)
                    found = float(gaps.mean()), two_way(gaps, rng, draws), len(gaps)
        if found is None:
            why = claim.not_run or "its runs are not recorded"
            rows.append((claim.id, *6 * [np.nan], f"{NOT_RUN}: {why}"))
            continue
        value, sample, number = found
        below = (1 + np.sum(sample <= claim.margin)) / (1 + len(sample))
        above = (1 + np.sum(sample >= claim.margin)) / (1 + len(sample))
        low, high = interval(sample)
        p, more = min(1.0, 2 * min(below, above)), value > claim.margin
        rows.append((claim.id, value, low, high, number, p, more, ""))
    table = pd.DataFrame(rows, columns=columns).assign(primary=[c.primary for c in claims.claims])
    tested = table["primary"] & table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy())
    for row, claim in zip(table.index, claims.claims, strict=True):
        if pd.isna(table.loc[row, "p"]):
            continue
        sure = table.loc[row, "p_holm" if claim.primary else "p"] < LEVEL
        sure &= table.loc[row, "pairs"] >= FEWEST
        same = bool(table.loc[row, "more"]) == (claim.says == "more")
        table.loc[row, "verdict"] = (SAME if same else OPPOSITE) if sure else UNDECIDED
    return table.drop(columns="more")


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values (Scand. J. of Statistics 6, 1979), in p's order."""
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted[np.argsort(order)]


def on_test(run: RunResult) -> dict[str, Any]:
    """Return a run's hits on its test clouds, packed as in runs.csv, and its features' CDNV."""
    kept = run.features()
    if "test_logits" not in kept:
        return {}
    right, cdnv = run.answers.hits, unbiased_cdnv(kept["test_features"], kept["test_labels"])
    return {"hits": np.packbits(right).tobytes().hex(), "clouds": len(right), "cdnv": cdnv}


def hits(runs: pd.DataFrame) -> np.ndarray:
    """Return the hits of recorded runs on their test clouds, bool [R, clouds]."""
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=int(count))
            for text, count in zip(runs["hits"], runs["clouds"], strict=True)]  # fmt: skip
    return np.array(bits, bool)


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame,
            shots: tuple[int | None, ...]) -> list[tuple[pd.DataFrame, ...]]:
    """Return both sides' runs of each number of shots, in the order of the seeds all share."""
    kept = [[side[side["shots"].isna() if k is None else side["shots"].eq(k)]
             .drop_duplicates("seed").set_index("seed") for side in (ours, theirs)]
            for k in shots]  # fmt: skip
    shared = sorted(set.intersection(*(set(side.index) for pair in kept for side in pair)))
    return [(a.loc[shared], b.loc[shared]) for a, b in kept]


def _gaps(claim: Claim, pairs: list[tuple[pd.DataFrame, ...]], study: Study) -> np.ndarray:
    """Return what `two_way` draws from: the gap of each pair on each item, [pairs, items]."""
    a, b = pairs[0]
    if claim.measure == "first_epoch":
        return 100 * (_curves(a, study) - _curves(b, study))[:, :1]
    if claim.measure == "cdnv":
        return np.log(a[["cdnv"]].to_numpy() / b[["cdnv"]].to_numpy())
    gaps = [100.0 * hits(a) - 100.0 * hits(b) for a, b in pairs]
    return gaps[0] - gaps[1] if claim.measure == "gain_of_shots" else gaps[0]


def _curves(runs: pd.DataFrame, study: Study) -> np.ndarray:
    """Return the validation accuracy of runs after each epoch, [R, epochs]."""
    chosen = study.epochs[study.epochs["key"].isin(runs["key"])]
    return chosen.pivot(index="key", columns="epoch", values="val_top1").loc[runs["key"]].to_numpy()


def _epochs(fast: np.ndarray, slow: np.ndarray, share: float, rng: np.random.Generator,
            draws: int) -> tuple[float, np.ndarray]:
    """Return the log ratio of two mean curves' epochs to a share of slow's end, and its draws,
    which are stretched where pairs are few, as in `over_pairs`.
    """
    from scipy.stats import norm, t

    target = share * slow[:, -1].mean()

    def ratio(rows: np.ndarray) -> float:
        ours, theirs = (reached(side[rows].mean(0), target) for side in (fast, slow))
        return float(np.log(ours / theirs))

    pairs, value = len(fast), ratio(np.arange(len(fast)))
    sample = np.array([ratio(rng.integers(pairs, size=pairs)) for _ in range(draws)])
    wider = np.sqrt(pairs / (pairs - 1)) * t.ppf(0.975, pairs - 1) / norm.ppf(0.975)
    return value, value + (sample - value) * wider


def reached(curve: np.ndarray, target: float) -> float:
    """Return after how many epochs a curve [epochs] first has `target`, between two linearly.

    Before the first epoch it is at zero.  A curve that never has it counts as one epoch more than
    it is long: for the mean curve of scratch against a share of its own end that cannot happen.
    """
    after = int(np.argmax(curve >= target))
    if curve[after] < target:
        return len(curve) + 1.0
    before = curve[after - 1] if after else 0.0
    return after + float((target - before) / (curve[after] - before))

