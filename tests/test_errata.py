"""The slips of the original are shown as they are: each cell of the chapter against a count."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from made_notebooks import chapter_functions
from torch import nn

import i2p_lib as i2p
from i2p_lib.book import chapters
from i2p_lib.inflation import inflate_weight, to_taps
from i2p_lib.runs.profiles import load_profile
from i2p_lib.sparse import SparseConv3d, SparseTensor
from tests.golden import items
from tests.golden.original import our_taps

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "notebooks" / "06_errata.ipynb"
LABELS = np.repeat(np.arange(4), 30)
CODE = "core/", "train.py", "model_zoo.py", "torchsparse", "configs/"


@pytest.fixture(scope="module")
def errata():
    """The functions that the chapter's cells define."""
    return chapter_functions(CHAPTER)


def test_every_entry_says_where_it_is_and_what_it_may_have_done():
    prose = [c.source for c in nbformat.read(CHAPTER, 4).cells if c.cell_type == "markdown"]
    text = "\n".join(prose)
    entries = text[text.index("# I. "):text.index("# V. ")].split("\n## ")[1:]
    assert len(entries) > 18
    for entry in entries:
        title, _, body = entry.partition("\n\n")
        assert body.startswith("*") and "line" in body.split("\n")[0], title
        assert any(name in body.split("\n")[0] for name in CODE), title
        assert "*What it may have done" in body, title


def result_of(**settings):
    """A run as `arms` reads it."""
    spec = i2p.RunSpec(weights="random", protocol="released").but(**settings)
    return type("Result", (), {"spec": spec})()


def test_runs_become_steps_named_by_their_change(errata):
    found = [result_of(seed=seed, **more) for more in (
        {}, {"changes": {"init": "he"}}, {"changes": {"init": "he", "grid": "floor"}},
        {"weights": "imagenet1k"}, {"weights": "imagenet1k", "normalize": False, "axis": "y"},
        {"weights": "imagenet1k", "protocol": "clean"}) for seed in (0, 1)]  # fmt: skip
    steps = errata.arms(found)
    assert list(steps["scratch"]) == ["released", "init: he", "grid: floor"]
    assert list(steps["FIP-ALL"]) == ["released", "axis: y, divided by k: False", "clean"]
    assert all(len(runs) == 2 for arm in steps.values() for runs in arm.values())


@pytest.mark.parametrize("name", ["demo", "gpu", "paper"])
def test_a_profiles_ablation_changes_one_decision_at_a_time(errata, name):
    specs = load_profile(name).experiment("errata")
    steps = errata.arms([type("Result", (), {"spec": spec})() for spec in specs])
    assert set(steps) == {"scratch", "FIP-ALL"}
    for arm in steps.values():
        assert all("," not in change for change in arm), list(arm)
        assert len({len(runs) for runs in arm.values()}) == 1, "as many seeds for each"


class Run:
    """A run that names the first `right` of 100 clouds rightly, and ten fewer at its end."""

    def __init__(self, right, seed):
        self.spec = SimpleNamespace(seed=seed, episode=None)
        self.answers = SimpleNamespace(hits=np.arange(100) < right)
        self.history = pd.DataFrame({"test_top1": [right / 100, right / 100 - 0.1]})


def steps_of(errata, *right, runs=2):
    """The table of one arm whose steps name so many clouds rightly, each seed one more."""
    steps = {f"step {n}": [Run(count + seed, seed) for seed in range(runs)]
             for n, count in enumerate(right)}  # fmt: skip
    return errata.steps_table({"scratch": steps})


def test_each_step_has_its_gap_to_the_step_before_and_an_interval(errata):
    rows = steps_of(errata, 30, 70, 71)
    assert rows["change"].tolist() == ["step 0", "step 1", "step 2", "checkpoint: last"]
    assert rows["gap"].tolist()[1:] == pytest.approx([40, 1, -10])
    assert rows["low"][1] > 20 and rows["low"][2] <= 1 <= rows["high"][2]
    assert rows["apart"].tolist()[1:3] == [True, False] and np.isnan(rows["low"][3])


@pytest.mark.parametrize("runs, said", [
    (1, "One run a step cannot"), (2, "2 runs a step cannot put the changes in an order: of two "
     "steps that are equally good, all runs of one beat all of the other by chance in one case "
     "of 3, and here they do at 1 of 2 changes."), (4, "4 runs a step can begin to")])  # fmt: skip
def test_few_seeds_cannot_order_the_steps(errata, runs, said):
    lines = errata.order_lines(steps_of(errata, 30, 70, 71, runs=runs))
    assert lines[0].startswith(said)
    if runs == 2:
        assert lines[1].startswith("Of 1 pairs of changes of one arm 1 have")


def test_the_table_of_comparisons_is_measured_once_a_state_of_the_sources(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(items, "rows", lambda: asked.append(1) or [
        {"item": "01 a", "largest difference": 0.5, "equal": False, "why": ""}])  # fmt: skip
    first, second = items.table(tmp_path), items.table(tmp_path)
    assert len(asked) == 1 and first.equals(second) and first["why"].tolist() == [""]


def test_the_chapter_rests_on_the_golden_numbers_and_what_they_measure():
    project = chapters.Project.default()
    chapter = chapters.Chapter(project, "06_errata", load_profile("smoke"))
    parts = chapters.digest_parts(chapter)
    assert {"file tests/golden/items.py", "file tests/golden/data/04_inflation.npz",
            "i2p_lib/models/unet.py"} <= parts.keys()  # fmt: skip


def test_initial_kernels_have_the_size_that_is_told(errata):
    for init in ("torchsparse", "he", "inflated"):
        net = errata.random_resnet(init, 4)
        measured = float(net.layer1[0].conv1.weight.detach().std())
        assert measured == pytest.approx(errata.spreads(64)[init], rel=0.03)


def test_small_weights_take_larger_steps(errata):
    points = torch.rand(4, 64, 3, generator=torch.Generator().manual_seed(0))
    steps = [errata.relative_step(errata.random_resnet(init, 4), points, torch.arange(4), 0.2)
             for init in ("torchsparse", "he", "inflated")]  # fmt: skip
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_the_rate_falls_once_or_154_times(errata):
    step = np.arange(100 * 308)
    assert errata.times_it_falls(errata.cosine(0.1, step, 100 * 308)) == 1
    assert errata.times_it_falls(errata.cosine(0.1, step, 100)) == 154


def test_the_best_test_epoch_stands_beside_the_last(errata):
    table = pd.DataFrame({"key": "a", "seed": 3, "epoch": [1, 2, 3], "test_top1": [0.2, 0.5, 0.4]})
    row = errata.last_and_best(table).loc[3]
    assert row.tolist() == pytest.approx([40, 50, 2, 10])


def test_choosing_among_equal_epochs_gains_by_luck(errata):
    gain = errata.gain_by_luck(0.5, clouds=100, epochs=(1, 10))["gain (points)"]
    assert abs(gain[1]) < 0.5 and gain[10] > 5


def test_a_weight_frozen_after_the_optimizer_was_built_does_not_decay(errata):
    assert errata.after_steps(50, frozen=True) == 1
    assert errata.after_steps(50, frozen=False) < 1


def test_parameters_are_trained_by_their_names(errata):
    kernel, norm, between = "stage1.0.net.0.kernel", "stage1.0.net.1.weight", "ds1.net.0.kernel"
    trained = {regime: [errata.trains(name, regime) for name in (kernel, norm, between)]
               for regime in ("io", "ioms", "iobn", "all")}  # fmt: skip
    assert trained == {"io": [False, False, True], "ioms": [False, False, True],
                       "iobn": [False, True, True], "all": [True] * 3}  # fmt: skip


def test_cut_logits_give_the_first_of_equals(errata):
    assert errata.cut_labels(torch.tensor([[0.2, 0.9, -0.9], [1.2, 1.9, 2.1]])).tolist() == [0, 2]


@pytest.mark.parametrize("name, ours", [("z-axis", "y"), ("y-axis", "z")])
def test_the_originals_axes_are_ours_under_other_names(errata, name, ours):
    weight = np.arange(9.0).reshape(3, 3)
    taps = errata.as_released(weight, name)
    assert errata.constant_along(taps) == [ours]
    filters = torch.from_numpy(weight)[None, None]
    inflated = to_taps(inflate_weight(filters, ours, normalize=False))
    assert torch.equal(our_taps(torch.from_numpy(taps)[:, None, None]), inflated)


def test_the_x_axis_exchanges_height_and_width(errata):
    weight = np.arange(9.0).reshape(3, 3)
    taps = errata.as_released(weight, "x-axis")
    assert errata.constant_along(taps) == ["x"]
    inflated = to_taps(inflate_weight(torch.from_numpy(weight.T.copy())[None, None], "x",
                                      normalize=False))  # fmt: skip
    assert torch.equal(our_taps(torch.from_numpy(taps)[:, None, None]), inflated)


def test_names_decide_what_is_loaded(errata):
    net = ["stage1.kernel", "stage2.kernel", "classifier.weight"]
    file = ["layer1.weight", "layer2.weight", "fc.weight"]
    assert errata.taken(file, net, []) == "2 tensors"
    assert errata.taken(file, net, [2]) == "1 tensors"
    assert errata.taken([f"module.{name}" for name in file], net, []) == "2 tensors"
    assert errata.taken(["blocks.0.weight"], net, []) == "stops: AssertionError"
    assert errata.taken(file, net, None) == "0 tensors"


def test_layers_in_another_order_load_without_a_word(errata):
    source, target = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    values = errata.with_layers_swapped(source.state_dict(), "0.", "1.")
    answer = target.load_state_dict(errata.by_position(values, target), strict=False)
    assert not answer.missing_keys and not answer.unexpected_keys
    assert torch.equal(target[0].weight, source[1].weight)
    with pytest.raises(ValueError, match="different shapes"):
        errata.with_layers_swapped(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4)).state_dict(),
                                   "0.", "1.")  # fmt: skip


def test_pointcontrasts_taps_begin_at_the_centre(errata):
    taps = errata.minkowski_taps()
    assert taps[0] == (0, 0, 0) and len(set(taps)) == len(taps) == 27


def test_processes_draw_different_clouds_of_every_class(errata):
    draws = errata.process_draws(LABELS, shots=2, processes=3)
    assert all(np.bincount(LABELS[d]).tolist() == [2, 2, 2, 2] for d in draws)
    learned = errata.clouds_learned(draws)["clouds it learns from"]
    assert learned[1] == 8
    assert learned[3] == len(set(np.concatenate(draws).tolist())) > 8


def test_another_order_of_files_gives_another_draw(errata):
    assert errata.share_that_stays(LABELS, files=1, shots=1) == 1
    assert errata.share_that_stays(LABELS, files=5, shots=5) < 1


def test_what_is_written_back_drifts_without_workers_and_the_given_cloud_stays(errata):
    cloud = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    before = cloud.clone()
    kept = errata.stored_clouds(cloud, (0, 5), workers=0)
    assert torch.equal(kept[0], before) and torch.equal(cloud, before)
    assert not torch.allclose(kept[5].mean(0), before.mean(0), atol=0.05)
    assert torch.equal(errata.stored_clouds(cloud, (0, 5), workers=8)[5], before)


def test_the_first_point_and_the_mean_are_compared_voxel_by_voxel(errata):
    points = torch.tensor([[[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.9, 0.9, 0.9]]])
    counts, first, mean = errata.first_and_mean(points, 0.5)
    assert counts.tolist() == [2, 1]
    assert (first - mean).norm(dim=1).tolist() == pytest.approx([0.1, 0], abs=1e-6)


def test_sites_are_counted_at_each_stride_and_steps_that_keep_them(errata):
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 0, 0]], [[5.0, 0, 0]] * 3])
    sites = errata.sites_by_stride(points, 1.0, "round")
    counted = {stride: of.tolist() for stride, of in sites.items()}
    assert counted == {1: [3, 1], 2: [2, 1], 4: [2, 1], 8: [2, 1]}
    assert errata.coincidences(sites, 1) == "5 of 6 steps"
    assert errata.coincidences(sites, 2) == "2 of 3 steps"


def test_what_the_last_stage_is_left_with_is_said(errata):
    sites = {(name, grid): {8: torch.tensor([1, 3]) * factor}
             for name, factor in (("these runs", 1), ("as released", 10))
             for grid, factor in (("round", factor), ("floor", 2 * factor))}  # fmt: skip
    ours, theirs, both = errata.last_stage_lines(
        sites, {"these runs": (0.125, 256, 16), "as released": (0.05, 2048, 32)})
    assert "2.0 sites, 1 at least, and 1 of 2 clouds a single one" in ours and "32 rows" in ours
    assert "20.0 sites, 10 at least, and 0 of 2 clouds" in theirs and "640 rows" in theirs
    assert "2.0 times as many there in these runs and 2.0 times as many as released" in both


def test_the_two_layers_around_the_centre_become_one(errata):
    line = np.arange(6)[:, None] * np.array([[1.0, 0, 0]])  # cells -2.5 to 2.5: -0.5 and 0.5 meet
    assert errata.rows_and_sites(line, 1.0) == (6, 5)


def test_a_round_trip_moves_some_negative_planes_whose_points_lose_their_features(errata):
    assert np.floor(errata.there_and_back([-13, -12, 13], 0.05)).tolist() == [-14, -12, 13]
    kept = [errata.share_kept(-13, 0.05, directions) for directions in (1, 2, 3)]
    assert kept[0] > 0.98 and kept[1] < 1e-3 and kept[2] < 1e-9


def test_stairs_are_trained_unless_their_own_label_is_ignored(errata):
    assert errata.is_trained(10, ignored=255) and not errata.is_trained(10, ignored=10)


def test_an_absent_class_counts_as_perfect_and_is_taken_out_of_the_mean(errata):
    assert errata.logged_ious([4, 0], [2, 0], [4, 1]) == pytest.approx([1 / 3, 1])
    ious = np.linspace(20, 80, 13)
    logged = np.append(ious, 100).mean()
    assert errata.without_absent_class(logged) == pytest.approx(ious.mean())
    assert round(errata.without_absent_class(55.09), 2) == 51.64


def test_a_raw_label_counts_if_its_name_is_a_class(errata):
    names = {13: "bus", 18: "truck", 258: "moving-truck"}
    assert errata.ignored_by_name(names, ["truck"]) == {13}


def test_the_sum_over_pairs_is_the_librarys_strided_convolution(errata):
    random = np.random.default_rng(0)
    sites = np.array([[0, 0, 0], [5, 0, 0], [0, 9, 3], [12, 12, 1]])
    x, kernel = random.normal(size=(4, 2)), random.normal(size=(27, 2, 3))
    offsets = np.array([[x, y, z] for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    layer = SparseConv3d(2, 3, 3, 2, bias=False).double()
    layer.weight.data = our_taps(torch.from_numpy(kernel))
    coords = torch.nn.functional.pad(torch.from_numpy(sites), (1, 0))
    ours = layer(SparseTensor(torch.from_numpy(x), coords))
    outputs = ours.coords[:, 1:].numpy() * 2
    found = errata.strided(x, kernel, offsets, sites, outputs, row_by_row=False)
    assert np.allclose(found, ours.feats.detach())
    assert not np.allclose(errata.strided(x, kernel, offsets, sites, outputs, True), found)
