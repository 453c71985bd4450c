"""Collapse before training and on the images' side, and what is said of it."""

import fractals
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from i2p_lib.analysis import why_collapse, why_source
from i2p_lib.analysis.collapse import cdnv
from i2p_lib.data.fractal_images import SPLITS, FractalImages
from i2p_lib.runs import run
from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import discussion_plots, plots, report
from i2p_lib.weights import weight_card

matplotlib.use("agg")
SPEC = RunSpec(
    points=64, epochs=1, batch_size=8, train_limit=32, test_limit=32, voxel_size=0.25,
    recipe="paper", regime="io", lr=1e-2, probe_epochs=(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    store = tmp_path_factory.mktemp("runs")
    specs = [SPEC, SPEC.but(regime="all"), SPEC.but(weights="random")]
    return [run(spec, store=store, progress=False) for spec in specs]


def test_collapse_measured_on_the_stored_network_is_what_was_probed(found):
    """Promise: runs that were not probed get the numbers that probing would have given them."""
    now = why_collapse.layer_probes(found[:1]).set_index(["split", "layer", "metric"])["value"]
    then = found[0].probes().query("epoch == 1").set_index(["split", "layer", "metric"])["value"]
    assert set(now.index) == set(then.index)
    np.testing.assert_allclose(now.loc[then.index], then, rtol=1e-4, atol=1e-6)


def test_the_start_is_that_of_epoch_zero_and_shared_by_regimes(found):
    """Promise: one start for two regimes of the same weights and seed; its CDNV was probed."""
    starts = why_collapse.starting_features(found)
    assert len(starts) == 2
    table = why_collapse.forecasts(found, starts)
    assert table["start"].tolist() == [0, 0, 1] and table["group"].tolist() == ["IO", "ALL", "IO"]
    for result, value in zip(found, table["cdnv"], strict=True):
        probed = result.probes().query(
            "epoch == 0 and split == 'test' and layer == 'penultimate' and metric == 'cdnv'")
        assert value == pytest.approx(probed["value"].item(), rel=1e-4)
    shots = why_collapse.bound_table(starts, [1, 5], table.assign(group="5-shot"))
    assert (shots["error"] <= shots["bound"]).all() and shots["trained"].notna().sum() == 2
    assert "1-shot: error of nearest centres" in why_collapse.bound_sentences(shots)
    assert len(discussion_plots.bound_lines(shots).axes) == 2
    plt.close("all")


def planted(slope, seeds=6):
    """Runs of two networks whose accuracy follows their starting CDNV with this slope."""
    rng = np.random.default_rng(0)
    start = np.arange(2 * seeds)
    value = np.where(start < seeds, 1.0, 3.0) + rng.random(2 * seeds)
    return pd.DataFrame({
        "group": "IO", "model": np.where(start < seeds, "a", "b"), "weights": "random",
        "regime": "io", "seed": start % seeds, "start": start, "cdnv": value,
        "top1": 0.5 + slope * value,
    })


@pytest.mark.parametrize("slope, said", [(-0.1, "the better"), (0.1, "the worse")])
def test_a_planted_forecast_is_found_between_networks_and_within(slope, said):
    summary = why_collapse.forecast_table(planted(slope))
    row = summary.iloc[0]
    assert np.sign([row["rho"], row["within"]]).tolist() == [np.sign(slope)] * 2
    assert abs(row["within"]) > 0.99 and row["sources"] == 2
    assert f"the more collapsed, {said}" in why_collapse.forecast_sentences(summary)
    assert len(discussion_plots.forecast_forest(summary).axes) == 1
    assert len(discussion_plots.forecast_scatter(planted(slope)).axes) == 1
    plt.close("all")


def test_accuracy_that_has_nothing_to_do_with_collapse_forecasts_nothing():
    table = planted(0.0).assign(top1=np.random.default_rng(2).random(12))
    assert "nothing can be told" in why_collapse.forecast_sentences(
        why_collapse.forecast_table(table))


def test_the_images_side_is_measured_on_held_out_fractals():
    """Promise: the numbers are those of the features returned, and better than random weights."""
    categories, drawn = fractals.find_categories(3, seed=1), {}
    for split in SPLITS:
        labels, images = zip(*fractals.fractal_images(categories, 6, 96, 2, split), strict=True)
        drawn[split] = FractalImages(np.stack(images), np.array(labels), (2, 2, 2))
    table, features = why_source.source_collapse(drawn)
    last = table.query("layer == 'penultimate' and metric == 'cdnv' and split == 'held_out'")
    for weights, (values, labels) in features.items():
        assert values.shape == (18, 512)
        held = last.set_index("weights")["value"]
        assert held[weights] == pytest.approx(cdnv(values, labels))
    assert last.set_index("weights")["value"]["fractal"] < held["random"]
    classes, each = why_source.trained_on(weight_card("resnet18", "fractal"))
    assert (classes, each) == (200, 180)
    text = why_source.source_sentences(table, classes)
    assert "Of 18 held-out images" in text and "NC3 of the last features" in text
    bounds = why_source.source_bound_sentences(features["fractal"], 16, [1, 5], (classes, each))
    assert bounds.count("<li>") == 2 and "on its own 3 classes" in bounds
    shown = {name: report.COLLAPSE_TITLES[name] for name in ("cdnv", "nc1")}
    assert [len(a.lines) for a in discussion_plots.source_layers(table, shown).axes] == [4, 4]
    plt.close("all")


def test_fractals_are_given_as_the_pretraining_gave_them():
    """Promise: the same crop and the same scale as the script that trained the weights."""
    from torchvision.transforms.functional import center_crop, normalize

    images = np.random.default_rng(0).integers(128, size=(2, 96, 96), dtype=np.uint8)
    grey = center_crop(torch.from_numpy(images)[:, None] / 255, [80, 80]).expand(-1, 3, -1, -1)
    expected = normalize(grey, [0.2] * 3, [0.5] * 3)
    torch.testing.assert_close(why_source.fractal_input(images), expected)


def test_a_card_that_does_not_say_its_images_is_refused():
    card = weight_card("resnet18", "fractal").model_copy(update={"pretraining": "pictures"})
    with pytest.raises(ValueError, match="does not say"):
        why_source.trained_on(card)


def test_the_facts_of_a_card_are_its_own():
    card = weight_card("resnet18", "fractal")
    text = report.card_facts(card)
    assert all(part in text for part in card.note.split("; ")) and card.sha256[:16] in text


def test_layer_profiles_have_a_column_for_each_split(found):
    probes = why_collapse.layer_probes(found)
    figure = plots.layer_profiles(probes, {"cdnv": "CDNV", "nc1": "NC1"})
    assert [axis.get_title() for axis in figure.axes] == ["train clouds", "test clouds"] * 2
    plt.close("all")
