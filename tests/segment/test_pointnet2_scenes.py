"""PointNet++ for scenes is the authors' network, and takes from pixels what fits it."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.models.pointnet2 import FeaturePropagation, PointNet2
from i2p_lib.models.segmenters import segmenter

PIXELS = "pointnet2_ssg-imagenet1k_pixels.safetensors"


def block(batch=2, points=300, channels=6, seed=0):
    """Rows of random points in a column of one metre."""
    return torch.rand(batch, points, 3 + channels, generator=torch.Generator().manual_seed(seed))


def test_the_layers_are_those_of_the_authors():
    """Promise: SSG for scenes: widths, centres, radii, dropout."""
    net = segmenter("pointnet2_ssg", 13, 3)
    widths = [tuple(m.weight.shape[::-1]) for m in net.modules() if isinstance(m, nn.Linear)]
    assert widths == [
        (9, 32), (32, 32), (32, 64), (67, 64), (64, 64), (64, 128), (131, 128), (128, 128),
        (128, 256), (259, 256), (256, 256), (256, 512), (768, 256), (256, 256), (384, 256),
        (256, 256), (320, 256), (256, 128), (128, 128), (128, 128), (128, 128), (128, 128),
        (128, 13)]  # fmt: skip
    stages = [(s.count, s.radius, s.size) for s in (net.sa1, net.sa2, net.sa3, net.sa4)]
    assert stages == [(1024, 0.1, 32), (256, 0.2, 32), (64, 0.4, 32), (16, 0.8, 32)]
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.5]


def test_features_are_carried_by_the_three_nearest():
    """Promise: mean weighted by the inverse squared distance, as a loop over points has it."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        step = FeaturePropagation(2 + 4, 5).double().eval()
    many, few = (torch.rand(2, n, 3, generator=random, dtype=torch.float64) for n in (40, 7))
    few[:, 0] = many[:, 0]
    features = torch.rand(2, 7, 4, generator=random, dtype=torch.float64)
    skip = torch.rand(2, 40, 2, generator=random, dtype=torch.float64)
    got = step(many, skip, few, features)
    for b in range(2):
        for p in range(40):
            squared = [(float((many[b, p] - few[b, m]).square().sum()), m) for m in range(7)]
            near = sorted(squared)[:3]
            weights = [1 / max(d, 1e-10) for d, _ in near]
            carried = sum(w * features[b, m] for w, (_, m) in zip(weights, near, strict=True))
            row = torch.cat([skip[b, p], carried / sum(weights)])
            torch.testing.assert_close(got[b, p], step.mlp(row[None])[0], rtol=1e-8, atol=1e-8)
        own = torch.cat([skip[b, 0], features[b, 0]])  # a point on one of the few has its features
        torch.testing.assert_close(got[b, 0], step.mlp(own[None])[0], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def pixel_file(tmp_path_factory):
    """The file of a pixel network with settled random tensors."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = PointNet2(1000, channels=3)
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "running" in name else tensor.normal_()
    path = tmp_path_factory.mktemp("weights") / PIXELS
    save_file(net.state_dict(), path)
    return path, net.state_dict()


def test_what_pixels_have_taught_is_taken_where_it_fits(pixel_file):
    """Promise: just the layers of equal shape in the stage of equal radius, with their norms."""
    path, stored = pixel_file
    net = segmenter("pointnet2_ssg", 4, 3, "imagenet1k_pixels", weights_dir=path.parent)
    pairs = {"sa2.mlp.3": "sa1.mlp.3", "sa2.mlp.6": "sa1.mlp.6", "sa3.mlp.0": "sa2.mlp.0",
             "sa3.mlp.3": "sa2.mlp.3", "sa3.mlp.6": "sa2.mlp.6", "sa4.mlp.0": "sa3.0"}
    state, expected = net.state_dict(), {}
    for ours, theirs in pairs.items():
        expected[f"{ours}.weight"] = f"{theirs}.weight"
        norm, source = (f"{n.rpartition('.')[0]}.{int(n[-1]) + 1}" for n in (ours, theirs))
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            expected[f"{norm}.{kind}"] = f"{source}.{kind}"
    report = net.i2p_report.set_index("tensor")
    assert set(report.index) == set(state)
    assert set(report.index[report.action == "copied"]) == set(expected)
    assert (report.action[~report.index.isin(list(expected))] == "new").all()
    assert all(torch.equal(state[ours], stored[theirs]) for ours, theirs in expected.items())
    fresh = segmenter("pointnet2_ssg", 4, 3).state_dict()
    assert all(torch.equal(state[n], fresh[n]) for n in state if n not in expected)
    assert "refused" not in set(net.i2p_transfer.state)


def test_absent_or_foreign_pixel_weights_are_refused(pixel_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=PIXELS):
        segmenter("pointnet2_ssg", 4, 3, "imagenet1k_pixels", weights_dir=tmp_path)
    tensors = dict(pixel_file[1])
    del tensors["sa2.mlp.0.weight"]
    save_file(tensors, tmp_path / PIXELS)
    with pytest.raises(ValueError, match="sa2.mlp.0.weight .missing in the file"):
        segmenter("pointnet2_ssg", 4, 3, "imagenet1k_pixels", weights_dir=tmp_path)


@pytest.mark.parametrize("regime", ["io", "all"])
def test_gradients_reach_what_a_regime_trains(regime):
    net = segmenter("pointnet2_ssg", 4, 3)
    freeze(net, regime)
    labels = torch.randint(4, (600,), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        F.cross_entropy(net.train()(block()), labels).backward()
    for name, parameter in net.named_parameters():
        trained = net.i2p_roles[name] in REGIMES[regime].roles
        assert (parameter.grad is not None) is trained, name
        assert not trained or float(parameter.grad.abs().sum()) > 0, name
    assert {n for n, r in net.i2p_roles.items() if r == "input"} == {
        "sa1.mlp.0.weight", "sa1.mlp.1.weight", "sa1.mlp.1.bias"}
    assert all((r == "output") is n.startswith("decoder.") for n, r in net.i2p_roles.items())


def test_answers_depend_on_input_and_seed_alone():
    before = torch.random.get_rng_state()
    nets = [segmenter("pointnet2_ssg", 4, 3, seed=seed).eval() for seed in (1, 1, 2)]
    with torch.no_grad():
        first, again, other = (net(block()) for net in nets)
        assert first.shape == (600, 4)
        assert torch.equal(first, again) and not torch.allclose(first, other)
        torch.testing.assert_close(nets[0](block()[1:]), first[300:])
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"expected points \[B, P, 9\], got \[2, 300, 8\]"):
        nets[0](block(channels=5))
