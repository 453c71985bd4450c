"""The 2D twin of PointContrast's encoder, and PointContrast's weights at their places in space."""

import copy
import pickle
import re
from functools import cache

import pytest
import torch
from torch import nn

from benchmarks.coverage import extrude
from i2p_lib.inflation import inflate
from i2p_lib.models.res16 import (
    load_pointcontrast,
    minkowski_offsets,
    pointcontrast_name,
    res16unet34,
    torchsparse_offsets,
)
from i2p_lib.runs.spec import RunSpec
from i2p_lib.sparse import Sites, SparseTensor, voxelize
from i2p_lib.train.classify import build_network
from i2p_lib.weights import image_model

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def checkpoint():
    """Tensors with the names and shapes of PointContrast's Res16UNet34C, random values."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def conv(name, taps, inner, outer):
        tensors[f"{name}.kernel"] = torch.randn(taps, inner, outer, generator=generator)

    def norm(name, channels):
        for part in NORM:
            value = torch.rand(channels, generator=generator) + 0.5
            tensors[f"{name}.bn.{part}"] = torch.tensor(7) if part == NORM[4] else value

    def block(name, inner, outer):
        for number, width in ((1, inner), (2, outer)):
            conv(f"{name}.conv{number}", 27, width, outer)
            norm(f"{name}.norm{number}", outer)
        if inner != outer:
            conv(f"{name}.downsample.0", 1, inner, outer)
            norm(f"{name}.downsample.1", outer)

    conv("conv0p1s1", 27, 3, 32)
    norm("bn0", 32)
    planes, depths, width = (32, 64, 128, 256), (2, 3, 4, 6), 32
    for stage in range(4):
        conv(f"conv{stage + 1}p{2**stage}s2", 8, width, width)
        norm(f"bn{stage + 1}", width)
        for number in range(depths[stage]):
            block(f"block{stage + 1}.{number}", width, planes[stage])
            width = planes[stage]
    decoder = ((4, 16, 256, 128), (5, 8, 128, 64), (6, 4, 96, 32), (7, 2, 96, 32))
    for number, stride, outer, skip in decoder:
        conv(f"convtr{number}p{stride}s2", 8, width, outer)
        norm(f"bntr{number}", outer)
        block(f"block{number + 1}.0", outer + skip, outer)
        block(f"block{number + 1}.1", outer, outer)
        width = outer
    conv("final", 1, 96, 32)
    tensors["final.bias"] = torch.randn(1, 32, generator=generator)
    return tensors


@pytest.fixture(scope="module")
def stored():
    return checkpoint()


@pytest.fixture(scope="module")
def folder(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pointcontrast")
    torch.save({"curr_iter": 1, "state_dict": stored}, folder / "nce.pth")
    return folder


def load(net, folder, **settings):
    return load_pointcontrast(net, "pointcontrast_nce", weights_dir=folder, **settings)


@cache
def inflated():
    return inflate(res16unet34(), 3, 40, normalize=False)


def network():
    """A network of its own for each test."""
    return copy.deepcopy(inflated())


def test_geometry_is_the_released_codes():
    """Promise: widths 32 to 256, depths 2 3 4 6, total stride 8, 1x1x1 shortcuts, no stem ReLU."""
    net = network()
    assert [len(net.get_submodule(f"layer{s}")) for s in (1, 2, 3, 4)] == [2, 3, 4, 6]
    seen = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        net.get_submodule(name).register_forward_hook(
            lambda m, i, o: seen.append((o.stride, o.feats.shape[1], bool((o.feats < 0).any()))))
    x = voxelize(torch.rand(2, 300, 3, generator=torch.Generator().manual_seed(0)), 0.05)
    assert net(x).shape == (2, 40)
    assert [s[:2] for s in seen] == [(1, 32), (1, 32), (2, 64), (4, 128), (8, 256)]
    assert seen[0][2] and not seen[1][2]
    assert net.conv1.kernel_size == (3, 3, 3) and net.ds1[0].kernel_size == (2, 2, 2)
    assert net.layer2[0].downsample[0].kernel_size == (1, 1, 1)
    assert net.layer1[0].downsample is None and isinstance(net.ds1[2], nn.ReLU)


def test_the_inflated_twin_repeats_the_image_network():
    """Promise: on a volume that is constant along z the inflated net gives the 2D logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = res16unet34().eval()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, got = model(image), inflate(model, None, None).eval()(extrude(image, "z"))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_minkowski_taps_grow_from_the_centre():
    """Promise: HYBRID regions list the centre, then each axis moves all offsets so far."""
    offsets = minkowski_offsets(3)
    assert offsets[:9] == [(0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (-1, -1, 0),
                           (-1, 1, 0), (1, -1, 0), (1, 1, 0)]  # fmt: skip
    assert offsets[9:11] == [(0, 0, -1), (0, 0, 1)] and offsets[26] == (1, 1, 1)
    assert len(set(offsets)) == 27 and set(offsets) == set(torchsparse_offsets(3))
    assert minkowski_offsets(2) == torchsparse_offsets(2)
    assert minkowski_offsets(2)[:3] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert minkowski_offsets(1) == torchsparse_offsets(1) == [(0, 0, 0)]


def test_each_tap_keeps_its_place_in_space(folder, stored):
    """Promise: the loaded kernel joins a site to its neighbour as the file's tap of that offset."""
    net = network()
    load(net, folder)
    kernel = stored["block3.1.conv2.kernel"]
    for number, (x, y, z) in enumerate(minkowski_offsets(3)):
        row = 9 * (x + 1) + 3 * (y + 1) + (z + 1)
        assert torch.equal(net.layer3[1].conv2.weight[row], kernel[number])
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, -1, 0]])
    feats = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = net.layer3[1].conv2(SparseTensor(feats, Sites(coords, 1))).feats
    there = minkowski_offsets(3).index((1, -1, 0))
    torch.testing.assert_close(got[0], feats[0] @ kernel[0] + feats[1] @ kernel[there],
                               rtol=1e-4, atol=1e-3)  # fmt: skip


def test_released_order_shuffles_the_wide_kernels_only(folder, stored):
    """Promise: tap i of a file becomes torchsparse's tap i, whose odd kernels run x fastest."""
    right, released = network(), network()
    load(right, folder)
    load(released, folder, order="released")
    kernel = stored["block1.0.conv1.kernel"]
    weight = released.layer1[0].conv1.weight  # taps in row-major (x, y, z) order
    assert torch.equal(weight[9 * 2 + 3 * 1 + 0], kernel[9 * 0 + 3 * 1 + 2])
    other = {n for n, t in released.state_dict().items()
             if re.match(r"layer|ds", n) and not torch.equal(t, right.state_dict()[n])}  # fmt: skip
    assert other == {n for n, p in released.named_parameters()
                     if n.startswith("layer") and p.ndim == 3 and len(p) == 27}  # fmt: skip


def test_every_tensor_is_accounted_for(folder, stored):
    """Promise: stages and downsampling are filled by name; input, decoder and output are not."""
    net = network()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    table = load(net, folder)
    assert set(table.loc[table["file_key"] != "", "file_key"]) == set(stored)
    assert set(table["name"]) - {""} == set(before) and net.i2p_transfer is table
    copied = set(table.loc[table["state"] == "copied", "name"])
    assert copied == {n for n in before if re.match(r"(layer|ds)\d", n)}
    changed = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == copied
    left = table.loc[table["state"] == "dropped", "file_key"].str.split(".").str[0]
    assert set(left) == {"conv0p1s1", "bn0", "conv1p1s2", "bn1", "final"} | {
        f"{part}{n}" for part, numbers in (("bntr", "4567"), ("block", "5678")) for n in numbers
    } | {"convtr4p16s2", "convtr5p8s2", "convtr6p4s2", "convtr7p2s2"}  # fmt: skip
    report = net.i2p_report.set_index("tensor")["action"]
    assert report["layer3.1.conv2.weight"] == report["ds1.0.weight"] == "copied"
    assert report["conv1.weight"] == "new"
    assert torch.equal(net.ds2[1].running_var, stored["bn3.bn.running_var"])
    assert torch.equal(net.layer2[0].downsample[0].weight[0],
                       stored["block2.0.downsample.0.kernel"][0])  # fmt: skip


def test_other_forms_of_the_file_load_alike(folder, stored, tmp_path):
    """Promise: a data-parallel prefix and flat 1x1x1 kernels give the same."""
    first, second = network(), network()
    load(first, folder)
    flat = {f"module.{k}": t[0].contiguous() if t.ndim == 3 and len(t) == 1 else t
            for k, t in stored.items()}  # fmt: skip
    torch.save({"state_dict": flat}, tmp_path / "nce.pth")
    load(second, tmp_path)
    for name, tensor in first.state_dict().items():
        if re.match(r"(layer|ds)\d", name):
            assert torch.equal(tensor, second.state_dict()[name])


def test_a_path_loads_as_the_card_does(folder, stored, tmp_path):
    """Promise: PointContrast's file under another name is known by its tensors, in runs as well."""
    path, first, second = tmp_path / "mine.pt", network(), network()
    torch.save({"net": {f"module.{name}": value for name, value in stored.items()}}, path)
    load(first, folder)
    load_pointcontrast(second, path, weights_except=["layer4"])
    spec = RunSpec(model="res16unet34", weights=str(path))
    third = build_network(spec, 40).state_dict()
    for name, tensor in first.state_dict().items():
        if re.match(r"(layer|ds)\d", name):
            assert torch.equal(tensor, third[name])
            left_out = name.startswith("layer4")
            assert torch.equal(tensor, second.state_dict()[name]) != left_out
    with pytest.raises(ValueError, match="looks like PointContrast's 3D network: RunSpec"):
        image_model("res16unet34", path)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("block4.5.norm2.bn.bias"), r"layer4\.5\.bn2\.bias \(missing in the file\)"),
    (lambda t: t.update({"block2.0.conv1.kernel": torch.zeros(27, 8, 64)}), "shape .27, 8, 64."),
    (lambda t: t.update({"block2.9.conv1.kernel": torch.zeros(27, 8, 8)}), "not in the network"),
    (lambda t: t.update({"block9.0.conv1.kernel": torch.zeros(27, 8, 8)}), "unexpected, not in"),
])  # fmt: skip
def test_a_file_that_does_not_fit_changes_nothing(stored, tmp_path, change, message):
    tensors, net = dict(stored), network()
    change(tensors)
    torch.save({"state_dict": tensors}, tmp_path / "nce.pth")
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load(net, tmp_path)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_objects_in_a_file_are_not_unpickled(stored, tmp_path):
    """Promise: PointContrast's stored settings are refused with what to do, not executed."""
    torch.save({"state_dict": {}, "config": pickle.Pickler}, tmp_path / "nce.pth")
    with pytest.raises(ValueError, match="convert_weights"):
        load(network(), tmp_path)


def test_unknown_names_are_refused(folder):
    assert pointcontrast_name("block1.0.conv1.kernel") == "layer1.0.conv1.weight"
    assert pointcontrast_name("layer1.0.conv1.weight") is None
    with pytest.raises(ValueError, match="order must be one of minkowski, released"):
        load(network(), folder, order="spconv")
    with pytest.raises(ValueError, match="do not fit"):
        load(res16unet34(), folder)
