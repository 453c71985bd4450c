"""Inflated networks repeat the image network exactly, and refuse what they cannot repeat."""

import pytest
import torch
from torch import nn

from benchmarks.coverage import SameBorders, extrude
from i2p_lib.inflation import AXES, InflationError, inflate, inflate_weight, initialize, to_taps
from i2p_lib.inflation.trace import trace
from i2p_lib.sparse import SparseBatchNorm, SparseConv3d, voxelize
from i2p_lib.weights import image_model


def randomise_norms(model, seed=0):
    """Norm statistics that are not 0 and 1, so that an ignored one is seen."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("name, axis", [
    ("efficientnet_lite0", "z"), ("resnet18", "x"), ("resnet18", "y"), ("resnet18", "z"),
    ("resnet50", "z"), ("mobilenet_v2", "y"),
])  # fmt: skip
def test_logits_on_an_extruded_image_equal_the_image_models(name, axis):
    model = randomise_norms(image_model(name, weights="random", seed=0))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    net = inflate(model, in_channels=None, num_classes=None, axis=axis).eval()
    with torch.no_grad():
        expected, got = model(image), net(extrude(image, axis))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_every_layer_repeats_its_2d_activations():
    model = randomise_norms(image_model("efficientnet_lite0", weights="random", seed=3))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    net = inflate(model, None, None).eval()
    flat, volume = {}, {}
    for store, network in ((flat, model), (volume, net)):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | SparseConv3d):
                layer.register_forward_hook(
                    lambda m, i, o, name=name, store=store: store.update({name: o}))
    with torch.no_grad():
        model(image), net(extrude(image, "z"))
    assert len(flat) == len(volume) == 49
    for name, expected in flat.items():
        got = volume[name]
        x, y = got.coords[:, 1], got.coords[:, 2]
        assert len(got.coords) == expected.shape[2] * expected.shape[3]
        torch.testing.assert_close(got.feats, expected[0, :, y, x].T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_without_normalisation_a_layer_gives_k_times_the_activation(kernel):
    model = nn.Sequential(nn.Conv2d(2, 3, kernel, padding=kernel // 2, bias=False),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model[0].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    image = torch.randn(1, 3, 12, 12)[:, :2]
    wide = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), *model)
    net = inflate(wide, None, None, normalize=False)
    feats = wide[0](image.new_ones(1, 3, 12, 12))
    with torch.no_grad():
        volume = extrude(image, "z")
        torch.testing.assert_close(
            net[1](volume).feats, kernel * model[0](image)[0].flatten(1).T, rtol=1e-4, atol=1e-4)
    assert feats.shape[1] == 2


@pytest.mark.parametrize("axis", AXES)
def test_inflated_filter_is_constant_along_its_axis_and_sums_to_the_image_filter(axis):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    volume = inflate_weight(weight, axis)
    dim = 2 + AXES[axis].coordinate
    assert volume.shape == (4, 3, 5, 5, 5)
    torch.testing.assert_close(volume, volume.roll(1, dim))
    plane = weight if AXES[axis].transposed else weight.mT
    torch.testing.assert_close(volume.sum(dim), plane)
    torch.testing.assert_close(inflate_weight(weight, axis, normalize=False), 5 * volume)


def test_taps_keep_the_order_of_the_axes():
    volume = torch.arange(2 * 3 * 27.0).reshape(2, 3, 3, 3, 3)
    taps = to_taps(volume)
    assert taps.shape == (27, 3, 2)
    assert taps[9 * 1 + 3 * 2 + 0, 2, 1] == volume[1, 2, 1, 2, 0]
    grouped = to_taps(torch.arange(4 * 3 * 27.0).reshape(4, 3, 3, 3, 3), groups=2)
    assert grouped.shape == (27, 2, 3, 2)
    assert grouped[5, 1, 2, 0] == (2 * 3 + 2) * 27 + 5  # second group, its first output
    assert torch.equal(to_taps(volume[:, :1], groups=2), volume[:, 0].flatten(1).T)


def test_the_papers_recipe_makes_the_papers_resnet18():
    net = inflate(image_model("resnet18", "random"), 3, 40, recipe="paper", normalize=False)
    x = voxelize(torch.rand(2, 500, 3), 0.05)
    assert net(x).shape == (2, 40)
    assert sorted(key[1] for key in x.sites.pyramid if key[0] == "sites") == [1, 2, 4, 8]
    assert net.conv1.kernel_size == (3, 3, 3) and net.conv1.stride == 1
    assert isinstance(net.relu, nn.Identity) and isinstance(net.maxpool, nn.Identity)
    assert isinstance(net.layer1[0].relu, nn.ReLU)
    shortcut = net.layer2[0].downsample[0]
    assert shortcut.kernel_size == (2, 2, 2) and shortcut.stride == 2
    image = image_model("resnet18", "random").layer2[0].downsample[0].weight
    torch.testing.assert_close(shortcut.weight, image[:, :, 0, 0].T.expand(8, -1, -1))
    assert isinstance(net.fc, nn.Sequential) and isinstance(net.fc[1], nn.BatchNorm1d)


def test_the_papers_recipe_gives_stage_one_of_a_bottleneck_net_a_wide_shortcut():
    net = inflate(image_model("resnet50", "random"), 3, 40, recipe="paper")
    assert net.layer1[0].downsample[0].kernel_size == (2, 2, 2)
    assert net.layer1[0].downsample[0].stride == 1


def test_the_image_model_stays_as_it_was():
    model = image_model("resnet18", "random")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    inflate(model, 3, 16, recipe="paper", generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(isinstance(m, SparseBatchNorm) for m in model.modules())


def test_new_layers_follow_the_generator():
    model = image_model("efficientnet_lite0", "random")
    nets = [inflate(model, 3, 16, recipe="paper", generator=torch.Generator().manual_seed(s))
            for s in (0, 0, 1)]
    stems = [net.conv_stem.weight for net in nets]
    heads = [net.classifier[0].weight for net in nets]
    assert torch.equal(stems[0], stems[1]) and torch.equal(heads[0], heads[1])
    assert not torch.equal(stems[0], stems[2]) and not torch.equal(heads[0], heads[2])


def test_every_tensor_stands_in_the_report():
    net = inflate(image_model("efficientnet_lite0", "random"), 3, 16, recipe="paper")
    report = net.i2p_report.set_index("tensor")
    assert set(report.index[report["action"] != "dropped"]) == set(net.state_dict())
    new = report.index[report["action"] == "new"].str.rpartition(".")
    assert set(new.get_level_values(0)) == {"conv_stem", "classifier.0", "classifier.1"}
    assert (report["action"] == "inflated").sum() == 48
    assert report.loc["conv_stem.weight", ["image", "points"]].tolist() == ["32x3x3x3", "27x3x32"]
    assert set(net.i2p_roles) == {name for name, _ in net.named_parameters()}


def around(layer, channels=3):
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


class ScaledConv(nn.Conv2d):
    """Computes its weight anew, so that a copy of ``weight`` would be another layer."""

    def forward(self, x):
        return self._conv_forward(x, 2 * self.weight, self.bias)


class Attention(nn.Module):
    def forward(self, x):
        return (x.flatten(2).mT @ x.flatten(2)).mT.unflatten(2, (1, -1))


class Fixed(nn.Module):
    def forward(self, x):
        assert x.shape[-1] == 224, "must be 224 wide"
        return x


@pytest.mark.parametrize("layer, reason", [
    (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "padding mode 'reflect'"),
    (nn.Conv2d(3, 3, 3, padding=1, stride=(1, 2)), "differ between height and width"),
    (nn.MaxPool2d((3, 2), 2), "uneven pooling window"),
    (nn.AvgPool2d(1, 2), "leave sites out"),
    (ScaledConv(3, 3, 3, padding=1), "ScaledConv is no plain convolution"),
    (nn.InstanceNorm2d(3, affine=True), "'instance_norm' has no meaning"),
    (nn.Upsample(scale_factor=2), "no finer than the input"),
    (nn.LocalResponseNorm(2), "'local_response_norm' has no meaning on a SparseTensor"),
    (Fixed(), "must be 224 wide"),
    (nn.Linear(224, 224), "linear works on the last axis"),
    (nn.ZeroPad2d((-1, 1, -1, 1)), "only zeros around an image"),
    (nn.ReflectionPad2d(1), "only zeros around an image"),
    (nn.PixelUnshuffle(1), "'pixel_unshuffle' has no meaning on a SparseTensor"),
    (Attention(), "attention"),
])  # fmt: skip
def test_a_layer_without_a_twin_is_named_with_the_reason(layer, reason):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), around(layer))
    with pytest.raises(InflationError, match="1.0: ") as error:
        inflate(model, None, None)
    assert reason in str(error.value)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 6, (1, 7), padding=(0, 3)), nn.Conv2d(3, 6, (7, 1), padding=(3, 0)),
    nn.Conv2d(3, 6, (1, 3), padding=(0, 1), groups=3), nn.Conv2d(3, 6, 3, 2, 1, groups=3),
    nn.Conv2d(3, 6, 3, padding=2, dilation=2), nn.Conv2d(3, 6, 2, padding=1, dilation=2),
    nn.Conv2d(3, 6, (1, 3), padding=(0, 2), dilation=2),
], ids=["1x7", "7x1", "1x3 in groups", "strided in groups", "dilated", "even and dilated",
        "1x3 dilated"])  # fmt: skip
def test_a_kernel_of_any_shape_repeats_its_2d_activations(layer, axis):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), around(layer, 6)).double()
    net = inflate(model, None, None, axis=axis)
    image = torch.randn(1, 3, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(net(extrude(image, axis)), model(image))


class Selected(nn.Module):
    """Branches stacked, weighed by what their sum says, and summed."""

    def forward(self, x):
        both = torch.stack([x, x.sigmoid()], dim=1)
        weight = both.sum(1).mean((2, 3), keepdim=True)[:, None].softmax(2)
        return (both * weight).sum(dim=1)


class Gated(nn.Module):
    """Squeeze and excitation with a norm between its convolutions."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2),
                                  nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


class Cut(nn.Module):
    def forward(self, x):
        first, second, third = x[:, :1], x[:, 1:2, :, :], x[:, 2:]
        return torch.cat([first - third, second / 3 - 0.5, first.mul(2).clamp(0, 1).div(2)], 1)


class Enlarged(nn.Module):
    """Two coarser levels brought back to the finest."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, 2, 1)
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, x):
        half = self.first(x)
        quarter = self.second(half)
        return x + self.enlarge(half) + nn.functional.interpolate(quarter, scale_factor=4)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("layer", [Selected(), Gated(), Cut(), Enlarged(), nn.GroupNorm(3, 3),
                                   nn.GroupNorm(1, 3)],
                         ids=lambda layer: str(layer).partition("\n")[0])
def test_what_stands_between_the_layers_repeats_its_2d_result(layer, axis):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), around(layer)).double().eval()
    net = inflate(model, None, None, axis=axis)
    image = torch.randn(1, 3, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(net(extrude(image, axis)), model(image))


def test_layers_behind_the_pooling_run_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 3, padding=1), nn.Flatten(),
                          nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    net = inflate(model, None, None)
    torch.testing.assert_close(net(extrude(image, "z")), model(image))


@pytest.mark.parametrize("layers", [
    (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 2)), (nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3)),
    (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, 2)),
], ids=["2x2", "3x3", "strided"])  # fmt: skip
def test_zeros_around_an_image_are_the_padding_of_the_layer_behind(layers):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), around(nn.Sequential(*layers))).double()
    image = torch.randn(1, 3, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(inflate(model, None, None)(extrude(image, "z")), model(image))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_inflated_network_shares_no_memory_with_the_image_network(normalize):
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=4),
                          nn.BatchNorm2d(4), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(4, 2))
    net = inflate(model, None, None, normalize=normalize)

    def memory(network):
        return {t.untyped_storage().data_ptr() for t in network.state_dict().values()}

    assert not memory(net) & memory(model)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, 2), nn.Conv2d(3, 3, 11, 4, 2), nn.Conv2d(3, 3, 1, 1, 1),
    nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(3),
    nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 3, 3)),
])  # fmt: skip
def test_without_a_border_a_layer_repeats_the_padded_2d_layer(layer):
    last = nn.Linear(27, 2) if isinstance(layer, nn.AdaptiveAvgPool2d) else nn.Linear(3, 2)
    pool = nn.Identity() if isinstance(layer, nn.AdaptiveAvgPool2d) else nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer, pool, nn.Flatten(), last).double()
    net = inflate(model, None, None)
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    with SameBorders():
        expected = model(image)
    torch.testing.assert_close(net(extrude(image, "z")), expected)
    assert not torch.allclose(model(image), expected)


def test_a_classifier_of_convolutions_gives_way_to_a_linear_one_behind_the_pooling():
    net = inflate(image_model("squeezenet1_1", "random"), 3, 5)
    assert isinstance(net.get_submodule(net.i2p_classifier), nn.Linear)
    assert net(voxelize(torch.rand(2, 100, 3), 0.05)).shape == (2, 5)
    assert [name for name, role in net.i2p_roles.items() if role == "output"] == [
        f"{net.i2p_classifier}.weight", f"{net.i2p_classifier}.bias"]
    assert set(net.i2p_roles) == {name for name, _ in net.named_parameters()}
    report = net.i2p_report.set_index("tensor")["action"]
    assert report["classifier.1.weight"] == "dropped"
    assert report[f"{net.i2p_classifier}.weight"] == "new"


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)
        self.first, self.second = nn.Linear(4, 7), nn.Linear(4, 7)

    def forward(self, x):
        x = self.pool(self.stem(x)).flatten(1)
        return (self.first(x) + self.second(x)) / 2


def test_a_network_is_traced_on_an_image_of_the_size_that_it_expects():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), around(Fixed()))
    model.pretrained_cfg = {"input_size": (3, 448, 448)}
    strides = [(step.stride_in, step.stride_out) for step in trace(model)]
    assert strides[0] == (1, 2)
    model.pretrained_cfg = {"input_size": (3, 260, 260)}
    model[1][0] = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(4)))
    assert [step.stride_out for step in trace(model)][:5] == [2, 4, 8, 16, 32]


def test_a_single_one_of_several_classifiers_is_not_replaced():
    assert inflate(TwoHeads(), 3)(voxelize(torch.rand(2, 9, 3), 0.1)).shape == (2, 7)
    with pytest.raises(InflationError, match="second: first gives logits as well"):
        inflate(TwoHeads(), 3, 5)


def test_what_runs_in_training_only_is_left_out_and_reported():
    net = inflate(image_model("googlenet", "random"), 3, 5).train()
    assert net(voxelize(torch.rand(2, 100, 3), 0.05)).shape == (2, 5)
    report = net.i2p_report.set_index("tensor")["action"]
    unused = report[report.index.str.startswith(("aux1.", "aux2."))]
    assert len(unused) and (unused == "dropped").all()
    assert not any(name.startswith("aux") for name in net.i2p_roles)


def test_layer_norms_are_norms():
    net = inflate(image_model("convnext_tiny", "random"), 3, 5)
    assert net.i2p_roles["features.1.0.block.2.weight"] == "norm"
    assert net.i2p_roles["features.0.1.weight"] == "input"


def test_inflation_leaves_hooks_modes_and_random_state_alone():
    model = image_model("mobilenet_v3_small", "random").train()
    model.features[0].eval()
    state = torch.random.get_rng_state()
    net = inflate(model, 3, 5, generator=torch.Generator().manual_seed(0))
    assert net.training and not net.features[0].training and not net.features[0][1].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    norms = [m for m in net.modules() if isinstance(m, SparseBatchNorm)]
    assert all(norm.num_batches_tracked == 0 for norm in norms)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("arguments, message", [
    ({"axis": "w"}, "axis must be one of x, y, z"),
    ({"recipe": "papr"}, "recipe must be one of"),
    ({"recipe": "paper", "in_channels": None}, "give in_channels"),
])  # fmt: skip
def test_unknown_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        inflate(image_model("resnet18", "random"), **arguments)


@pytest.mark.parametrize(("init", "spread"), [
    ("torchsparse", (3 * 8 * 27) ** -0.5), ("he", (2 / (16 * 27)) ** 0.5)])
def test_initialize_draws_every_tap_by_itself(init, spread):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))  # fmt: skip
    net = inflate(model, 3, 4)
    net[2].weight.data.zero_()
    before = torch.random.get_rng_state()
    initialize(net, init, torch.Generator().manual_seed(0))
    first = net[1].weight.detach().clone()
    assert float(first.std()) == pytest.approx(spread, rel=0.05)
    assert len(first.unique()) > 0.99 * first.numel()
    assert torch.equal(net[2].weight, torch.ones(16))
    initialize(net, init, torch.Generator().manual_seed(0))
    assert torch.equal(net[1].weight, first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initialize_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="torchsparse, he"):
        initialize(nn.Linear(2, 2), "xavier", torch.Generator())
