"""A regime trains what it says and nothing else moves."""

import pytest
import torch

from i2p_lib.finetune import REGIMES, freeze
from i2p_lib.inflation import inflate
from i2p_lib.sparse import voxelize
from i2p_lib.weights import image_model


@pytest.fixture
def net():
    generator = torch.Generator().manual_seed(0)
    model = image_model("efficientnet_lite0", "random", seed=0)
    return inflate(model, 3, 4, recipe="paper", generator=generator)


def step(net):
    """One training step; returns the names of all parameters and buffers that moved."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    points = torch.rand(4, 200, 3, generator=torch.Generator().manual_seed(1))
    loss = torch.nn.functional.cross_entropy(net.train()(voxelize(points, 0.1)), torch.arange(4))
    loss.backward()
    optimizer.step()
    after = net.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("regime", REGIMES)
def test_only_the_parameters_of_the_regime_move(net, regime):
    report = freeze(net, regime)
    moved = step(net)
    table = report.parameters.set_index("parameter")
    assert set(table.index[~table["trained"]]).isdisjoint(moved)
    expected = set(table.index[table["trained"]])
    assert len(expected - moved) <= 0.02 * len(expected) + 1  # a bias before a norm may stay
    assert set(table.loc[table["trained"], "role"]) == set(REGIMES[regime])


@pytest.mark.parametrize("regime, follow", [("io", False), ("io+ms", True), ("io+bn", True),
                                            ("all", True)])
def test_statistics_of_the_backbone_follow_the_points_except_in_io(net, regime, follow):
    freeze(net, regime)
    moved = step(net)
    assert ("blocks.3.0.bn2.running_mean" in moved) is follow
    assert "bn1.running_mean" in moved  # the input layer's norm is trained in every regime


def test_a_later_regime_undoes_an_earlier_one(net):
    freeze(net, "io")
    assert freeze(net, "all").trained == sum(p.numel() for p in net.parameters())
    assert "blocks.3.0.bn2.running_mean" in step(net)


def test_the_summary_counts_every_value(net):
    report = freeze(net, "io+bn")
    summary = report.summary()
    assert summary["values"].sum() == report.total == sum(p.numel() for p in net.parameters())
    assert summary.loc[summary["trained"], "values"].sum() == report.trained < 0.02 * report.total


def test_unknown_regime_and_foreign_network_are_refused(net):
    with pytest.raises(ValueError, match="regime must be one of io, io"):
        freeze(net, "bn")
    with pytest.raises(ValueError, match="freeze takes what inflate"):
        freeze(torch.nn.Linear(2, 2), "io")
