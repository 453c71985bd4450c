"""Looking inside finished runs: what is sampled, and what Table 5 and Figure 4 make of it."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import i2p_lib as i2p
from i2p_lib import paper
from i2p_lib.analysis import why, why_units
from i2p_lib.analysis.features import Seen, backbone_convolutions, observe, unit_layer, unit_maps
from i2p_lib.data.pictures import Pictures
from i2p_lib.runs import run
from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import report, why_plots

matplotlib.use("agg")
SPEC = RunSpec(
    points=128, epochs=1, batch_size=8, train_limit=16, test_limit=32, voxel_size=0.2,
    recipe="paper", regime="io+bn", lr=1e-3,
)  # fmt: skip


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
def pairs(found, photos):
    return why.look_inside(found, photos)


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
    assert why.paper_places(16) == {f"wasserstein1_layer{k}": k for k in (1, 4, 8, 16)}
    assert list(why.paper_places(48).values()) == [3, 12, 24, 48]


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
    again = why.look_inside(found[:1], photos)[0]
    assert all((again.cloud.values[k] == v).all() for k, v in pairs[0].cloud.values.items())


def test_a_run_in_bfloat16_is_looked_into_in_bfloat16(found, pairs, photos):
    """Promise: the precision of a run is kept, and its pictures are drawn."""
    result = replace(found[0], spec=SPEC.but(amp="bf16"))
    (pair,) = why.look_inside([result], photos)
    single = pairs[0].cloud.units
    assert 0 < np.abs(pair.cloud.units - single).max() < 0.2 * single.max()
    units = why_units.unit_table([pair])
    (grid,) = why_units.unit_pictures([pair], units, photos, "FIP-IO+BN", rows=1)
    assert len(grid.clouds) == 4


def shifted(pair, shift):
    """A pair whose cloud features are its image features, moved."""
    values = {name: v + shift * (i + 1) for i, (name, v) in enumerate(pair.image.values.items())}
    return replace(pair, cloud=Seen(values, pair.image.owner, pair.cloud.units))


def test_features_moved_by_a_known_length_have_that_distance(pairs, photos):
    """Promise: by layer, in both scales, in the mean, and in the paper's rows."""
    pair = shifted(pairs[0], 2.0)
    distances = why.feature_distances([pair], photos)
    own = distances.methods.query("scale == 'own unit'").set_index("place")["distance"]
    np.testing.assert_allclose(own[1:], 2.0 * np.arange(1, 49), rtol=1e-6)
    assert own[0] == pytest.approx(49)
    relative = distances.methods.query("scale == 'relative'").set_index("place")["distance"]
    spread = np.array([v.std() for v in pair.image.values.values()])
    np.testing.assert_allclose(relative[1:], own[1:] / spread, rtol=1e-5)
    rows = why.distance_rows(distances, [pair], photos).set_index("metric")["value"]
    expected = {"wasserstein1_mean_of_16_layers": 49, "wasserstein1_layer1": 6,
                "wasserstein1_layer4": 24, "wasserstein1_layer8": 48, "wasserstein1_layer16": 96}
    assert rows.to_dict() == pytest.approx(expected)


def test_equal_features_lie_no_farther_than_halves_of_the_photographs(pairs, photos):
    same = why.feature_distances([shifted(pairs[0], 0.0)], photos).methods
    assert (same["distance"].abs() < 1e-12).all() and (same["floor"] > 0).all()
    assert (same["low"] <= same["high"]).all()


def test_other_layers_and_no_run_are_refused(pairs, photos):
    values = dict(list(pairs[0].cloud.values.items())[1:])
    broken = replace(pairs[0], cloud=replace(pairs[0].cloud, values=values))
    with pytest.raises(ValueError, match="other layers: \\['blocks.0.0.conv_dw'\\]"):
        why.feature_distances([broken], photos)
    with pytest.raises(ValueError, match="got none"):
        why.feature_distances(why.look_inside([], photos), photos)


def test_only_imagenets_thousand_classes_in_the_papers_recipe_count_as_the_papers(pairs, photos):
    """Promise: other pictures never carry a verdict of the same setting."""
    distances = why.feature_distances(pairs[:1], photos)
    recipe = {k: v[0] if isinstance(v, tuple) else v for k, v in paper.PAPER_RECIPE.items()}
    recipe |= {"epochs": 100, "train_limit": None, "test_limit": None}
    result = replace(pairs[0].result, spec=SPEC.but(**recipe))
    pair = replace(pairs[0], result=result)
    many = replace(photos, label_names=tuple(map(str, range(1000))))
    assert not why.distance_rows(distances, [pair], photos)["as_in_paper"].any()
    assert why.distance_rows(distances, [pair], many)["as_in_paper"].all()
    assert not why.distance_rows(distances, pairs[:1], many)["as_in_paper"].any()


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0, 3.0])
def test_the_nearest_centre_error_never_exceeds_its_bound(spread):
    """Promise: the inequality holds on any data, and collapsed classes make it say something."""
    random = np.random.default_rng(0)
    for classes in (2, 5):
        labels = np.repeat(np.arange(classes), 30)
        features = np.eye(classes)[labels] + spread * random.standard_t(3, (len(labels), classes))
        bound, error = why.centre_bound(features, labels)
        assert 0 <= error <= bound
        assert (bound < 1) == (spread < 0.1)


def test_two_classes_of_two_points_have_the_bound_of_the_definition():
    features = np.array([[-1.0], [1.0], [9.0], [11.0]])  # Var 1, distance 10
    assert why.centre_bound(features, np.array([0, 0, 1, 1])) == pytest.approx((0.04, 0))


def test_a_planted_unit_stands_out_of_its_shuffled_labels(pairs):
    """Promise: what a unit shows beyond shuffled labels is the classes', and is found."""
    values = pairs[0].cloud.units.copy()
    values[:, 3] = pairs[0].labels == pairs[0].labels[0]
    table = why_units.unit_table([replace(pairs[0], cloud=replace(pairs[0].cloud, units=values))])
    planted = table.set_index("unit").loc[3]
    assert planted["selectivity"] == 1 > planted["selectivity_shuffled"]
    assert len(table) == (values.any(0)).sum()


def test_tables_sentences_and_pictures_come_from_the_runs(pairs, photos, cell_outputs):
    """Promise: every number of both sections is there, recorded with a verdict, and drawn."""
    units, distances = why_units.unit_table(pairs), why.feature_distances(pairs, photos)
    rows = why.distance_rows(distances, pairs, photos)
    report.versus_paper("table5", rows, "smoke", stand_in={"efficientnet_lite0": "resnet18"})
    report.versus_paper("fig4", why_units.dissection_rows(units, pairs), "smoke")
    recorded = paper.attached(cell_outputs, "smoke")
    assert paper.verdict_counts(recorded["fig4"].table) == {paper.NOT_IN_PAPER: 4}
    counts = paper.verdict_counts(recorded["table5"].table)
    assert counts == {paper.OTHER_SETTING: 5, paper.NOT_IN_PAPER: 5, paper.NOT_RUN: 10}
    assert "control IO+BN to its own in" in why.distance_sentences(distances)
    assert "FIP-IO+BN against control IO+BN: entropy" in why_units.dissection_sentences(units)
    assert "control IO+BN: error" in why.bound_sentences([pair.result for pair in pairs])
    grid = why_units.unit_pictures(pairs, units, photos, "FIP-IO+BN", rows=2, shown=2)
    assert [len(g.pictures) for g in grid] == [2, 2] and [len(g.clouds) for g in grid] == [2, 2]
    picture, light = grid[0].pictures[0]
    assert picture.shape == (160, 160, 3) and light.ndim == 2
    cloud, values, name = grid[0].clouds[0]
    assert cloud.shape == (128, 3) and values.shape == (128,) and name in pairs[0].class_names
    panels = len(why_plots.layer_distances(distances).axes), len(why_plots.unit_grid(grid).axes)
    assert panels == (3, 10)
    left, _ = why_plots.unit_measures(units).axes
    assert len(left.lines) == 3  # two methods and chance
    assert why_units.unit_pictures(pairs, units, photos, "FIP-ALL") == []
    assert why_plots.unit_grid([]).axes[0].texts
    plt.close("all")
