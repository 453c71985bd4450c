"""Patch shuffling and receptive-field ablation of finished runs: what is measured is said."""

import math

import numpy as np
import pytest
import torch
from made_notebooks import chapter_functions

import i2p_lib as i2p
from i2p_lib.analysis.taps import backbone_convolutions
from i2p_lib.runs import inside, run
from i2p_lib.runs.spec import RunSpec
from i2p_lib.show.comparison import rows_by_run
from i2p_lib.sources import PACKAGE
from i2p_lib.sparse import Sites, SparseTensor
from i2p_lib.train.clouds import evaluate, load_splits
from i2p_lib.train.task import generator

SPEC = RunSpec(
    points=64, epochs=1, batch_size=8, train_limit=32, test_limit=32, voxel_size=0.25,
    recipe="paper", regime="io", lr=1e-2,
)  # fmt: skip
cues = chapter_functions(PACKAGE.parent / "notebooks" / "08_discussion.ipynb")
ablate, spatial_kernels = cues.ablate, cues.spatial_kernels


def shuffled_accuracy(found, patches):
    return inside.run_rows(found, lambda run: cues.shuffled_accuracy(run, patches=patches), "cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One transfer run and its control, trained for real."""
    store = tmp_path_factory.mktemp("runs")
    return [run(s, store=store, progress=False) for s in (SPEC, SPEC.but(weights="random"))]


@pytest.fixture(scope="module")
def small_net():
    net = i2p.image_model("resnet18", weights="random")
    return lambda: i2p.inflate(net, num_classes=2, recipe="paper").eval()


def seen_by_one_site(net, side):
    """The extent, along each axis, of the input that one site of the last stage depends on."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coords = torch.cat([torch.zeros(len(grid), 1, dtype=torch.int64), grid], 1)
    feats = torch.ones(len(grid), 3, requires_grad=True)
    x, outputs = SparseTensor(feats, Sites(coords, 1)), []
    handle = net.layer4.register_forward_hook(lambda module, args, out: outputs.append(out))
    net(x)
    handle.remove()
    (out,) = outputs
    middle = (out.coords[:, 1:] == side // 16).all(1)
    (grad,) = torch.autograd.grad(out.feats[middle].sum(), feats)
    touched = grid[(grad != 0).any(1)]
    return (touched.max(0).values - touched.min(0).values + 1).tolist()


@pytest.mark.parametrize("kept, field", [(0, 10), (2, 14)])
def test_the_receptive_field_is_what_the_gradient_reaches(small_net, kept, field):
    """Promise: stated and real sight are the same; 8 merged cells and the input's 3 at least."""
    net = small_net()
    assert ablate(net, kept) == field
    assert seen_by_one_site(net, 32) == [field] * 3


def test_whole_kernels_stay_as_they_are_and_the_whole_field_is_the_networks(small_net):
    """Promise: with all kernels kept nothing changes, and the field is the sum of its strides."""
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count = len(spatial_kernels(net))
    assert count == len(backbone_convolutions(net)) == 16
    field = ablate(net, count)
    assert field == 1 + 2 + 4 * 2 + (2 + 3 * 4) + (4 + 3 * 8) + (8 + 3 * 16)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_shuffled_accuracy_is_that_of_the_shuffled_test_clouds(found):
    """Promise: each number is a plain evaluation of the run's network on those clouds."""
    table = shuffled_accuracy(found, (1, 4))
    assert len(table) == 2 * 2 * 2
    for result in found:
        splits = load_splits(SPEC)
        random = generator(0, "shuffle", "detail", 4)
        clouds = torch.stack(
            [cues.scatter_in_patches(one, 4 * 0.25, random) for one in splits.test.points]
        )
        right = evaluate(result.network(), clouds, result.spec).argmax(1) == splits.test.labels
        expected = float(right.double().mean())
        row = table.query("key == @result.key[:16] and kind == 'detail' and patch == 4").iloc[0]
        assert row["top1"] == expected and row["whole"] == result.metrics["top1"]
    again = shuffled_accuracy(found[1:], (1, 4))
    assert again["top1"].tolist() == table["top1"][4:].tolist(), "side by side or alone"


def test_ablated_accuracy_is_that_of_nearest_centres(found):
    """Promise: scikit-learn's classifier on features of the same cut network says the same."""
    from sklearn.neighbors import NearestCentroid

    table = inside.run_rows(
        found[:1], lambda run: cues.ablated_accuracy(run, shares=(1.0, 0.0)), "cpu")
    assert table["field"].is_monotonic_increasing and len(table) == 2
    net = found[0].network()
    ablate(net, math.ceil(0.0))
    splits = load_splits(SPEC)
    opened = inside.Opened(found[0], torch.device("cpu"))
    train, test = (cues.batch_norm_features(opened, net, split.points).numpy()
                   for split in (splits.train, splits.test))
    named = NearestCentroid().fit(train, splits.train.labels).predict(test)
    assert table["top1"][0] == pytest.approx(np.mean(named == splits.test.labels.numpy()))


def test_sentences_and_rows_come_from_the_table(found):
    table = shuffled_accuracy(found, (2,)).assign(whole=0.9)
    table["top1"] = np.where(table["kind"] == "detail", 0.8, 0.3)
    text = ' '.join(cues.shape_lines(table, 1 / 16))
    assert "FIP-IO, patches of 2 voxels: 60 points lost with the arrangement destroyed, 10" in text
    assert "more by arrangement in 1 of 1 runs" in text
    assert "FIP-IO against control IO: with the detail destroyed +0 points are lost" in text
    values = 100 * table.pivot(index="key", columns=["kind", "patch"], values="top1")
    values.columns = [f"top1_{kind}_shuffled_at_{patch}_voxels" for kind, patch in values]
    rows = rows_by_run(found, values)
    assert set(rows["metric"]) == {"top1_arrangement_shuffled_at_2_voxels",
                                   "top1_detail_shuffled_at_2_voxels"}
    assert sorted(rows["value"]) == pytest.approx([30, 30, 80, 80])
