"""A plan says, before any work, what a profile would train, what it lacks and what it costs."""

import json

import pandas as pd
import pytest
import torch

from i2p_lib import cli
from i2p_lib.runs import profiles, run
from i2p_lib.runs.cost import CostModel, items_measured, measure_step, simplified, sizes
from i2p_lib.runs.lab import open_lab
from i2p_lib.runs.needs import available, missing_inputs, missing_text, plan, plan_text
from i2p_lib.runs.spec import RunSpec
from i2p_lib.train.clouds import load_splits
from i2p_lib.train.settings import PROTOCOLS

SMALL = RunSpec(points=64, voxel_size=0.25, epochs=1, batch_size=8, train_limit=16, test_limit=8,
                weights="random")  # fmt: skip
PROFILE = """
description: for the plan
defaults: {points: 64, voxel_size: 0.25, epochs: 1, batch_size: 8, weights: random}
experiments:
  here: [{train_limit: 16, test_limit: 8, seed: [0, 1]}]
  both: [{train_limit: 16, test_limit: 8}, {data: modelnet40}]
  absent: [{data: modelnet40, seed: [0, 1]}]
  student: [{data: modelnet40, distill: hard, teacher: {shots: 1, episode: 0}}]
chapters: {01_transfer: [absent]}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("I2P_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("I2P_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("I2P_BUILD", str(tmp_path / "build"))

    def make(text=PROFILE):
        (tmp_path / "tiny.yml").write_text(text)
        return tmp_path / "tiny.yml"

    return make


def test_the_plan_counts_shared_runs_done_runs_and_missing_inputs_once(write):
    profile = profiles.load_profile(write())
    run(SMALL, progress=False)
    costs = CostModel.of("cpu")
    table = plan(profile, costs)
    assert len(table) == 6  # two here, two on ModelNet40, a teacher and its student
    assert list(table["state"]).count("done") == 1
    shared = table[table["experiments"].map(len) > 1]
    assert sorted(shared["experiments"]) == [("both", "absent"), ("here", "both")]
    assert (table["seconds"] > 0).sum() == 5 and (table["gib"] > 0).sum() == 5
    text = f"{missing_text(profile)}\n{plan_text(profile, table, costs)}"
    assert text.count("data set modelnet40 (4 runs)") == 1
    assert text.count("unpack modelnet40_ply_hdf5_2048.zip") == 1
    assert "here                     2 runs, 1 shared with others; 1 done, 1 missing" in text
    assert "that can be trained now: 1 runs" in text
    assert "1 finished runs took" in text and "for this machine" in text


def test_unknown_networks_and_weights_are_a_reason_in_a_plan_and_an_error_in_a_run(write):
    text = "experiments: {odd: [{model: resnet5O, weights: random}, {weights: imagenet9}]}\n"
    profile = profiles.load_profile(write(text))
    costs = CostModel.of("cpu")
    table = plan(profile, costs)
    assert list(table["state"]) == ["missing", "missing"]
    assert "unknown image model 'resnet5O'" in table["why"][0]
    assert "Expected 'random' or one of ['imagenet1k']" in table["why"][1]
    assert "UNKNOWN NAME" in missing_text(profile)
    with pytest.raises(ValueError, match="unknown image model 'resnet5O'"):
        available(profile.all_specs())


def test_a_run_needs_its_data_and_its_weights_each_named(write, tmp_path, monkeypatch):
    write()
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    needs = missing_inputs(RunSpec(data="modelnet40", model="resnet50"))
    names = [need.name for need in needs]
    assert names == ["data set modelnet40", "imagenet1k weights of resnet50"]
    assert "resnet50-0676ba61.pth" in needs[1].how and all(need.known for need in needs)
    assert missing_inputs(SMALL) == ()


def test_a_run_that_lacks_its_data_is_skipped_with_its_reason_and_no_traceback(write, capsys):
    assert cli.main(["run", "1", "--profile", str(write())]) == 0
    shown = capsys.readouterr()
    assert "2 skipped: needs data set modelnet40" in shown.out
    assert "01_transfer: not executed, none of its 2 runs can be trained here" in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert cli.main(["status", "--profile", "tiny.yml"]) == 1  # no such profile of the book


def test_the_lab_leaves_out_what_cannot_run_and_says_so(write, capsys):
    lab = open_lab(write(), progress=False)
    assert len(lab.run("both")) == 1
    out = capsys.readouterr().out
    assert "both: 0 runs found, 1 trained" in out and "1 skipped: needs data set" in out
    assert list(lab.skipped("both")["run"]) == [lab.profile.experiment("both")[1].label()]
    assert lab.run("absent").empty and "regime" in lab.run("absent")


def test_a_dry_run_prints_the_plan_and_trains_nothing(write, capsys, tmp_path):
    assert cli.main(["run", "--profile", str(write()), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "experiments:" in text and "missing inputs:" in text and "total: 6 runs" in text
    assert not list((tmp_path / "runs").glob("*/state.json"))


def test_what_the_paper_profile_lacks_is_named_before_anything_is_measured(monkeypatch, tmp_path):
    for name in ("I2P_DATA", "I2P_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    text = missing_text(profiles.load_profile("paper"))
    for name in ("data set modelnet40", "scenes s3dis", "scenes semantic_kitti",
                 "imagenet1k weights of resnet152", "cityscapes weights of hrnet_w48",
                 "pointcontrast_nce weights of res16unet34", "Figure 4 and Table 5"):  # fmt: skip
        assert name in text


def test_clouds_are_counted_as_the_run_loads_them():
    for spec in (SMALL.but(epochs=3), SMALL.but(protocol="released", train_limit=None),
                 SMALL.but(shots=2, episode=0, train_limit=None)):  # fmt: skip
        splits = load_splits(spec)
        assert sizes(spec)["train"] == len(splits.train)
        assert items_measured(spec) == spec.epochs * len(splits.val) + len(splits.test)


def test_absent_data_are_counted_from_their_card(write):
    write()
    spec = RunSpec(data="modelnet40", epochs=10)
    assert sizes(spec)["train"] == 8856
    assert sizes(spec.but(protocol="released"))["train"] == 9840
    assert items_measured(spec.but(protocol="released")) == 11 * 2468
    assert sizes(spec.but(shots=5, episode=0))["train"] == 5 * 40


def test_a_network_counts_with_its_size_and_a_measured_step_is_kept(tmp_path, monkeypatch):
    costs = CostModel.of("cpu", tmp_path)
    small = costs.cost(SMALL)
    large = costs.cost(SMALL.but(model="resnet18"))
    assert large.seconds != small.seconds and large.gib > 2 * small.gib
    step = measure_step(simplified(SMALL, 2), torch.device("cpu"))
    assert step["seconds_per_item"] > step["seconds_to_measure"] > 0
    assert 3 * small.seconds < costs.cost(SMALL.but(epochs=4)).seconds < 4 * small.seconds
    assert costs.cost(SMALL.but(regime="io")).seconds < small.seconds
    monkeypatch.setattr("i2p_lib.runs.cost.measure_step", None)  # nothing may be measured again
    assert CostModel.of("cpu", tmp_path).cost(SMALL) == small


@pytest.mark.parametrize("damage", ["{", "[1]", "\x00", '{"a": {"seconds_per_item": 1}}', None])
def test_a_damaged_file_of_steps_is_ignored_and_measured_again(damage, tmp_path):
    wanted = CostModel.of("cpu", tmp_path).cost(SMALL)
    keys = pd.read_json(tmp_path / "steps.json").columns
    (tmp_path / "steps.json").write_text(damage or json.dumps(dict.fromkeys(keys, {})))
    again = CostModel.of("cpu", tmp_path).cost(SMALL)
    assert again.seconds > 0 and again.gib == pytest.approx(wanted.gib)
    assert CostModel.of("cpu", tmp_path).cost(SMALL) == again


def test_a_damaged_run_of_somebody_does_not_stop_a_forecast(tmp_path):
    run(SMALL, store=tmp_path, progress=False)
    (damaged,) = tmp_path.glob("*/state.json")
    damaged.write_text("{")
    assert CostModel.of("cpu", tmp_path).ratios == []


def test_finished_runs_calibrate_the_estimate(tmp_path):
    result = run(SMALL, store=tmp_path, progress=False)
    checked = CostModel.of("cpu", tmp_path)
    plain = CostModel.of("cpu", tmp_path, calibrate=False)
    assert len(checked.ratios) == 1 and "1 finished runs took" in checked.error()
    assert "no finished run" in plain.error()
    forward = plain._step(SMALL)["seconds_to_measure"] * items_measured(SMALL)
    seconds = checked.cost(SMALL).seconds - checked.factor * forward
    assert seconds == pytest.approx(result.metrics["seconds_training"])


def test_every_protocol_is_a_choice_of_a_spec():
    for name, rules in PROTOCOLS.items():
        assert RunSpec(protocol=name).rules == rules
    assert PROTOCOLS["released"].checkpoint == "best on test"


def test_the_released_protocol_trains_on_all_and_validates_on_test():
    clean = load_splits(SMALL.but(train_limit=None, test_limit=None))
    released = load_splits(SMALL.but(train_limit=None, test_limit=None, protocol="released"))
    assert len(released.train) == len(clean.train) + len(clean.val)
    assert released.val.points.equal(released.test.points)
    assert released.test.points.equal(clean.test.points)


def test_the_paper_profile_holds_the_papers_grids():
    paper = profiles.load_profile("paper")
    assert len(paper.experiment("few_shot")) == 54
    classified = [s for s in paper.all_specs() if isinstance(s, RunSpec)]
    rows = {(s.model, s.weights, s.regime) for s in classified if s.shots is None}
    sources = ("tiny_imagenet", "imagenet1k", "imagenet21k", "fractaldb1k", "fractaldb10k")
    networks = ("resnet18", "resnet50", "resnet101", "resnet152", "wide_resnet101_2")
    for regime in ("io", "io+bn"):
        assert {("resnet50", name, regime) for name in (*sources, "random")} <= rows
        assert {(n, w, regime) for n in networks for w in ("imagenet1k", "random")} <= rows
    table1 = {("pointnet2_ssg", "imagenet1k_pixels"), ("point_vit_b16", "imagenet21k"),
              ("point_vit_l16", "imagenet21k"), ("simpleview", "imagenet1k"),
              *((n, "imagenet1k") for n in networks), ("resnet50", "imagenet21k")}  # fmt: skip
    assert {(n, w, "all") for name, weights in table1 for n, w in
            ((name, weights), (name, "random"))} <= rows  # fmt: skip
    assert {("resnet50", "stylized_imagenet", "io"), ("bagnet17", "imagenet1k", "io"),
            ("bagnet33", "imagenet1k", "io")} <= rows  # fmt: skip
    speedup = paper.experiment("speedup")
    assert {(s.model, s.weights, s.regime) for s in speedup} == {
        (f"resnet{n}", w, "all") for n in (18, 50, 152) for w in ("random", "imagenet1k")}
    assert all(s.epochs >= 122 for s in speedup), "Figure 3 counts 122 epochs"
    students = paper.experiment("semi_supervised")
    assert {s.temperature for s in students} == {None, 0.8}
    few = {s.key_fields() for s in paper.experiment("pointcontrast")}
    assert all(s.teacher.key_fields() in few and s.epochs == 300 for s in students)
