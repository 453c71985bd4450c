"""BagNets see 17 and 33 pixels, are the published networks, and survive inflation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.coverage import extrude
from i2p_lib.inflation import inflate
from i2p_lib.models.bagnet import bagnet17, bagnet33
from i2p_lib.sparse import voxelize
from i2p_lib.weights import image_model

NETS = [(bagnet17, 17, 3), (bagnet33, 33, 4)]


def bare(builder):
    """The published network as a module: no padding, shortcuts cropped right and at the bottom."""
    net = builder()
    net.conv2.padding = (0, 0)
    for first in (net.get_submodule(f"layer{stage}.0") for stage in (1, 2, 3, 4)):
        width, _, kernel, _ = first.conv2.weight.shape
        weight = first.conv2.weight
        first.conv2 = nn.Conv2d(width, width, kernel, first.stride, bias=False)
        first.conv2.weight = weight
        if kernel == 3:
            first.downsample.append(nn.ZeroPad2d((0, -(2 // first.stride)) * 2))
    return net


def build(builder):
    """A network with norm statistics that are not 0 and 1, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = builder()
    generator = torch.Generator().manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.8, 1.2, generator=generator)
    return net.eval()


def outputs(net, image, names):
    """What the named layers give for an image."""
    found = {}
    handles = [net.get_submodule(name).register_forward_hook(
        lambda m, i, o, name=name: found.update({name: o.clone()})) for name in names]  # fmt: skip
    with torch.no_grad():
        found["logits"] = net(image)
    for handle in handles:
        handle.remove()
    return found


def published(tensors, image, wide_stages):
    """The published network, written out: no padding, shortcuts cropped right and at the bottom."""
    def norm(x, name):
        return F.batch_norm(x, *(tensors[f"{name}.{part}"] for part in (
            "running_mean", "running_var", "weight", "bias")))  # fmt: skip

    x = F.conv2d(F.conv2d(image, tensors["conv1.weight"]), tensors["conv2.weight"])
    x = norm(x, "bn1").relu()
    for stage, (depth, stride) in enumerate(zip((3, 4, 6, 3), (2, 2, 2, 1), strict=True), 1):
        for number in range(depth):
            block = f"layer{stage}.{number}"
            step = stride if number == 0 else 1
            kernel = tensors[f"{block}.conv2.weight"]
            assert kernel.shape[2] == (3 if number == 0 and stage <= wide_stages else 1)
            y = norm(F.conv2d(x, tensors[f"{block}.conv1.weight"]), f"{block}.bn1").relu()
            y = norm(F.conv2d(y, kernel, stride=step), f"{block}.bn2").relu()
            y = norm(F.conv2d(y, tensors[f"{block}.conv3.weight"]), f"{block}.bn3")
            if number == 0:
                x = norm(F.conv2d(x, tensors[f"{block}.downsample.0.weight"], stride=step),
                         f"{block}.downsample.1")  # fmt: skip
            x = (y + x[:, :, : y.shape[2], : y.shape[3]]).relu()
    return F.linear(x.mean((2, 3)), tensors["fc.weight"], tensors["fc.bias"])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("builder, pixels, _", NETS)
def test_receptive_field(builder, pixels, _, padded):
    """Promise: one unit of the last stage sees a square of exactly 17 or 33 pixels."""
    net = (builder() if padded else bare(builder)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 4:
            parameter.abs_().div_(parameter.abs().sum((1, 2, 3), keepdim=True))
    image = torch.ones(1, 3, 96, 96, requires_grad=True)
    net.avgpool = nn.Identity()
    net.fc = nn.Identity()
    net.layer4.register_forward_hook(lambda m, i, o: o[..., 5, 5])
    net(image).sum().backward()
    rows, columns = torch.nonzero(image.grad[0].sum(0), as_tuple=True)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (pixels, pixels)


@pytest.mark.parametrize("builder, _, wide_stages", NETS)
def test_without_padding_it_is_the_published_network(builder, _, wide_stages):
    """Promise: logits of an odd and an even image equal the network written out."""
    net = build(lambda: bare(builder))
    for size in (64, 75):
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = published(net.state_dict(), image, wide_stages)
            torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("builder, _, wide_stages", NETS)
def test_tensor_names_are_resnet50s_and_a_second_convolution(builder, _, wide_stages):
    """Promise: the published names, so that a published file loads strictly in either form."""
    net, resnet = builder(), image_model("resnet50").state_dict()
    tensors = net.state_dict()
    assert set(tensors) == set(resnet) | {"conv2.weight"}
    other = {n: tuple(t.shape) for n, t in tensors.items() if t.shape != resnet.get(n, t).shape}
    narrow = {n for n in resnet if n.endswith("conv2.weight")}
    narrow -= {f"layer{stage}.0.conv2.weight" for stage in range(1, wide_stages + 1)}
    assert set(other) == narrow | {"conv1.weight"} and other["conv1.weight"] == (64, 3, 1, 1)
    assert all(other[n][2:] == (1, 1) for n in narrow)
    bare(builder).load_state_dict(tensors, strict=True)


@pytest.mark.parametrize("builder, _, wide_stages", NETS)
def test_padding_keeps_the_grid_and_the_published_activations(builder, _, wide_stages):
    """Promise: what the padded network gives is what the published one gives for the image moved
    by one pixel, wherever that one gives anything; in BagNet-33 up to the third stage."""
    padded, unpadded = build(builder).double(), build(lambda: bare(builder)).double()
    unpadded.load_state_dict(padded.state_dict())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    names = ["layer1", "layer2", "layer3", "layer4", "layer4.0.conv2"]
    got = outputs(padded, image, names)
    expected = outputs(unpadded, F.pad(image, (1, 0, 1, 0)), names)
    sides = [got[name].shape[-1] for name in names]
    assert sides == [32, 16, 8, 8, 8]
    for name in names[:3] if wide_stages == 4 else names:
        side = expected[name].shape[-1]
        assert side == got[name].shape[-1] - 1
        torch.testing.assert_close(got[name][..., :side, :side], expected[name])
    if wide_stages == 4:
        torch.testing.assert_close(got[names[4]][..., 1:6, 1:6], expected[names[4]])
        assert not torch.allclose(got["layer4"][..., :5, :5], expected["layer4"], rtol=1e-2)


@pytest.mark.parametrize("builder, _, wide_stages", NETS)
def test_inflate_takes_it_unchanged(builder, _, wide_stages):
    """Promise: on a volume that is constant along z the inflated net gives the 2D logits."""
    net = build(builder)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, got = net(image), inflate(net, None, None).eval()(extrude(image, "z"))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_inflated_as_in_the_paper():
    """Promise: 1x1 stays 1x1x1, 3x3 becomes 3x3x3, shortcuts 2x2x2, total stride 8."""
    net = inflate(bagnet33(), 3, 40, recipe="paper", normalize=False)
    x = voxelize(torch.rand(2, 300, 3), 0.05)
    assert net(x).shape == (2, 40)
    assert net.layer1[0].conv2.kernel_size == (3, 3, 3)
    assert net.layer1[1].conv2.kernel_size == (1, 1, 1)
    assert net.layer1[0].downsample[0].kernel_size == (2, 2, 2)
    assert max(key[1] for key in x.sites.pyramid if key[0] == "sites") == 8
