"""A regime trains what it says and nothing else moves."""

import copy

import pytest
import torch
from torch import nn

from i2p_lib.inflation import inflate
from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.sparse import voxelize
from i2p_lib.weights import image_model


@pytest.fixture
def net():
    generator = torch.Generator().manual_seed(0)
    model = image_model("efficientnet_lite0", "random", seed=0)
    return inflate(model, 3, 4, recipe="paper", generator=generator)


class Dense(nn.Module):
    """The smallest network on points that has torch's own batch norms in every place."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Linear(3, 8), nn.BatchNorm1d(8)
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.i2p_input = "points"
        parts = {"stem": "input", "stem_norm": "input", "conv": "backbone", "norm": "norm",
                 "head": "output"}  # fmt: skip
        self.i2p_roles = {n: parts[n.split(".")[0]] for n, _ in self.named_parameters()}

    def forward(self, points):
        rows = self.stem_norm(self.stem(points.flatten(0, 1))).relu()
        image = rows.unflatten(0, points.shape[:2]).permute(0, 2, 1).unsqueeze(3)
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


@pytest.fixture
def dense():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Dense()


def step(net):
    """One training step; returns the names of all parameters and buffers that moved."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    points = torch.rand(4, 200, 3, generator=torch.Generator().manual_seed(1))
    x = points if getattr(net, "i2p_input", "voxels") == "points" else voxelize(points, 0.1)
    loss = torch.nn.functional.cross_entropy(net.train()(x), torch.arange(4))
    loss.backward()
    optimizer.step()
    after = net.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("regime", REGIMES)
def test_only_the_parameters_of_the_regime_move(net, regime):
    table = freeze(net, regime).set_index("parameter")
    moved = step(net)
    assert set(table.index[~table["trained"]]).isdisjoint(moved)
    expected = set(table.index[table["trained"]])
    assert len(expected - moved) <= 0.02 * len(expected) + 1  # a bias before a norm may stay
    assert set(table.loc[table["trained"], "role"]) == set(REGIMES[regime].roles)


@pytest.mark.parametrize("regime, follow", [("io", False), ("io+ms", True), ("io+bn", True),
                                            ("all", True)])
def test_statistics_of_the_backbone_follow_the_points_except_in_io(net, regime, follow):
    freeze(net, regime)
    moved = step(net)
    assert ("blocks.3.0.bn2.running_mean" in moved) is follow
    assert "bn1.running_mean" in moved  # the input layer's norm is trained in every regime


@pytest.mark.parametrize("regime, follow", [("io", False), ("io+ms", True), ("io+bn", True),
                                            ("all", True)])
def test_torchs_own_batch_norms_keep_their_statistics_in_io(dense, regime, follow):
    freeze(dense, regime)
    moved = step(dense)
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert (name in moved) is follow
    assert {"stem_norm.running_mean", "head.1.running_mean"} <= moved


def test_frozen_statistics_are_what_the_output_is_made_of(dense):
    """Promise: in io a training pass normalises with the stored mean and variance."""
    freeze(dense, "io")
    dense.norm.running_mean.fill_(3.0)
    dense.norm.running_var.fill_(4.0)
    seen = {}
    dense.norm.register_forward_hook(lambda layer, x, y: seen.update(x=x[0], y=y))
    dense.train()(torch.rand(4, 5, 3))
    torch.testing.assert_close(seen["y"], (seen["x"] - 3) / (4 + dense.norm.eps) ** 0.5)


def test_regimes_follow_each_other_on_torchs_own_batch_norms(dense):
    """Promise: the last regime counts, also in a copy, and evaluation mode is left as it is."""
    freeze(dense, "all")
    freeze(dense, "io")
    twin = copy.deepcopy(dense)
    for net in (dense, twin):
        assert "norm.running_mean" not in step(net)
    dense.eval()
    freeze(dense, "io+bn")
    assert not any(layer.training for layer in dense.modules())
    assert "norm.running_mean" in step(dense)
    assert "norm.running_mean" not in step(twin)
    freeze(twin.train(), "all")
    before = twin.norm.running_mean.clone()
    twin(torch.rand(4, 5, 3))
    assert not torch.equal(twin.norm.running_mean, before)


def test_a_later_regime_undoes_an_earlier_one(net):
    freeze(net, "io")
    assert freeze(net, "all")["trained"].all()
    assert "blocks.3.0.bn2.running_mean" in step(net)


def test_the_summary_counts_every_value(net):
    table = freeze(net, "io+bn")
    total = sum(p.numel() for p in net.parameters())
    assert table["values"].sum() == total
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert table.loc[table["trained"], "values"].sum() == trained < 0.02 * total


def test_unknown_regime_and_foreign_network_are_refused(net):
    with pytest.raises(ValueError, match="regime must be one of io, io"):
        freeze(net, "bn")
    with pytest.raises(ValueError, match="freeze takes what inflate"):
        freeze(torch.nn.Linear(2, 2), "io")
