"""The figures show the numbers that they are given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_notebooks import chapter_functions

from i2p_lib.analysis.methods import with_method
from i2p_lib.show import bars, drawings, lines
from i2p_lib.sources import PACKAGE

matplotlib.use("agg")
method, few_shot = (chapter_functions(PACKAGE.parent / "notebooks" / f"{name}.ipynb")
                    for name in ("00_method", "03_few_shot"))


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
    assert heights(few_shot.shot_bars(runs, 0.1).axes[0]) == [50, 50, 75]


def test_panels_draw_every_stroke_of_the_rows_that_are_theirs(runs):
    table = with_method(pd.concat([
        runs.assign(epoch=e, split=s, metric=m, value=runs["top1"] * e)
        for e in (1, 2) for s in ("train", "test") for m in ("cdnv", "nc1")]))  # fmt: skip
    single = {"only": "train", "units": "seed", "estimator": None, "linewidth": 1}
    figure, axes = lines.panels(table, "epoch", "value", "metric", by="split",
                                strokes=[single, {"only": "test", "linestyle": "--"}])
    assert [key for key in axes] == [(None, "cdnv"), (None, "nc1")]
    assert [axis.get_title() for axis in figure.axes] == ["cdnv", "nc1"]
    for axis in axes.values():  # five runs, and three means over seeds
        assert [line.get_linewidth() for line in axis.lines] == [1] * 5 + [2.4] * 3
        assert [line.get_ydata()[-1] for line in axis.lines[5:]] == pytest.approx([1, 1, 1.5])
    figure, axes = lines.panels(table, "epoch", "value", "split", "metric", sharey="row")
    assert list(axes) == [("cdnv", "train"), ("cdnv", "test"), ("nc1", "train"), ("nc1", "test")]
    figure, axes = lines.panels(table, "epoch", "value", "metric", wrap=1,
                                strokes=lines.MEANS_AND_RUNS)
    assert [len(axis.lines) for axis in axes.values()] == [3 + 5] * 2


def test_a_filter_is_drawn_slice_by_slice_with_its_values():
    volume = np.zeros((3, 3, 3))
    volume[1, 2, :] = 5  # x = 1, y = 2, all z
    axes = method.draw_filters(np.eye(3), volume).axes
    assert len(axes) == 4
    shown = axes[1].collections[0].get_array()
    assert shown[2, 1] == 5 and shown.sum() == 5  # row y, column x


def test_voxels_draw_exactly_the_occupied_cells():
    coords = np.array([[0, 0, 0], [2, 1, 0], [-1, 0, 3]])
    figure = method.draw_voxels(np.random.default_rng(0).normal(size=(50, 3)), coords, "t")
    assert "3 voxels" in figure.axes[1].get_title()
    faces = sum(len(c.get_facecolor()) > 0 for c in figure.axes[1].collections)
    assert faces == 3


def test_the_gallery_shows_every_cloud_once():
    clouds = np.random.default_rng(0).normal(size=(5, 30, 3))
    axes = drawings.gallery(clouds, list("abcde"), columns=3).axes
    assert [axis.get_title() for axis in axes if axis.collections] == list("abcde")


def test_figure_1_names_what_is_inflated_copied_and_new():
    texts = [t.get_text() for t in method.framework().axes[0].texts]
    assert texts.count("inflate") == 2 and texts.count("copy") == 2
