"""Weights by path: a file of your own is taken wherever a name is, strictly, by its content."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from i2p_lib import cli, weights
from i2p_lib.models import point_model
from i2p_lib.models.segmenters import segmenter
from i2p_lib.runs.needs import missing_inputs
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import RunSpec, SegmentSpec
from i2p_lib.runs.store import key_of, key_parts
from i2p_lib.train.classify import build_network
from i2p_lib.weights.paths import is_path
from tests.test_weight_layouts import Trap


@pytest.fixture(scope="module")
def birds():
    """The tensors of a ResNet-18 that tells seven birds apart."""
    net = weights.image_model("resnet18", seed=3)
    net.fc = torch.nn.Linear(512, 7)
    return net.state_dict()


def saved(path, content):
    torch.save(content, path)
    return path


def same(net, tensors):
    return all(torch.equal(value, tensors[name]) for name, value in net.state_dict().items())


def test_names_and_paths_are_told_apart():
    """Promise: no name of weights is taken for a path, and no path for a name."""
    assert not any(is_path(card.weights) for card in weights.weight_cards())
    assert not any(map(is_path, (None, "random", "augreg2_in21k_ft_in1k", 3)))
    assert all(map(is_path, ("a.PTH", "a b.pt", "dir/a", "~/a", "m.bin", "m.ckpt", "a.pth.tar")))


@pytest.mark.parametrize("entry", ["", "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
def test_a_finetuned_checkpoint_loads_with_its_own_classes(tmp_path, birds, entry, prefix):
    """Promise: well-known wrappers and prefixes are seen through, whatever stands beside."""
    named = {prefix + name: value for name, value in birds.items()}
    path = tmp_path / "my birds, größer.pth"
    saved(path, {entry: named, "epoch": 3, "optimizer": {"state": {}}} if entry else named)
    net = weights.image_model("resnet18", path)
    assert net.fc.out_features == 7 and same(net, birds)
    assert net.i2p_transfer["file_key"].str.startswith(prefix).all()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_lite0", "bagnet17"])
def test_the_files_of_other_libraries_load(tmp_path, monkeypatch, name):
    """Promise: a .safetensors with timm's names, or the book's own; a relative path and a home."""
    stored = weights.image_model(name, seed=2).state_dict()
    save_file(stored, tmp_path / "mine.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert same(weights.image_model(name, "mine.safetensors"), stored)
    assert same(weights.image_model(name, "~/mine.safetensors"), stored)


def test_networks_on_points_take_files(tmp_path, birds):
    """Promise: a path goes where a name does: views, pixels and U-Nets."""
    path = str(saved(tmp_path / "birds.pth", birds))
    views = point_model("views:resnet18", 5, path).state_dict()
    assert torch.equal(views["image.layer4.1.conv2.weight"], birds["layer4.1.conv2.weight"])
    net = segmenter("unet:resnet18", 5, 3, path)
    assert torch.equal(net.encoder.layer4[1].bn2.weight, birds["layer4.1.bn2.weight"])
    from i2p_lib.models.pointnet2 import PointNet2

    pixels = PointNet2(11, channels=3)
    path = saved(tmp_path / "pixels.pth", pixels.state_dict())
    net = point_model("pointnet2_ssg", 5, path)
    assert torch.equal(net.sa2.mlp[0].weight, pixels.sa2.mlp[0].weight)


def refused(path, match, name="resnet18", error=ValueError, **more):
    with pytest.raises(error, match=match) as found:
        weights.image_model(name, path, **more)
    return str(found.value)


@pytest.mark.parametrize(("other", "looks"), [("resnet50", "looks like resnet50"),
                                              ("resnet34", "looks like resnet34"),
                                              ("vit_tiny_patch16_224", "a Vision Transformer")])
def test_the_file_of_another_network_is_refused_and_recognised(tmp_path, other, looks):
    """Promise: the error counts what does not fit, shows some of it, and says what the file is."""
    path = saved(tmp_path / "a.pth", {"model": weights.image_model(other).state_dict()})
    text = refused(path, looks)
    assert "tensors of a.pth do not fit resnet18:" in text and "unexpected, not in" in text
    assert "more unexpected" in text and len(text) < 1500


def test_nothing_but_the_classifier_may_differ(tmp_path, birds):
    """Promise: a layer that lacks, is too much or of another shape is named, and how to go on."""
    body = {name: value for name, value in birds.items() if not name.startswith("fc.")}
    path = saved(tmp_path / "a.pth", body)
    refused(path, r"fc.weight \(missing.*To leave that part random: weights_except: \[fc\]")
    assert same(weights.image_model("resnet18", path, weights_except="fc"),
                body | weights.image_model("resnet18").fc.state_dict(prefix="fc."))
    saved(path, birds | {"bn1.bias": torch.zeros(3)})
    refused(path, r"1 of 122 .*bn1.bias \(shape \[3\], expected \[64\]\)")
    saved(path, birds | {"extra": torch.zeros(3)})
    refused(path, r"1 of 123 .*extra \(unexpected")
    saved(path, {"model": birds, "net": birds})
    refused(path, r"got \['model', 'net'\]: save the one")
    saved(path, {"model": {"wrapped": birds}})
    refused(path, r"tensors and nothing else at its entry 'model', got \['wrapped'\]")


def test_files_that_cannot_be_read_say_why(tmp_path, birds):
    """Promise: absent, cut, foreign and hostile files are one clear error each."""
    path = saved(tmp_path / "a.pth", birds)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "\n" not in refused(path, "a.pth is not a whole PyTorch checkpoint .*get it anew")
    save_file(birds, tmp_path / "b.safetensors")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:1000])
    refused(tmp_path / "b.safetensors", "is not a safetensors file")
    saved(path, {"model": birds, "args": argparse.Namespace(lr=0.1)})
    refused(path, r"argparse.Namespace(.|\n)*writes a.pth.safetensors")
    harm = tmp_path / "harm"
    saved(path, {"model": birds, "x": Trap(harm)})
    refused(path, "holds more than tensors .*open")
    assert not harm.exists()
    refused(tmp_path / "no" / "c.pth", f"expected a file .*c.pth, got nothing .*folder {tmp_path}",
            error=FileNotFoundError)  # fmt: skip
    refused(f"{tmp_path}/", "got a folder", error=FileNotFoundError)
    with pytest.raises(ValueError, match="unknown image model 'resnet5'"):
        weights.image_model("resnet5", path)


def test_a_converted_file_of_ones_own_needs_no_entry_named(tmp_path, birds):
    """Promise: the way that the error names leads to a file that loads."""
    from convert_weights import main

    path = saved(tmp_path / "a.pth", {"model": birds, "args": argparse.Namespace(lr=0.1)})
    assert main([str(path), "--trust", "argparse.Namespace"]) == 0
    assert same(weights.image_model("resnet18", f"{path}.safetensors"), birds)


def test_a_runs_key_rests_on_the_content_of_its_file(tmp_path, birds, monkeypatch):
    """Promise: one content under two names is one run; other content under one name is another."""
    one, two = saved(tmp_path / "a.pth", birds), tmp_path / "b c.pth"
    two.write_bytes(one.read_bytes())
    first, again = (RunSpec(model="resnet18", weights=path) for path in (one, str(two)))
    assert weights.weights_hash("resnet18", one) == weights.weights_hash("resnet18", two)
    before = key_of(key_parts(first))
    assert before == key_of(key_parts(again)) and "a.pth" in first.label()
    assert RunSpec(**first.model_dump(mode="json")) == first
    saved(one, birds | {"fc.bias": torch.ones(7)})
    assert key_of(key_parts(first)) != before == key_of(key_parts(again))
    monkeypatch.chdir(tmp_path)
    assert RunSpec(model="resnet18", weights="a.pth") == first
    one.unlink()
    (need,) = missing_inputs(first)
    assert need.known and "expected a file" in need.how


def test_a_profile_names_files_from_its_own_folder(tmp_path, birds):
    """Promise: a path in a profile starts where the profile lies, as its folder of images does."""
    saved(tmp_path / "a.pth", birds)
    (tmp_path / "p.yml").write_text(
        "defaults: {model: resnet18, weights: a.pth}\nexperiments:\n"
        "  one: [{weights_except: [layer4, layer3]}]\n"
        "  two: [{weights_except: [[layer4], [layer3]]}]\n")
    profile = load_profile(tmp_path / "p.yml")
    (one,) = profile.experiment("one")
    assert one.weights == str(tmp_path / "a.pth") and one.weights_except == ("layer3", "layer4")
    assert "a.pth except layer3, layer4" in one.label()
    assert [spec.weights_except for spec in profile.experiment("two")] == [("layer4",), ("layer3",)]


def test_parts_can_be_left_at_their_random_start(tmp_path, birds):
    """Promise: weights_except leaves out what it names and nothing else, from its own seed."""
    path = saved(tmp_path / "a.pth", birds)
    net = weights.image_model("resnet18", path, seed=5, weights_except=["layer4", "bn1.bias"])
    random = weights.image_model("resnet18", seed=5).state_dict()
    left = set(net.i2p_transfer.query("reason == 'left out by weights_except'")["name"])
    assert left == {n for n in birds if n.startswith("layer4.")} | {"bn1.bias"}
    assert same(net, birds | {name: random[name] for name in left})
    refused(path, "no tensor under 'layer5'; its parts are conv1, bn1, layer1, ",
            weights_except=["layer5"])  # fmt: skip
    refused("random", "random weights have none", weights_except=["layer4"])


def test_runs_leave_parts_out_as_their_protocol_starts_them(tmp_path, birds):
    """Promise: what a run leaves out is an image network's start, or torchsparse's as released."""
    path = saved(tmp_path / "a.pth", birds)
    spec = RunSpec(model="resnet18", weights=path, weights_except=["layer4"], recipe="paper")
    assert key_of(key_parts(spec)) != key_of(key_parts(spec.but(weights_except=())))
    nets = {protocol: build_network(spec.but(protocol=protocol), 4).state_dict()
            for protocol in ("clean", "released")}  # fmt: skip
    random = build_network(spec.but(weights="random", weights_except=(), init="inflated"), 4)
    name = "layer4.1.conv2.weight"
    assert torch.equal(nets["clean"][name], random.state_dict()[name])
    assert float(nets["released"][name].abs().max()) <= 1 / (512 * 27) ** 0.5
    assert all(torch.equal(net["layer3.1.bn1.weight"], birds["layer3.1.bn1.weight"])
               for net in nets.values())  # fmt: skip
    rooms = SegmentSpec(weights=path, weights_except=["layer4"])
    assert rooms.network_settings["weights_except"] == ("layer4",)
    for wrong in ({"weights": "random"}, {"model": "simpleview", "recipe": None}):
        with pytest.raises(ValueError, match="weights_except is of inflated networks"):
            spec.but(**wrong)


def test_the_command_checks_a_file(tmp_path, birds, capsys):
    """Promise: `i2p weights check MODEL:PATH` says whether every tensor fits."""
    path = saved(tmp_path / "my a.pth", birds)
    assert cli.main(["weights", "check", f"resnet18:{path}"]) == 0
    assert "122 copied" in capsys.readouterr().out
    assert cli.main(["weights", "check", f"resnet34:{path}"]) == 1
    assert "looks like resnet18" in capsys.readouterr().err
