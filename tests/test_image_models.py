"""Image networks as people have them: inflated whole, or refused with layer and reason."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from benchmarks.coverage import extrude
from i2p_lib.inflation import InflationError, inflate
from i2p_lib.sparse import SparseConv3d, voxelize
from i2p_lib.weights import image_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


CLOUDS = voxelize(torch.rand(2, 100, 3, generator=seeded()), 0.05)


def without(name, classifier):
    """One of torchvision's networks without its classifier."""
    model = image_model(name, "random")
    model.set_submodule(classifier, nn.Identity())
    return model


def convolutions(net):
    return sum(isinstance(layer, nn.Conv2d | SparseConv3d) for layer in net.modules())


HEADLESS = {
    "resnet18": lambda: without("resnet18", "fc"),
    "resnet50": lambda: without("resnet50", "fc"),
    "densenet121": lambda: without("densenet121", "classifier"),
    "vgg11": lambda: without("vgg11_bn", "classifier.6"),
    "convnext_tiny": lambda: without("convnext_tiny", "classifier.2"),
    "cut off": lambda: nn.Sequential(*list(image_model("resnet18", "random").children())[:-1]),
    "a few layers": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3),
                                          nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
} | {f"{name} of timm": lambda name=name: timm.create_model(name, num_classes=0)
     for name in ("efficientnet_lite0", "mobilenetv2_100", "mobilenetv3_small_100",
                  "regnety_002", "dpn48b")}  # fmt: skip


@pytest.mark.parametrize("build", HEADLESS.values(), ids=HEADLESS)
def test_a_network_without_classifier_keeps_all_convolutions_and_gets_one(build):
    model = build()
    net = inflate(model, 3, 5)
    assert convolutions(net) == convolutions(model)
    assert isinstance(net.get_submodule(net.i2p_classifier), nn.Linear)
    assert net(CLOUDS).shape == (2, 5)
    assert [name for name, role in net.i2p_roles.items() if role == "output"] == [
        f"{net.i2p_classifier}.weight", f"{net.i2p_classifier}.bias"]
    assert inflate(model, 3).i2p_classifier is None


def test_convolutions_that_give_the_logits_are_replaced():
    for model in (image_model("squeezenet1_1", "random"), timm.create_model("dpn48b")):
        net = inflate(model, 3, 5)
        assert convolutions(net) == convolutions(model) - 1
        assert inflate(model, 3).i2p_classifier.startswith("classifier")


def test_a_network_that_ends_without_pooling_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(InflationError, match="1: the model ends here without a classifier"):
        inflate(model, 3, 5)


@pytest.mark.parametrize("channels", [1, 4])
def test_an_image_of_any_number_of_channels_is_traced(channels):
    model = timm.create_model("resnet18", in_chans=channels).eval()
    assert inflate(model, 3, 5)(CLOUDS).shape == (2, 5)
    image = torch.randn(1, channels, 64, 64, generator=seeded())
    net = inflate(model, None, None).eval()
    torch.testing.assert_close(net(extrude(image, "z")), model(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("convert, name", [
    (nn.SyncBatchNorm.convert_sync_batchnorm, "resnet18"),
    (timm.layers.convert_sync_batchnorm, "efficientnet_lite0"),
])  # fmt: skip
def test_syncbatchnorm_is_mapped_like_batchnorm(convert, name):
    model = timm.create_model(name)
    plain = inflate(model, 3, 5, generator=seeded())
    converted = inflate(convert(copy.deepcopy(model)), 3, 5, generator=seeded())
    assert torch.equal(converted.eval()(CLOUDS), plain.eval()(CLOUDS))


def with_layer(change):
    model = image_model("resnet18", "random")
    change(model.layer1[0].conv1)
    return model


COMPUTED = "layer1.0.conv1: .* its weights are computed from others"


@pytest.mark.parametrize("build, reason", [
    (lambda: nn.DataParallel(image_model("resnet18", "random")), "the model: .* its .module"),
    (lambda: torch.jit.script(image_model("resnet18", "random")), "the model: .* Python module"),
    (lambda: nn.Sequential(torch.compile(nn.Conv2d(3, 3, 1))), "0: OptimizedModule: "),
    (lambda: with_layer(weight_norm), COMPUTED),
    (lambda: with_layer(spectral_norm), COMPUTED),
    (lambda: with_layer(parametrizations.weight_norm), COMPUTED),
    (lambda: with_layer(lambda conv: prune.l1_unstructured(conv, "weight", 0.3)), COMPUTED),
    (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "the model: .* uninitialized"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1)), "1: Invalid channel"),
    (lambda: timm.create_model("resnet50", drop_block_rate=0.1), "drop_block: .* neither"),
    (lambda: nn.Sequential(nn.ReLU()), "needs a convolution"),
], ids=["DataParallel", "script", "compiled", "weight norm", "spectral norm", "parametrized",
        "pruned", "lazy", "wrong channels", "drop block", "no convolution"])  # fmt: skip
def test_what_cannot_be_inflated_is_named_with_the_reason(build, reason):
    with pytest.raises(InflationError, match=reason):
        inflate(build(), 3, 5)


class Repeated(nn.Module):
    """A convolution under two names, its weight in a third one, and a norm under two names."""

    def __init__(self):
        super().__init__()
        self.stem, shared, self.tied = nn.Conv2d(3, 4, 1), *(nn.Conv2d(4, 4, 3, padding=1)
                                                             for _ in range(2))  # fmt: skip
        self.first, self.second = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared)
        self.tied.weight = shared.weight
        self.norm, self.pool, self.fc = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)
        self.again = self.norm

    def forward(self, x):
        x = self.norm(self.second(self.first(self.first(self.stem(x)))))
        return self.fc(self.pool(self.again(self.tied(x))).flatten(1))


def test_what_is_shared_stays_shared():
    model = Repeated().eval()
    net = inflate(model, None, None)
    assert net.first[0] is net.second[0] and net.norm is net.again
    assert net.tied.weight is net.first[0].weight
    image = torch.randn(1, 3, 12, 16, generator=seeded())
    torch.testing.assert_close(net(extrude(image, "z")), model(image))


def test_the_papers_recipe_sees_through_wrappers():
    model = image_model("resnet18", "random")
    plain = inflate(model, 3, 5, recipe="paper", generator=seeded()).eval()
    for wrapped in (nn.Sequential(model), nn.Sequential(nn.Sequential(model)),
                    nn.Sequential(nn.Identity(), model)):
        net = inflate(wrapped, 3, 5, recipe="paper", generator=seeded()).eval()
        assert torch.equal(net(CLOUDS), plain(CLOUDS))


def test_parts_for_training_are_switched_off_in_a_wrapper_too():
    net = inflate(nn.Sequential(image_model("googlenet", "random")), 3, 5).train()
    assert net(CLOUDS).shape == (2, 5)


@pytest.mark.parametrize("build, save", [
    (lambda: timm.create_model("resnet18"), lambda net: net.set_grad_checkpointing()),
    (lambda: timm.create_model("efficientnet_lite0"), lambda net: net.set_grad_checkpointing()),
    (lambda: torchvision.models.densenet121(memory_efficient=True), lambda net: None),
], ids=["resnet18", "efficientnet_lite0", "densenet121"])  # fmt: skip
def test_networks_that_save_memory_get_equal_gradients(build, save):
    net = inflate(build(), 3, 5, generator=seeded()).train()
    saving = copy.deepcopy(net)
    save(saving)
    for layer in net.modules():
        if hasattr(layer, "memory_efficient"):
            layer.memory_efficient = False
    for one in (net, saving):
        one(CLOUDS).square().sum().backward()
    for ours, theirs in zip(net.parameters(), saving.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("recipe, layer", [(None, "bn1"), ("paper", r"fc\.1")])
def test_a_batch_without_a_variance_is_told_by_the_layers_name(recipe, layer):
    net = inflate(image_model("resnet18", "random"), 3, 5, recipe=recipe).train()
    cloud = torch.rand(1, 100, 3, generator=seeded())
    with pytest.raises(ValueError, match=rf"{layer} \(\d+ channels\).* got 1 "):
        net(voxelize(cloud, 0.02 if recipe else 2.0))
