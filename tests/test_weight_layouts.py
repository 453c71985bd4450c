"""Checkpoint layouts: real files, laid out as the cards say, load strictly; others do not."""

import argparse
import shutil
import zipfile

import pytest
import torch
from convert_weights import convert, main
from safetensors.torch import save_file

from i2p_lib import weights
from i2p_lib.weights import building, files, loading
from i2p_lib.weights.cards import OWN_BUILDERS

R50 = ("fractaldb1k", "fractaldb10k", "stylized_imagenet", "tiny_imagenet", "imagenet21k")


@pytest.fixture(scope="module")
def resnet50():
    return weights.image_model("resnet50", seed=5).state_dict()


def write(folder, card, tensors, **others):
    """Write a file in the layout that the card states; return its path."""
    path = folder / card.file_name
    tensors = {card.prefix + name: tensor for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({card.unwrap: tensors, **others} if card.unwrap else tensors, path)
    return path


def with_classes(tensors, count):
    """The same network with a classifier of another size."""
    weight = torch.arange(count).float()[:, None].expand(count, tensors["fc.weight"].shape[1])
    return tensors | {"fc.weight": weight.contiguous(), "fc.bias": torch.arange(count).float()}


@pytest.fixture
def unhashed(monkeypatch):
    """Let made files pass where a hash is published; what is tested here comes after it."""
    real = building.weight_card
    for module in (building, files):
        monkeypatch.setattr(
            module, "weight_card", lambda *names: real(*names).model_copy(update={"sha256": ""})
        )


@pytest.mark.parametrize("name", R50)
def test_each_resnet50_file_loads_with_its_own_classifier(tmp_path, unhashed, resnet50, name):
    """Promise: wrappers go by the card's rules, the classifier is as large as the file's."""
    card = weights.weight_card("resnet50", name)
    stored = with_classes(resnet50, card.classes)
    write(tmp_path, card, stored, epoch=60, arch="resnet50", optimizer={"state": {}})
    net = weights.image_model("resnet50", name, weights_dir=tmp_path)
    assert net.fc.out_features == card.classes
    assert all(torch.equal(tensor, stored[key]) for key, tensor in net.state_dict().items())
    table = net.i2p_transfer
    assert table["state"].eq("copied").all() and len(table) == len(stored) == 320
    assert table["file_key"].str.startswith(card.prefix).all()


@pytest.mark.parametrize("name", sorted(OWN_BUILDERS))
def test_the_books_own_image_networks_load_their_files(tmp_path, unhashed, name):
    """Promise: BagNet and the 2D twin are built by name, seeded, and load strictly."""
    pytest.importorskip(OWN_BUILDERS[name])
    before = torch.random.get_rng_state()
    made, again, other = (weights.image_model(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(made[key], again[key]) for key in made)
    assert any(not torch.equal(made[key], other[key]) for key in made)
    write(tmp_path, weights.weight_card(name), made)
    net = weights.image_model(name, "imagenet1k", seed=9, weights_dir=tmp_path)
    assert all(torch.equal(tensor, made[key]) for key, tensor in net.state_dict().items())
    assert net.i2p_transfer["state"].eq("copied").all()


def test_a_segmentation_file_gives_its_trunk_and_says_what_is_new(tmp_path):
    """Promise: layers on one side only are named as dropped or new, by the card's rules alone."""
    card = weights.weight_card("hrnet_w48", "cityscapes")
    made = weights.image_model("hrnet_w48", seed=4).state_dict()
    trunk = {k: v + 1 for k, v in made.items() if not k.startswith(card.fresh)}
    stored = {f"model.{k}": v for k, v in trunk.items()}
    stored |= {"model.last_layer.3.weight": torch.zeros(19, 720, 1, 1), "loss.w": torch.ones(19)}
    torch.save(stored, tmp_path / card.file_name)
    net = weights.image_model("hrnet_w48", "cityscapes", seed=4, weights_dir=tmp_path)
    assert all(torch.equal(v, trunk.get(k, made[k])) for k, v in net.state_dict().items())
    table = net.i2p_transfer
    assert set(table.query("state == 'dropped'")["file_key"]) == stored.keys() - {
        f"model.{k}" for k in trunk
    }
    assert set(table.query("state == 'new'")["name"]) == made.keys() - trunk.keys()
    assert "classifier.weight" in set(table.query("state == 'new'")["name"])


@pytest.mark.parametrize(
    ("name", "make", "complaint"),
    [
        ("stylized_imagenet", lambda t: t, "mapping of names to tensors at its entry 'state_dict'"),
        ("stylized_imagenet", lambda t: {"state_dict": t}, "begin with 'module.', got 'conv1"),
        ("fractaldb1k", lambda t: {"state_dict": t}, "expected tensors and nothing else"),
        ("fractaldb1k", lambda t: t | {"epoch": 90}, "nothing else at its top level, got .'epoch'"),
        ("fractaldb1k", lambda t: list(t.values()), "expected a mapping of names to tensors"),
        ("fractaldb1k", lambda t: {f"module.{k}": v for k, v in t.items()}, "587 of 640 tensors"),
        ("fractaldb10k", lambda t: t, "fc.weight .shape .1000, 2048., expected .10000, 2048"),
    ],
)
def test_a_layout_that_the_card_does_not_state_is_refused(
    tmp_path, unhashed, resnet50, name, make, complaint
):  # fmt: skip
    """Promise: no wrapper, prefix or size is guessed."""
    card = weights.weight_card("resnet50", name)
    torch.save(make(dict(resnet50)), tmp_path / card.file_name)
    with pytest.raises(ValueError, match=complaint):
        weights.image_model("resnet50", name, weights_dir=tmp_path)


def test_a_published_part_of_a_hash_keeps_another_file_out(tmp_path, resnet50):
    """Promise: a well laid out file under the published name is refused by its hash."""
    card = weights.weight_card("resnet50", "stylized_imagenet")
    write(tmp_path, card, resnet50)
    with pytest.raises(ValueError, match="expected SHA-256 c8e5653e\\.\\.\\. .*, got"):
        weights.image_model("resnet50", "stylized_imagenet", weights_dir=tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "before torch 1.6"])
def test_a_checkpoint_with_more_than_tensors_is_not_unpickled(tmp_path, resnet50, zipped):
    """Promise: the error names what it asks for and the way; converted, it loads, the same."""
    card = weights.weight_card("resnet50", "imagenet21k")
    stored = with_classes(resnet50, 11221)
    content = {"state_dict": stored, "args": argparse.Namespace(lr=0.1)}
    path = tmp_path / card.file_name
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"argparse.Namespace(.|\n)*convert_weights.py") as error:
        weights.image_model("resnet50", "imagenet21k", weights_dir=tmp_path)
    assert "run code" in str(error.value)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    made = convert(path, [argparse.Namespace], "state_dict")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    made.unlink()
    words = ["--trust", "argparse.Namespace", "--unwrap", "state_dict"]
    assert main([str(path), *words]) == 0 and made.is_file()
    path.unlink()
    net = weights.image_model("resnet50", "imagenet21k", weights_dir=tmp_path)
    assert weights.verified(card, tmp_path)[0] == made
    assert all(torch.equal(tensor, stored[key]) for key, tensor in net.state_dict().items())


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_never_runs(tmp_path):
    """Promise: neither loading, checking nor converting a hostile file runs what is in it."""
    card = weights.weight_card("resnet50", "fractaldb1k")
    path, harm = tmp_path / card.file_name, tmp_path / "harm"
    torch.save({"conv1.weight": torch.zeros(1), "x": Trap(harm)}, path)
    assert weights.verified(card, tmp_path)[0] == path
    for act in (lambda: weights.image_model("resnet50", "fractaldb1k", weights_dir=tmp_path),
                lambda: convert(path)):  # fmt: skip
        with pytest.raises(ValueError, match="holds more than tensors .*open"):
            act()
    assert not harm.exists()


def test_a_file_that_unpacks_to_far_more_than_it_holds_is_refused_unread(tmp_path, monkeypatch):
    """Promise: what the archive says of itself is believed before memory is taken."""
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (zipfile.ZipFile(tmp_path / "plain.pth") as plain,
          zipfile.ZipFile(tmp_path / "tight.pth", "w", zipfile.ZIP_DEFLATED) as tight):  # fmt: skip
        for name in plain.namelist():
            tight.writestr(name, plain.read(name))
    assert loading.read_checkpoint(tmp_path / "plain.pth")["weight"].shape == (1 << 20,)
    monkeypatch.setattr(torch, "load", None)  # it may not be asked
    with pytest.raises(ValueError, match="tight.pth: its .* unpack to 4 MiB, which no weights do"):
        loading.read_checkpoint(tmp_path / "tight.pth")
    monkeypatch.setattr("psutil.virtual_memory", lambda: argparse.Namespace(available=1 << 20))
    with pytest.raises(ValueError, match="plain.pth would take 0.0 GiB of memory"):
        loading.read_checkpoint(tmp_path / "plain.pth")


@pytest.mark.parametrize("content", [b"", b"junkjunk", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    """Promise: a cut or foreign file is one clear error."""
    card = weights.weight_card("resnet50", "fractaldb1k")
    (tmp_path / card.file_name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole PyTorch checkpoint"):
        weights.image_model("resnet50", "fractaldb1k", weights_dir=tmp_path)


def test_a_converted_file_must_come_from_the_published_one(tmp_path, resnet50):
    """Promise: a conversion does not slip past the published hash."""
    card = weights.weight_card("resnet50", "stylized_imagenet")
    path = write(tmp_path, card, resnet50)
    made = convert(path, unwrap="state_dict")
    path.unlink()
    with pytest.raises(ValueError, match="expected SHA-256 c8e5653e"):
        weights.verified(card, tmp_path)
    forged = {"source_sha256": "c8e5653e".ljust(64, "0")}
    save_file({"a": torch.zeros(1)}, made, metadata=forged)
    with pytest.raises(ValueError, match="expected the SHA-256 that .*sha256 keeps of the first"):
        weights.verified(card, tmp_path)
    note = made.with_name(f".{made.name}.sha256")
    note.unlink()
    with pytest.raises(ValueError, match="no such file.*convert it again"):
        weights.verified(card, tmp_path)
    shutil.copy(__file__, made)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        weights.verified(card, tmp_path)


def test_weights_of_a_3d_network_are_not_given_to_a_2d_one():
    """Promise: PointContrast's files are known, and refused by name for an image network."""
    with pytest.raises(ValueError, match="for a network on points .*image_model builds"):
        weights.image_model("res16unet34", "pointcontrast_nce")


def test_half_precision_files_are_read_and_say_so(tmp_path, resnet50):
    """Promise: a change of precision is allowed between floats and stands in the report."""
    card = weights.weight_card("resnet50", "fractaldb1k")
    half = {k: v.half() if v.is_floating_point() else v for k, v in resnet50.items()}
    write(tmp_path, card, half)
    net = weights.image_model("resnet50", "fractaldb1k", weights_dir=tmp_path)
    assert net.fc.weight.dtype == torch.float32
    row = net.i2p_transfer.set_index("name").loc["fc.weight"]
    assert row["reason"] == "from torch.float16 to torch.float32"
