"""Checkpoints of the original code: each tensor and each tap at its place, proven by its logits."""

import pytest
import torch

from i2p_lib import load_original
from i2p_lib.inflation import inflate
from i2p_lib.weights import image_model
from tests.golden import classification, segmentation
from tests.golden.original import apart, closed_form, golden, tensor


def as_saved(file, folder):
    """A checkpoint as the original's trainer writes it: closed-form weights, fresh statistics."""
    made = {name: value.float() for name, value in closed_form(file).items()}
    for name in golden(file)["state_dict_names"].tolist():
        if name not in made:
            size = made[name.rpartition(".")[0] + ".weight"].shape
            made[name] = (torch.ones if name.endswith("var") else torch.zeros)(
                () if name.endswith("tracked") else size)
    made = {f"module.{n}": v.long() if n.endswith("tracked") else v for n, v in made.items()}
    torch.save({"model": made, "optimizer": {}, "epoch_num": 3}, folder / "max-top1.pt")
    return folder / "max-top1.pt"


@pytest.mark.parametrize("depth", [18, 34])
def test_a_checkpoint_of_the_original_gives_its_logits(tmp_path, depth):
    """Promise: load_original puts each tensor and each tap where it belongs."""
    file = classification.file(depth, "float32")
    path, net = as_saved(file, tmp_path), classification.network(depth)
    assert load_original(net, path)["state"].eq("copied").all()
    x, _ = classification.batch(depth)
    with torch.no_grad():
        assert apart(net.eval()(x.to(torch.float32)), tensor(file, "logits_eval")) < 1e-5
    assert net.i2p_report["action"].ne("new").all()


def test_a_segmentation_checkpoint_of_the_original_loads(tmp_path):
    """Promise: the tensors of its U-Net come to where the golden tests put them."""
    path, net = as_saved(segmentation.EXACT, tmp_path), segmentation.fresh()
    load_original(net, path)
    made = segmentation.network().state_dict()
    assert all(apart(value, made[name]) < 1e-6 or not value.any()
               for name, value in net.state_dict().items())  # fmt: skip


def test_what_is_no_checkpoint_of_the_original_is_refused(tmp_path):
    """Promise: a 2D file, and the original's for a 2D network, are told what they are."""
    image = image_model("resnet18")
    torch.save(image.state_dict(), tmp_path / "a.pth")
    net = inflate(image, 3, 40, recipe="paper")
    with pytest.raises(ValueError, match="do not fit the original's ResNet:.*like resnet18"):
        load_original(net, tmp_path / "a.pth")
    path = as_saved(classification.file(18), tmp_path)
    with pytest.raises(ValueError, match="like a 3D network of the original code: i2p_lib.models"):
        image_model("resnet18", path)
    with pytest.raises(ValueError, match=r"fc.0.weight \(shape \[40, 512\], expected \[8, 512\]"):
        load_original(inflate(image, 3, 8, recipe="paper"), path)
