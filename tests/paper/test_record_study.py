"""A study done in pieces: every piece is kept, and what is kept is what the runs measured."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import record_study

from i2p_lib.paper.claims import Study, hits
from i2p_lib.runs import run_all
from i2p_lib.runs.profiles import load_profile

PROFILE = """
defaults: {points: 64, voxel_size: 0.25, train_limit: 16, test_limit: 32, epochs: 1,
           batch_size: 8, recipe: paper, regime: io}
experiments:
  first: [{seed: [0, 1]}]
  second: [{seed: [1, 2], lr: 0.01}]
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pieces.yml").write_text(PROFILE)
    return load_profile(tmp_path / "pieces.yml")


def test_rows_stay_where_the_store_is_gone_and_new_ones_join(tmp_path, profile) -> None:
    first = run_all(profile.experiment("first"), workers=1, progress=False)
    told = record_study.record(profile, tmp_path / "kept")
    assert told.startswith("2 of 4 runs")
    kept, curves = Study.load(tmp_path / "kept").runs, Study.load(tmp_path / "kept").epochs
    assert kept["top1"].tolist() == [run.metrics["top1"] for run in first]
    logits = [run.features()["test_logits"].argmax(1) for run in first]
    right = [a == run.features()["test_labels"] for a, run in zip(logits, first, strict=True)]
    assert (hits(kept) == np.array(right)).all()

    shutil.rmtree(tmp_path / "runs")
    run_all(profile.experiment("second"), workers=1, progress=False)
    record_study.record(profile, tmp_path / "kept")
    whole = Study.load(tmp_path / "kept")
    assert whole.planned == 4
    assert whole.runs["experiment"].tolist() == ["first"] * 2 + ["second"] * 2
    columns = ["spec", "seed", "lr", "top1", "hits", "cdnv", "key", "finished", "seconds_total"]
    again = whole.runs.iloc[:2][columns[:1] + columns[3:]]
    assert again.equals(kept[columns[:1] + columns[3:]])  # the very bits
    assert set(whole.epochs["key"]) == set(whole.runs["key"]) and len(whole.epochs) == 4
    assert whole.epochs.iloc[:2].equals(curves)


def test_only_what_no_row_tells_of_is_trained(tmp_path, profile, monkeypatch, capsys) -> None:
    asked: list[list[int]] = []

    def trained(specs, workers):
        asked.append([spec.seed for spec in specs])
        return run_all(specs, workers=1, progress=False)

    monkeypatch.setattr(record_study, "run_all", trained)
    words = [str(profile.path), "--output", str(tmp_path / "kept"), "--train", "--every", "1"]
    for more in (["--experiment", "first"], []):
        monkeypatch.setattr("sys.argv", ["record_study.py", *words, *more])
        record_study.main()
    assert asked == [[0], [1], [1], [2]]
    words[-1], asked[:] = "8", []
    shutil.rmtree(tmp_path / "kept")
    monkeypatch.setattr("sys.argv", ["record_study.py", *words])
    record_study.main()
    assert asked == [[0, 1, 1, 2]]  # a piece has the same seeds of every arm
    assert "4 of 4 runs of pieces" in capsys.readouterr().err


def test_what_is_recorded_is_not_lost_to_another_profile(tmp_path, profile, monkeypatch) -> None:
    run_all(profile.experiment("first"), workers=1, progress=False)
    record_study.record(profile, tmp_path / "kept")
    before = (tmp_path / "kept" / "runs.csv").read_bytes()
    other = tmp_path / "other.yml"
    other.write_text(PROFILE.replace("seed: [0, 1]", "seed: [1, 7]"))
    with pytest.raises(ValueError, match="has 1 runs that .*other.yml does not plan"):
        record_study.record(load_profile(other), tmp_path / "kept")
    assert (tmp_path / "kept" / "runs.csv").read_bytes() == before
    assert record_study.record(load_profile(other), tmp_path / "kept", drop=True).startswith("1 of")


@pytest.mark.parametrize(("name", "left", "words"), [
    ("runs.csv", "a\n", "was changed after it was recorded"),
    ("epochs.csv", None, "epochs.csv was changed"),
    ("manifest.json", None, "manifest.json is missing"),
    ("manifest.json", "{", "is not JSON"),
])  # fmt: skip
def test_damage_is_said_in_a_line(
    tmp_path, profile, monkeypatch, capsys, name, left, words
) -> None:
    run_all(profile.experiment("first"), workers=1, progress=False)
    record_study.record(profile, tmp_path / "kept")
    file = tmp_path / "kept" / name
    file.unlink() if left is None else file.write_text(left)
    monkeypatch.setattr("sys.argv", ["x", str(profile.path), "-o", str(tmp_path / "kept")])
    with pytest.raises(SystemExit) as stopped:
        record_study.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(("words", "said"), [
    (["nothing"], "unknown profile 'nothing'"), (["{}/no.yml"], "no.yml: no such file"),
    (["{}/pieces.yml"], "no run of pieces is done: give --train"),
    (["{}/pieces.yml", "--every", "0"], "--every: expected 1 or more, got 0"),
    (["{}/pieces.yml", "-e", "third", "--train"], "unknown experiment 'third'"),
])  # fmt: skip
def test_wrong_words_are_said_in_a_line(
    tmp_path, profile, monkeypatch, capsys, words, said
) -> None:
    given = [word.format(tmp_path) for word in words]
    monkeypatch.setattr("sys.argv", ["x", *given, "-o", str(tmp_path / "kept")])
    with pytest.raises(SystemExit) as stopped:
        record_study.main()
    assert stopped.value.code == 1 and said in capsys.readouterr().err
