"""The U-Net is dense arithmetic on occupied sites, around an image network that stays as it is."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from i2p_lib.inflation import inflate_weight, to_taps
from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.models.segmenters import segmenter
from i2p_lib.models.stages import stage_names, stage_outputs
from i2p_lib.models.unet import (
    STRIDES,
    Up,
    residual_blocks,
    scaled,
    unet,
)
from i2p_lib.sparse import Points, SparseBatchNorm, SparseTensor, voxelize
from i2p_lib.weights import image_model

LITE = "unet:efficientnet_lite0"


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(side):
    """All cells of a cube, row-major."""
    cells = torch.tensor(list(itertools.product(range(side), repeat=3)))
    return torch.cat([torch.zeros(len(cells), 1, dtype=torch.int64), cells], 1)


def room(points=400, seed=0, channels=6, batch=2):
    """Voxels of points on the floor and a wall of two small rooms."""
    place = torch.rand(batch, points, 3, generator=draws(seed))
    place[:, ::2, 2], place[:, 1::2, 0] = 0, 0
    features = torch.rand(batch * points, channels, generator=draws(seed + 1))
    return voxelize(place, 0.05, features=features)


def settled(module):
    """Random norms with random statistics, in evaluation mode and float64."""
    random = draws(3)
    for layer in module.modules():
        if isinstance(layer, SparseBatchNorm):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                tensor.data.normal_(generator=random)
            layer.running_var.uniform_(0.5, 2, generator=random)
    return module.double().eval()


def dense_norm(layer, x):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias,
                        eps=layer.eps)


def dense_weight(layer, order):
    return layer.weight.reshape(*layer.kernel_size, *layer.weight.shape[1:]).permute(order)


def dense_conv(layer, x):
    weight = dense_weight(layer, (4, 3, 0, 1, 2))
    before, after = (layer.kernel_size[0] - 1) // 2, layer.kernel_size[0] // 2
    return F.conv3d(F.pad(x, (before, after) * 3), weight)


def dense_blocks(blocks, x):
    for block in blocks:
        y = dense_norm(block.bn1, dense_conv(block.conv1, x)).relu()
        y = dense_norm(block.bn2, dense_conv(block.conv2, y))
        if block.downsample is not None:
            x = dense_norm(block.downsample[1], dense_conv(block.downsample[0], x))
        x = (x + y).relu()
    return x


@pytest.mark.parametrize("kernel", [2, 3])
def test_a_step_up_equals_the_dense_one(kernel):
    """Promise: conv_transpose3d, the joined skip and two dense residual blocks, on a full grid."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        up = settled(Up(3, 2, 8, kernel))
    fine = SparseTensor(torch.randn(512, 2, generator=draws()).double(), grid(8))
    coarse = torch.randn(64, 3, generator=draws(1)).double()
    x = SparseTensor(coarse, fine.sites.downsample(2))
    assert torch.equal(x.coords, grid(4))

    volume = coarse.T.reshape(1, 3, 4, 4, 4)
    weight = dense_weight(up.transposed[0], (3, 4, 0, 1, 2))
    pad = (kernel - 1) // 2
    raised = F.conv_transpose3d(volume, weight, stride=2, padding=pad, output_padding=kernel - 2)
    raised = dense_norm(up.transposed[1], raised).relu()
    skip = fine.feats.T.reshape(1, 2, 8, 8, 8)
    expected = dense_blocks(up.blocks, torch.cat([raised, skip], 1))
    out = up(x, fine)
    assert out.sites is fine.sites
    torch.testing.assert_close(out.feats, expected[0].flatten(1).T, rtol=1e-9, atol=1e-9)


def test_the_blocks_are_full_3d_ones():
    """Promise: 3x3x3 kernels that differ along all axes, 2x2x2 shortcuts, sparse norms."""
    with torch.random.fork_rng():
        blocks = residual_blocks(5, 8, 2)
    weight = dense_weight(blocks[0].conv1, (4, 3, 0, 1, 2)).detach()
    assert weight.shape == (8, 5, 3, 3, 3)
    assert all(float(weight.std(axis).min()) > 0 for axis in (2, 3, 4))
    assert blocks[0].downsample[0].kernel_size == (2, 2, 2) and blocks[1].downsample is None
    assert not any(p.is_meta for p in (*blocks.parameters(), *blocks.buffers()))
    assert not any(type(m) is nn.BatchNorm2d for m in blocks.modules())


def test_the_way_through_the_points_equals_brute_force():
    """Promise: trilinear between the lowest corners of those cells that are there; cells' means."""
    x = room(60, channels=2)
    coarse = x.sites.downsample(2).downsample(2)
    values = torch.randn(len(coarse), 3, generator=draws(), dtype=torch.float64)
    level, points = SparseTensor(values, coarse), Points.of_voxels(x)
    got = points.interpolate(level)
    rows = {tuple(row): n for n, row in enumerate(coarse.coords.tolist())}
    members = {n: [] for n in range(len(coarse))}
    for site, (b, *cell) in enumerate(x.coords.tolist()):
        total, weights = torch.zeros(3, dtype=torch.float64), 1e-8
        for corner in itertools.product((0, 1), repeat=3):
            near = [c // 4 + step for c, step in zip(cell, corner, strict=True)]
            weight = 1.0
            for c, n in zip(cell, near, strict=True):
                weight *= 1 - abs(c / 4 - n)
            if (b, *near) in rows and weight:
                total += weight * values[rows[(b, *near)]]
                weights += weight
        torch.testing.assert_close(got[site], total / weights)
        members[rows[(b, *(c // 4 for c in cell))]].append(site)
    fine = torch.randn(len(x.sites), 3, generator=draws(1), dtype=torch.float64)
    expected = torch.stack([fine[sites].mean(0) for sites in members.values()])
    torch.testing.assert_close(points.average(fine, level).feats, expected)


def test_the_encoder_is_the_image_networks_own_stages():
    """Promise: ResNet-18's four stages one after the other, at strides 2, 4, 8 and 16."""
    net = unet("resnet18", 4, 6, decoder_width=0.05).eval()
    start = net.down(net.stem(room()))
    outputs = stage_outputs(net.encoder, net.stages, start)
    x, encoder = start, net.encoder
    for output, name in zip(outputs, ("layer1", "layer2", "layer3", "layer4"), strict=True):
        x = getattr(encoder, name)(x)
        torch.testing.assert_close(output.feats, x.feats)
    assert tuple(output.stride for output in outputs) == STRIDES
    assert not [n for n, _ in encoder.named_parameters() if not n.startswith("layer")]
    shortcut = encoder.layer2[0].downsample[0]
    assert shortcut.kernel_size == (2, 2, 2)
    image = image_model("resnet18", "random", 0).layer3[1].conv2.weight.detach()
    assert torch.equal(encoder.layer3[1].conv2.weight, to_taps(inflate_weight(image)))


def test_the_papers_widths():
    """Promise: stem 64, encoder 64 to 512, decoder 512, 256, 192, 192, last kernel 2x2x2."""
    net = segmenter("unet:resnet18", 13, 3)
    first = net.stem[0]
    assert (first.in_channels, first.out_channels, first.kernel_size) == (6, 64, (3, 3, 3))
    assert (net.down[0].stride, net.down[0].kernel_size) == (2, (2, 2, 2))
    steps = [up.transposed[0] for up in net.decoder.up]
    assert [(s.in_channels, s.out_channels) for s in steps] == [
        (512, 512), (512, 256), (256, 192), (192, 192)]  # fmt: skip
    assert [s.kernel_size[0] for s in steps] == [3, 3, 3, 2]
    assert [up.blocks[0].conv1.in_channels for up in net.decoder.up] == [768, 384, 256, 256]
    assert (net.decoder.classifier.in_features, net.decoder.dropout.p) == (192, 0.3)


def test_image_weights_arrive_and_all_are_accounted_for():
    """Promise: inflated filters and copied norms are those of the file; the report says so."""
    net = segmenter(LITE, 4, 3, weights="imagenet1k", decoder_width=0.1)
    image = image_model("efficientnet_lite0", "imagenet1k").state_dict()
    state, report = net.state_dict(), net.i2p_report.set_index("tensor")
    for name in image:
        row = report.loc[f"encoder.{name}"]
        inside = name.startswith("blocks.")
        assert (row.action != "dropped") is inside
        if inside and row.action == "copied":
            assert torch.equal(state[f"encoder.{name}"], image[name])
    assert set(state) == set(report.index[report.action != "dropped"])
    assert set(report.index[report.action == "new"]) == {
        n for n in state if not n.startswith("encoder.")}
    filters = [n for n in image if n.startswith("blocks.") and image[n].ndim == 4]
    assert {f"encoder.{n}" for n in filters} == set(report.index[report.action == "inflated"])
    point = "blocks.3.1.conv_pw.weight"
    assert torch.equal(state[f"encoder.{point}"], to_taps(inflate_weight(image[point])))
    assert "refused" not in set(net.encoder.i2p_transfer.state)


@pytest.mark.parametrize("regime", ["io", "io+bn", "all"])
def test_gradients_reach_what_a_regime_trains(regime):
    """Promise: roles as in the paper's code; stem, decoder and classifier are always trained."""
    net = segmenter(LITE, 4, 3, decoder_width=0.1)
    freeze(net, regime)
    x = room()
    labels = torch.randint(4, (len(x.sites),), generator=draws())
    with torch.random.fork_rng():
        F.cross_entropy(net.train()(x), labels).backward()
    for name, parameter in net.named_parameters():
        trained = net.i2p_roles[name] in REGIMES[regime].roles
        assert (parameter.grad is not None) is trained, name
        assert not trained or torch.isfinite(parameter.grad).all()
    roles = {name.partition(".")[0]: set() for name in net.i2p_roles}
    for name, role in net.i2p_roles.items():
        roles[name.partition(".")[0]].add(role)
    assert roles == {"stem": {"input"}, "down": {"input"}, "decoder": {"output"},
                     "encoder": {"backbone", "norm"}}  # fmt: skip
    moved = [float(p.grad.abs().max()) > 0 for p in net.parameters() if p.grad is not None]
    assert sum(moved) > 0.9 * len(moved)


def test_answers_depend_on_input_and_seed_alone():
    before = torch.random.get_rng_state()
    nets = [segmenter(LITE, 4, 3, seed=seed, decoder_width=0.1).eval() for seed in (1, 1, 2)]
    x = room()
    with torch.no_grad():
        first, again, other = (net(x) for net in nets)
        assert first.shape == (len(x.sites), 4)
        assert torch.equal(first, again) and torch.equal(first, nets[0](room()))
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_of_a_batch_do_not_see_each_other():
    net = settled(segmenter(LITE, 3, 3, decoder_width=0.1))
    both = room()
    one = both.sites.batch == 1
    coords = both.coords[one] - torch.tensor([1, 0, 0, 0])
    with torch.no_grad():
        together = net(both.replace(both.feats.double()))[one]
        alone = net(SparseTensor(both.feats[one].double(), coords))
    torch.testing.assert_close(alone, together, rtol=1e-7, atol=1e-7)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="VGG has no named stages: take"):
        unet("vgg11", 4, 6)
    net = unet("efficientnet_lite0", 4, 6, decoder_width=0.1)
    coarse = room().sites.downsample(2)
    with pytest.raises(ValueError, match="expected voxels of stride 1"):
        net(SparseTensor(torch.ones(len(coarse), 6), coarse))
    assert (scaled(192, 0.25), scaled(64, 0.01)) == (48, 8)


def test_stages_are_found_by_name():
    assert stage_names(image_model("resnet18")) == ("layer1", "layer2", "layer3", "layer4")
    blocks = stage_names(image_model("efficientnet_lite0"))
    assert blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6")
