"""Claims: every kind of verdict comes from data planted for it, and null data stay undecided."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from i2p_lib.book.chapters import Project
from i2p_lib.files import sha256, write_text
from i2p_lib.paper.claims import (
    NOT_RUN,
    OPPOSITE,
    SAME,
    UNDECIDED,
    Study,
    findings,
    hits,
    holm,
    load_claims,
    reached,
)
from i2p_lib.runs.store import write_csv

CLAIMS = load_claims()
CLOUDS, EPOCHS = 125, 9


def _planted(gain: dict[str, float], random: np.random.Generator, seeds: int = 10) -> Study:
    """Runs of every arm on shared clouds: an arm's gain moves its chance of a hit."""
    runs, epochs = [], []
    difficulty = random.normal(0, 1.5, CLOUDS)
    for shots in (None, 1, 5, 10):
        for arm, settings in CLAIMS.arms.items():
            for seed in range(seeds):
                score = gain.get(arm, 0) + random.normal(0, 0.3)
                right = difficulty + score + random.logistic(size=CLOUDS) > 0
                key = f"{arm}/{shots}/{seed}"
                row = {"init": None, "norms": None, "shots": shots, "seed": seed, "key": key}
                row |= {"data": "home_objects", "model": "efficientnet_lite0", **settings}
                row |= {"voxel_size": 0.08, "augment": "paper"}
                row = {k: "imagenet1k" if v == "images" else v for k, v in row.items()}
                row |= {"hits": np.packbits(right).tobytes().hex(), "clouds": CLOUDS,
                        "cdnv": np.exp(random.normal(0, 0.1) - gain.get(arm, 0))}  # fmt: skip
                runs.append(row)
                curve = (0.5 + 0.1 * gain.get(arm, 0)) * (1 - np.exp(-np.arange(1, 10) / 3))
                noisy = curve + random.normal(0, 0.02, EPOCHS)
                epochs += [{"key": key, "epoch": e + 1, "val_top1": v} for e, v in enumerate(noisy)]
    return Study(pd.DataFrame(runs), pd.DataFrame(epochs))


def _verdicts(gain: dict[str, float]) -> pd.Series:
    random = np.random.default_rng(1)
    study = _planted(gain, random)
    found = findings(CLAIMS, study, "home_lite0", 2)
    return found.set_index("id")["verdict"]


def test_each_verdict_comes_from_data_planted_for_it() -> None:
    for_it = _verdicts({"FIP-ALL": 1.5})
    assert (
        for_it[["all_over_scratch", "few_1", "faster", "first_epoch", "collapse"]] == SAME
    ).all()
    against = _verdicts({"FIP-ALL": -1.5})
    names = ["all_over_scratch", "few_1", "faster", "first_epoch", "collapse"]
    assert (against[names] == OPPOSITE).all()
    assert against["few_gain_grows"] == UNDECIDED  # the same loss at every number of shots
    assert against["io_works"] == UNDECIDED
    assert against["deeper"].startswith(NOT_RUN) and "two depths" in against["deeper"]


def test_a_claim_whose_runs_are_not_recorded_is_not_run() -> None:
    study = _planted({}, np.random.default_rng(0))
    kept = Study(study.runs[study.runs["regime"] != "io"], study.epochs)
    verdicts = findings(CLAIMS, kept, "home_lite0", 2).set_index("id")
    assert verdicts.loc["io_works", "verdict"] == f"{NOT_RUN}: its runs are not recorded"


def test_null_data_give_no_more_verdicts_than_the_stated_level() -> None:
    random, wrong, single, trials = np.random.default_rng(3), 0, 0, 60
    for trial in range(trials):
        found = findings(CLAIMS, _planted({}, random), "home_lite0", trial, draws=400)
        decided = found["verdict"].isin([SAME, OPPOSITE])
        tested = found.loc[found["id"] != "iobn_near_scratch"]  # its margin is not null here
        wrong += decided[tested.index][tested["primary"]].any()
        single += decided[tested.index][~tested["primary"]].mean()
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)
    assert single / trials <= 0.06


def test_holm_is_the_textbook_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_reached_lies_between_epochs_and_is_one_more_than_the_curve_where_it_never_is() -> None:
    assert reached(np.array([0.2, 0.4, 0.6]), 0.5) == pytest.approx(2.5)
    assert reached(np.array([0.2, 0.4]), 0.1) == pytest.approx(0.5)
    assert reached(np.array([0.2, 0.4]), 0.9) == 3


def test_hits_are_what_was_packed() -> None:
    right = np.random.default_rng(0).random((3, 13)) > 0.5
    rows = [{"hits": np.packbits(r).tobytes().hex(), "clouds": 13} for r in right]
    assert (hits(pd.DataFrame(rows)) == right).all()


def test_the_file_of_claims_refuses_what_it_cannot_test(tmp_path) -> None:
    file = tmp_path / "claims.yml"
    head = "settings: {}\narms: {a: {}, b: {}}\nclaims:\n- {id: x, claim: c, place: p, chapter: d"
    for tail, message in ((", contrast: [a, z], measure: top1}", "x: unknown arm 'z'"),
                          ("}", "say why it is not_run"),
                          (", contrast: [a, b], measure: epochs}", "x: epochs need a target"),
                          (", contrast: [a, b], measure: top1, shots: [1, 5]}", "x: gain_of_shots"),
                          (", contrast: [a, b], mesure: top1}", "claims.0.mesure: Extra")):
        file.write_text(head + tail)
        with pytest.raises(ValueError, match=f"claims.yml: {message}" if "mesure" in tail else
                           message):
            load_claims(file)


def test_few_pairs_give_no_verdict() -> None:
    study = _planted({"FIP-ALL": 3.0}, np.random.default_rng(4), seeds=4)
    found = findings(CLAIMS, study, "home_lite0").set_index("id")
    assert found.loc["all_over_scratch", "low"] > 0
    assert set(found["verdict"].str.split(":").str[0]) == {UNDECIDED, NOT_RUN}


def test_every_claims_chapter_is_a_page_of_the_book(project_root) -> None:
    chapters = Project(project_root, project_root / "_build").sources()
    assert {claim.chapter for claim in CLAIMS.claims} <= set(chapters)


def test_gains_of_two_numbers_of_shots_are_paired_by_the_seeds_that_all_share() -> None:
    study = _planted({"FIP-ALL": 1.0}, np.random.default_rng(4), seeds=6)
    lost = study.runs["shots"].eq(1) & study.runs["seed"].eq(0)
    fewer = Study(study.runs[~lost], study.epochs)
    found = findings(CLAIMS, fewer, "home_lite0", 2).set_index("id")
    assert found.loc["few_gain_grows", "pairs"] == 5
    both = study.runs[study.runs["seed"].ne(0)]
    wanted = findings(CLAIMS, Study(both, study.epochs), "home_lite0", 2)
    wanted = wanted.set_index("id").loc["few_gain_grows", "value"]
    assert found.loc["few_gain_grows", "value"] == pytest.approx(wanted)


def test_a_study_is_read_as_it_was_sealed_or_not_at_all(tmp_path) -> None:
    study = _planted({}, np.random.default_rng(0), seeds=2)
    write_csv(tmp_path / "runs.csv", study.runs.drop(columns="data"))
    write_csv(tmp_path / "epochs.csv", study.epochs)
    write_text(tmp_path / "shared.json", json.dumps({"data": "home_objects", "teacher": None}))
    files = {path.name: sha256(path) for path in tmp_path.iterdir()}
    write_text(tmp_path / "manifest.json", json.dumps({"files": files, "planned": 99}))
    read = Study.load(tmp_path)
    assert (read.runs["data"] == "home_objects").all() and read.planned == 99
    assert (hits(read.runs) == hits(study.runs)).all() and len(read.epochs) == len(study.epochs)
    with (tmp_path / "runs.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="runs.csv was changed after it was recorded"):
        Study.load(tmp_path)
