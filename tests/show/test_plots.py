"""The figures show the numbers that they are given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from i2p_lib.show import bars, drawings, lines

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def runs():
    return pd.DataFrame({
        "weights": ["random", "random", "imagenet1k", "imagenet1k", "imagenet1k"],
        "regime": ["all", "all", "all", "all", "io+bn"], "seed": [0, 1, 0, 1, 0],
        "model": "efficientnet_lite0", "shots": [1, 1, 1, 1, 1], "axis": ["z", "z", "z", "z", "x"],
        "top1": [0.4, 0.6, 0.7, 0.8, 0.5], "key": list("abcde"),
    })  # fmt: skip


def heights(axis):
    return [round(bar.get_height(), 6) for bar in axis.patches if bar.get_height()]


def test_bars_are_means_in_the_palettes_order_and_dots_are_seeds(runs):
    (axis,) = bars.method_bars(runs, chance=0.1).axes
    assert heights(axis) == [50, 50, 75]  # scratch, FIP-IO+BN, FIP-ALL
    assert [len(c.get_offsets()) for c in axis.collections] == [2, 1, 2]
    assert [t.get_text().replace("\n", "") for t in axis.get_xticklabels()] == [
        "scratch", "FIP-IO+BN", "FIP-ALL"]


def test_panels_show_only_the_methods_that_ran(runs):
    other = runs.iloc[:1].assign(model="resnet18", top1=0.3)
    first, second = bars.method_bars(pd.concat([runs, other]), by="model").axes
    assert len(heights(first)) == 3 and heights(second) == [30]


def test_shots_draw_one_bar_per_method(runs):
    assert heights(bars.shots(runs).axes[0]) == [50, 50, 75]


def test_curves_draw_every_seed_the_mean_and_the_target(runs):
    table = pd.concat([runs.assign(epoch=e, val_top1=runs["top1"] * e / 2) for e in (1, 2)])
    (axis,) = lines.curves(table, {"efficientnet_lite0": 0.45}).axes
    assert len(axis.lines) == 5 + 3 + 1
    thick = [line for line in axis.lines if line.get_linewidth() > 2]
    assert [line.get_ydata()[-1] for line in thick] == pytest.approx([50, 50, 75])
    assert axis.lines[-1].get_ydata()[0] == pytest.approx(45)


def test_collapse_curves_draw_test_and_train(runs):
    probes = pd.concat([
        runs.assign(epoch=e, split=s, layer="penultimate", metric=m, value=1.0 / (e + 1))
        for e in (0, 4) for s in ("train", "test") for m in ("cdnv", "nc1")])
    axes = lines.collapse_curves(probes, {"cdnv": "CDNV", "nc1": "NC1"}).axes
    assert [axis.get_title() for axis in axes] == ["CDNV", "NC1"]
    assert all(len(axis.lines) == 6 for axis in axes)
    axis = lines.layer_profiles(probes, {"cdnv": "CDNV"}).axes[-1]
    assert len(axis.lines) == 6


def test_a_filter_is_drawn_slice_by_slice_with_its_values():
    volume = np.zeros((3, 3, 3))
    volume[1, 2, :] = 5  # x = 1, y = 2, all z
    axes = drawings.filters(np.eye(3), volume, "z").axes
    assert len(axes) == 4
    shown = axes[1].images[0].get_array()
    assert shown[2, 1] == 5 and shown.sum() == 5  # row y, column x


def test_voxels_draw_exactly_the_occupied_cells():
    coords = np.array([[0, 0, 0], [2, 1, 0], [-1, 0, 3]])
    figure = drawings.voxels(np.random.default_rng(0).normal(size=(50, 3)), coords, 0.1, "t")
    assert "3 voxels" in figure.axes[1].get_title()
    faces = sum(len(c.get_facecolor()) > 0 for c in figure.axes[1].collections)
    assert faces == 3


def test_the_gallery_shows_every_cloud_once():
    clouds = np.random.default_rng(0).normal(size=(5, 30, 3))
    axes = drawings.gallery(clouds, list("abcde"), columns=3).axes
    assert [axis.get_title() for axis in axes if axis.collections] == list("abcde")


def test_figure_1_names_what_is_inflated_copied_and_new():
    texts = [t.get_text() for t in drawings.framework().axes[0].texts]
    assert texts.count("inflate") == 2 and texts.count("copy") == 2
