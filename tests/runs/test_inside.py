"""Finished runs, opened: what is sampled, and what Table 5 and Figure 4 make of it."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from made_notebooks import chapter_functions
from torch import nn

import i2p_lib as i2p
from i2p_lib import paper
from i2p_lib.analysis.collapse import cdnv, unbiased_cdnv
from i2p_lib.analysis.taps import backbone_convolutions
from i2p_lib.data.pictures import Pictures
from i2p_lib.runs import inside, run
from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import comparison
from i2p_lib.sources import PACKAGE
from i2p_lib.train.clouds import CPU

matplotlib.use("agg")
SPEC = RunSpec(
    points=128, epochs=1, batch_size=8, train_limit=16, test_limit=32, voxel_size=0.2,
    recipe="paper", regime="io+bn", lr=1e-3,
)  # fmt: skip
NOTEBOOKS = PACKAGE.parent / "notebooks"
chapter_5 = chapter_functions(NOTEBOOKS / "05_neural_collapse.ipynb")
chapter_8 = chapter_functions(NOTEBOOKS / "08_discussion.ipynb")
unit_pictures, unit_table = chapter_5.unit_pictures, chapter_5.unit_table
feature_distances, Seen, observe = chapter_5.feature_distances, chapter_5.Seen, chapter_5.observe
unit_layer, unit_maps = chapter_5.unit_layer, chapter_5.unit_maps


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    views = tuple(random.integers(256, size=(60, 80, 3), dtype=np.uint8) for _ in range(6))
    owner = np.repeat(np.arange(3), 2)
    return Pictures(views, owner, owner, ("a", "b", "c"), "noise")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One transfer run and its control, trained for real."""
    store = tmp_path_factory.mktemp("runs")
    specs = [SPEC, SPEC.but(weights="random")]
    return [run(spec, store=store, progress=False) for spec in specs]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Three runs of two starting networks, probed before and after training."""
    store = tmp_path_factory.mktemp("probed")
    spec = SPEC.but(points=64, voxel_size=0.25, train_limit=32, regime="io", lr=1e-2,
                    probe_epochs=(0, 1))
    specs = [spec, spec.but(regime="all"), spec.but(weights="random")]
    return [run(spec, store=store, progress=False) for spec in specs]


@pytest.fixture(scope="module")
def pairs(found, photos):
    return chapter_5.look_inside(found, photos)


@pytest.fixture(scope="module")
def cloud_net():
    net = i2p.image_model("resnet18", weights="random")
    return i2p.inflate(net, num_classes=4, recipe="paper").eval()


def batches(sizes=(3, 2)):
    random = torch.Generator().manual_seed(0)
    return [i2p.voxelize(torch.rand(n, 90, 3, generator=random), 0.2) for n in sizes]


def generator():
    return torch.Generator().manual_seed(5)


def test_the_papers_sixteen_layers_of_a_resnet18_are_counted(cloud_net):
    """Promise: the input layer and the shortcuts are none of the layers; the rest are all."""
    names = backbone_convolutions(cloud_net)
    assert len(names) == 16 and names[0] == "layer1.0.conv1" and names[-1] == "layer4.1.conv2"


def test_what_is_kept_are_elements_of_each_samples_own_output(cloud_net):
    """Promise: every value is one of its cloud's, before norm and activation; all count alike."""
    layer = "layer2.0.conv1"
    whole = []
    handle = cloud_net.get_submodule(layer).register_forward_hook(
        lambda module, args, out: whole.append(out)
    )
    seen = observe(cloud_net, batches(), 5, [layer], unit_layer(cloud_net), generator(), 5003)
    handle.remove()
    assert np.bincount(seen.owner).tolist() == [1001, 1001, 1001, 1000, 1000]
    outputs = [out.feats[out.sites.batch == b] for out, n in zip(whole, (3, 2), strict=True)
               for b in range(n)]
    for sample, output in enumerate(outputs):
        mine, elements = seen.values[layer][seen.owner == sample], output.detach().numpy()
        assert np.isin(mine, elements).all()
        error = elements.std() / 1000**0.5
        assert abs(mine.mean() - elements.mean()) < 5 * error
        assert len(np.unique(mine)) > 0.5 * min(1000, elements.size)
    assert (seen.values[layer] < 0).any()  # no activation yet


def test_units_are_the_means_over_positions_in_both_worlds(cloud_net):
    """Promise: a unit is what the classifier of a cloud gets, and the mean of an image's map."""
    units, inputs = unit_layer(cloud_net), []
    handle = cloud_net.fc.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    seen = observe(cloud_net, batches(), 5, [], units, generator())
    handle.remove()
    np.testing.assert_allclose(seen.units, torch.cat(inputs).detach().numpy(), rtol=1e-5)
    image_net = i2p.image_model("resnet18", weights="random").eval()
    images = torch.rand(2, 3, 64, 64, generator=generator())
    maps = unit_maps(image_net, images, units)
    assert maps.shape == (2, 512, 2, 2)
    means = observe(image_net, [images], 2, [], units, generator()).units
    np.testing.assert_allclose(means, maps.mean((2, 3)).numpy(), rtol=1e-5)


def test_a_wrong_count_and_a_network_without_pooling_are_refused(cloud_net):
    with pytest.raises(ValueError, match="expected 6 samples, got 5"):
        observe(cloud_net, batches(), 6, [], unit_layer(cloud_net), generator())
    with pytest.raises(ValueError, match="no global pooling"):
        unit_layer(nn.Linear(3, 3))


def test_a_run_is_looked_into_beside_the_network_it_came_from(found, pairs, photos):
    """Promise: transfer beside the ImageNet network, control beside its random one; the test
    units are those that the run itself has kept."""
    assert [pair.method for pair in pairs] == ["FIP-IO+BN", "control IO+BN"]
    for pair, result in zip(pairs, found, strict=True):
        assert len(pair.image.values) == len(pair.cloud.values) == 48
        assert pair.image.units.shape == (6, 1280) and pair.cloud.units.shape == (32, 1280)
        np.testing.assert_allclose(
            pair.cloud.units, result.features()["test_features"], atol=2e-2, rtol=2e-3
        )
    again = chapter_5.look_inside(found[:1], photos)[0]
    assert all((again.cloud.values[k] == v).all() for k, v in pairs[0].cloud.values.items())


def test_a_run_in_bfloat16_is_looked_into_in_bfloat16(found, pairs, photos):
    """Promise: the precision of a run is kept, and its pictures are drawn."""
    result = replace(found[0], spec=SPEC.but(amp="bf16"))
    (pair,) = chapter_5.look_inside([result], photos)
    single = pairs[0].cloud.units
    assert 0 < np.abs(pair.cloud.units - single).max() < 0.2 * single.max()
    units = unit_table([pair])
    ((_, _, clouds),) = unit_pictures([result], [pair], units, photos, "FIP-IO+BN", rows=1)
    assert len(clouds) == 4


def shifted(pair, shift):
    """A pair whose cloud features are its image features, moved."""
    values = {name: v + shift * (i + 1) for i, (name, v) in enumerate(pair.image.values.items())}
    return replace(pair, cloud=Seen(values, pair.image.owner, pair.cloud.units))


def test_features_moved_by_a_known_length_have_that_distance(found, pairs, photos):
    """Promise: by layer, in both scales, in the mean, and in the paper's rows."""
    pair = shifted(pairs[0], 2.0)
    by_run, methods = feature_distances([pair], photos.owner)
    own = methods.loc["own unit", pair.method]["distance"]
    np.testing.assert_allclose(own[1:], 2.0 * np.arange(1, 49), rtol=1e-6)
    assert own[0] == pytest.approx(49)
    relative = methods.loc["relative", pair.method]["distance"]
    spread = np.array([v.std() for v in pair.image.values.values()])
    np.testing.assert_allclose(relative[1:], own[1:] / spread, rtol=1e-5)
    rows = chapter_5.distance_rows(by_run, found, photos).set_index("metric")["value"]
    expected = {"wasserstein1_mean_of_16_layers": 49, "wasserstein1_layer1": 6,
                "wasserstein1_layer4": 24, "wasserstein1_layer8": 48, "wasserstein1_layer16": 96}
    assert rows.to_dict() == pytest.approx(expected)


def test_equal_features_lie_no_farther_than_halves_of_the_photographs(pairs, photos):
    _, same = feature_distances([shifted(pairs[0], 0.0)], photos.owner)
    assert (same["distance"].abs() < 1e-12).all() and (same["floor"] > 0).all()
    assert (same["low"] <= same["high"]).all()


def test_only_imagenets_thousand_classes_in_the_papers_recipe_count_as_the_papers(
    found, pairs, photos
):
    """Promise: other pictures never carry a verdict of the same setting."""
    distances, _ = feature_distances(pairs[:1], photos.owner)
    recipe = {k: v[0] if isinstance(v, tuple) else v for k, v in paper.PAPER_RECIPE.items()}
    recipe |= {"epochs": 100, "train_limit": None, "test_limit": None}
    result = replace(found[0], spec=SPEC.but(**recipe))
    many = replace(photos, label_names=tuple(map(str, range(1000))))
    assert not chapter_5.distance_rows(distances, [result], photos)["as_in_paper"].any()
    assert chapter_5.distance_rows(distances, [result], many)["as_in_paper"].all()
    assert not chapter_5.distance_rows(distances, found[:1], many)["as_in_paper"].any()


def test_a_planted_unit_stands_out_of_its_shuffled_labels(pairs):
    """Promise: what a unit shows beyond shuffled labels is the classes', and is found."""
    values = pairs[0].cloud.units.copy()
    values[:, 3] = pairs[0].labels == pairs[0].labels[0]
    table = unit_table([replace(pairs[0], cloud=replace(pairs[0].cloud, units=values))])
    planted = table.set_index("unit").loc[3]
    assert planted["selectivity"] == 1 > planted["selectivity_shuffled"]
    assert len(table) == (values.any(0)).sum()


def test_tables_sentences_and_pictures_come_from_the_runs(
    found, pairs, photos, cell_outputs
):
    """Promise: every number of both sections is there, recorded with a verdict, and drawn."""
    units, (by_run, methods) = unit_table(pairs), feature_distances(pairs, photos.owner)
    rows = chapter_5.distance_rows(by_run, found, photos)
    means = units.groupby("key")[["entropy", "selectivity"]].mean()
    comparison.versus_paper("table5", rows, "smoke", stand_in={"efficientnet_lite0": "resnet18"})
    comparison.versus_paper("fig4", comparison.rows_by_run(found, means), "smoke")
    recorded = paper.attached(cell_outputs, "smoke")
    assert paper.verdict_counts(recorded["fig4"].table) == {"not in the paper": 4}
    counts = paper.verdict_counts(recorded["table5"].table)
    assert counts == {"other setting": 5, "not in the paper": 5, "not run": 10}
    assert "control IO+BN to its own in" in ' '.join(chapter_5.distance_lines(methods))
    assert "FIP-IO+BN against control IO+BN: entropy" in ' '.join(chapter_5.dissection_lines(units))
    grid = unit_pictures(found, pairs, units, photos, "FIP-IO+BN", rows=2, shown=2)
    assert [(len(pictures), len(clouds)) for _, pictures, clouds in grid] == [(2, 2)] * 2
    picture, light = grid[0][1][0]
    names = inside.Opened(found[0], CPU).splits.class_names
    assert picture.shape == (160, 160, 3) and light.ndim == 2
    cloud, values, name = grid[0][2][0]
    assert cloud.shape == (128, 3) and values.shape == (128,) and name in names
    assert len(chapter_5.unit_sheet(grid).axes) == 8
    assert unit_pictures(found, pairs, units, photos, "FIP-ALL") == []
    assert chapter_5.unit_sheet([]).axes[0].get_ylabel()
    plt.close("all")


def layer_probes(found):
    return inside.run_rows(found, chapter_5.layer_probes, "cpu")


def test_collapse_measured_on_the_stored_network_is_what_was_probed(probed):
    """Promise: runs that were not probed get the numbers that probing would have given them."""
    now = layer_probes(probed[:1]).set_index(["split", "layer", "metric"])["value"]
    then = probed[0].probes().query("epoch == 1").set_index(["split", "layer", "metric"])["value"]
    assert set(now.index) == set(then.index)
    np.testing.assert_allclose(now.loc[then.index], then, rtol=1e-4, atol=1e-6)


def test_the_start_is_that_of_epoch_zero_and_shared_by_regimes(probed):
    """Promise: one start for two regimes of the same weights and seed; its CDNV was probed."""
    starts = chapter_8.starting_features(probed)
    assert len(starts) == 2
    table = chapter_8.outcomes_of(probed, starts)
    assert table["start"].tolist() == [0, 0, 1] and table["group"].tolist() == ["IO", "ALL", "IO"]
    for result, start in zip(probed, table["start"], strict=True):
        probe = result.probes().query(
            "epoch == 0 and split == 'test' and layer == 'penultimate' and metric == 'cdnv'")
        kept = list(starts.values())[start]
        assert cdnv(*kept) == pytest.approx(probe["value"].item(), rel=1e-4)
        assert table["cdnv"][0] == unbiased_cdnv(*list(starts.values())[0])
    shots = chapter_8.bound_table(list(starts.values()), [1, 5], table)
    assert (shots["error"] <= shots["bound"]).all() and set(shots["shots"]) == {1}
    assert "of 2 cases" in chapter_8.bound_line("Here", shots)


def test_layer_profiles_have_a_column_for_each_split(probed):
    probes = layer_probes(probed)
    figure = chapter_5.profiles(probes, {"cdnv": "CDNV", "nc1": "NC1"})
    assert [axis.get_title() for axis in figure.axes] == ["train clouds", "test clouds"] * 2
    plt.close("all")


def test_every_point_gets_an_answer_at_every_stage(found):
    """Promise: a site names a class that training has, and all points of a site say the same."""
    def ask(run):
        answers, tested = chapter_5.site_answers(run, per_class=2, tested=1)
        return answers, tested, run.spec.voxel_size, set(run.splits.train.labels.tolist())

    (answers, tested, size, known), *_ = inside.each_run(found[:1], ask)
    assert list(answers) == chapter_5.stage_names(found[0].network())
    for stages in answers.values():
        assert [len(said) for said in stages] == [tested.points.shape[1]] * len(tested)
        assert set(np.concatenate(stages).tolist()) <= known
    said = answers[list(answers)[0]][0]
    _, cell = np.unique(np.floor(tested.points[0].numpy() / size), axis=0, return_inverse=True)
    assert all(len(set(said[cell == one].tolist())) == 1 for one in range(cell.max() + 1))


def test_errors_are_shown_with_what_was_said(found):
    """Promise: what the pictures of errors show is wrong in most runs, or in the run shown."""
    chapter_2 = chapter_functions(NOTEBOOKS / "02_benchmarks.ipynb")
    chapter_3 = chapter_functions(NOTEBOOKS / "03_few_shot.ipynb")
    splits = inside.Opened(found[0], CPU).splits
    names = [name.replace("_", " ") for name in splits.class_names]
    shown = [item[0] for _, items in chapter_2.error_rows(found, splits.test.points, names)
             for item in items]
    assert shown and all(text.split("\n")[0] != text.split("\n")[1].rsplit(" (", 1)[0]
                         for text in shown)
    counts = chapter_2.confusion_from_scratch(found, len(names))
    assert np.isclose(np.trace(counts) / counts.sum(), np.mean([r.metrics["top1"] for r in found]))
    rows = dict(chapter_3.surest_errors(found[0]))
    own, taken = ([title for title, _ in rows[row]]
                  for row in ("shot of its class", "shot of the answer"))
    assert own and all(a != b for a, b in zip(own, taken, strict=True))
