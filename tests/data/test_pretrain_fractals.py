"""Pretraining on fractals: it learns, it resumes to the bit, and rounding its weights is free."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from i2p_lib.files import sha256
from i2p_lib.models.pointnet2 import PointNet2
from i2p_lib.runs.store import write_tensors
from i2p_lib.weights import image_model
from i2p_lib.weights.cards import read_cards
from i2p_lib.weights.files import check_file
from i2p_lib.weights.loading import named_tensors, transfer


@pytest.fixture(scope="module")
def script(data_script):
    return data_script("pretrain_fractals")


@pytest.fixture(scope="module")
def parts(data_script):
    return data_script("_pretraining")


@pytest.fixture(scope="module")
def images(data_script, tmp_path_factory):
    """Three categories, 40 training and 20 held-out images of 24 pixels each."""
    folder = tmp_path_factory.mktemp("fractals")
    data_script("build_fractals").build(folder, 3, {"train": 40, "held_out": 20}, 24, seed=4)
    return folder / "fractals.h5"


def recipe(parts, images, **changes):
    return parts.Recipe(**{"epochs": 2, "crop": 20, "data": sha256(images), "batch": 24,
                           "rate": 0.05} | changes)  # fmt: skip


@pytest.fixture(scope="module")
def learned(parts, images, tmp_path_factory):
    """A training that has come to its end, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    state = parts.Training.start(recipe(parts, images, epochs=10, rate=0.005), images)
    assert parts.train(state, folder)
    return state, folder


def test_it_learns_shapes_that_it_never_saw(learned):
    """Promise: held-out instances, of other weights than the training ones, are told apart."""
    state, folder = learned
    assert state.history[-1]["held_out_top1"] > 0.55  # chance 1/3, its standard error 0.06
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"]
    assert (folder / "history.csv").read_text().count("\n") == 1 + 10


def test_going_on_gives_the_same_bits(parts, images, tmp_path):
    """Promise: a run cut in the middle of an epoch ends as one that never stopped."""
    whole = parts.Training.start(recipe(parts, images), images)
    parts.train(whole, tmp_path / "whole")
    cut = parts.Training.start(recipe(parts, images), images)
    for _ in range(3):
        cut.one_step()
    cut.save(tmp_path / "cut" / parts.CHECKPOINT)
    again = parts.Training.start(recipe(parts, images), images)
    again.restore(tmp_path / "cut" / parts.CHECKPOINT)
    assert again.step == 3 and parts.train(again, tmp_path / "cut")
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name]), name
    for ours, theirs in zip(whole.history, again.history, strict=True):
        assert {**ours, "cpu_seconds": 0} == {**theirs, "cpu_seconds": 0}


def test_the_command_stops_in_time_and_goes_on(script, images, tmp_path, capsys):
    """Promise: --minutes leaves a checkpoint, the same command ends with weights and card."""
    command = [str(images), "--output", str(tmp_path), "--crop", "20", "--batch", "60",
               "--epochs", "1", "--rate", "0.001"]  # fmt: skip
    assert script.main([*command, "--minutes", "0"]) == 0
    assert "0 of 2 batches; the same command goes on" in capsys.readouterr().out
    assert script.main([*command, "--seed", "5"]) == 1
    assert "another recipe (was, is now): {'seed': (0, 5)}" in capsys.readouterr().err
    assert script.main(command) == 0 and "held-out accuracy" in capsys.readouterr().out
    assert read_cards(tmp_path / "card.yml").cards[0].label == "resnet18:fractal"


def test_half_precision_loses_nothing_that_the_held_out_images_show(script, parts, learned):
    """Promise: the rounded weights load strictly by their card, and name the same categories."""
    state, folder = learned
    top1 = script.publish(state, folder)
    card = read_cards(folder / "card.yml").cards[0]
    net = image_model("resnet18")
    net.fc = torch.nn.Linear(512, card.classes)
    path = folder / card.file_name
    assert check_file(card, path)
    table = transfer(net, card, path, named_tensors(net, card, path))
    assert len(table) == 122 and set(table["state"]) == {"copied"}
    assert card.size < 25e6 and f"{top1['half']:.1%} in half precision" in card.note
    middle = parts.network_input(net, state.held_out.pixels[:, 2:22, 2:22])
    with torch.no_grad():
        ours, theirs = (n.eval()(middle).log_softmax(1) for n in (state.net, net))
    assert parts.accuracy(net, state.held_out, 20) == top1["half"]
    assert top1["half"] == pytest.approx(top1["single"], abs=0.02)  # one image of 60
    losses = [cross_entropy(x, state.held_out.labels).item() for x in (ours, theirs)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)


def test_points_learn_from_pixels_and_take_their_weights_along(script, images, tmp_path):
    """Promise: PointNet++ trains on the pixels of chosen categories, and on points goes on."""
    command = [str(images), "--output", str(tmp_path), "--crop", "20", "--batch", "20", "--epochs",
               "1", "--rate", "0.01", "--model", "pointnet2_ssg", "--categories", "2"]  # fmt: skip
    assert script.main(command) == 0
    card = read_cards(tmp_path / "card.yml").cards[0]
    assert card.label == "pointnet2_ssg:fractal_pixels" and card.classes == 2
    assert "80 images of 24 pixels" in card.pretraining and "of 40 images" in card.note
    tensors = load_file(tmp_path / card.file_name)
    net = PointNet2(2, channels=3)
    net.load_state_dict(tensors, strict=True)
    assert net.sa1.mlp[0].weight.shape == (64, 6)


def test_weights_that_half_precision_cannot_hold_are_not_written(script, learned, tmp_path):
    """Promise: rounding that costs accuracy is refused."""
    state = copy.copy(learned[0])
    state.net = copy.deepcopy(state.net)
    state.net.fc.weight.data *= 1e7
    with pytest.raises(ValueError, match="half precision costs too much"):
        script.publish(state, tmp_path)
    assert not list(tmp_path.iterdir())


def test_crops_and_flips_are_of_the_image_itself(parts):
    """Promise: every augmented image is a window of its own, flipped or not; all kinds occur."""
    pixels = torch.arange(40 * 36, dtype=torch.int32).reshape(40, 6, 6)
    cut = parts.augmented(pixels, 4, torch.Generator().manual_seed(0))
    seen = set()
    for image, crop in zip(pixels.numpy(), cut.numpy(), strict=True):
        kinds = {(top, left, up, turn): image[top : top + 4, left : left + 4][::up, ::turn]
                 for top in range(3) for left in range(3) for up in (1, -1) for turn in (1, -1)}
        (kind,) = [kind for kind, window in kinds.items() if np.array_equal(window, crop)]
        seen.add(kind[:2]), seen.add(kind[2:])
    assert len(seen) == 9 + 4 - 1  # (1, 1) is a place and a kind of flip
    grey = torch.full((1, 32, 32), 51, dtype=torch.uint8)  # 0.2 of 255, the mean
    assert parts.network_input(torch.nn.Identity(), grey).abs().max() < 1e-6
    assert parts.network_input(PointNet2(2, channels=3), grey)[..., 3:].abs().max() < 1e-6


def test_the_rate_rises_and_falls_to_nothing(parts):
    """Promise: linear up to the highest rate, then half a cosine that ends next to zero."""
    one = parts.Recipe(epochs=1, crop=20, data="", rate=0.1, warm_up=0.1)
    rates = [parts.learning_rate(one, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    assert rates[10] == 0.1 and rates[55] == pytest.approx(0.05) and 0 < rates[99] < 1e-4
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_it_rests_while_the_file_exists(script, tmp_path):
    """Promise: no file, no rest; the function comes back once the file is gone."""
    import threading

    file = tmp_path / "rest"
    script.waiting_for(file)()
    file.touch()
    timer = threading.Timer(0.2, file.unlink)
    timer.start()
    script.waiting_for(file)()
    assert not file.exists()
    timer.join()


@pytest.mark.parametrize("change, message", [
    ({"crop": 25}, "images of 25 pixels or more"), ({"batch": 121}, "one batch of 121"),
    ({"epochs": 0}, "expected 1 epoch"), ({"rate": 0.0}, "expected 1 epoch"),
])  # fmt: skip
def test_recipes_that_do_not_fit_are_refused(parts, images, change, message):
    """Promise: before the first batch, with the numbers in question."""
    with pytest.raises(ValueError, match=message):
        parts.Training.start(recipe(parts, images, **change), images)


def test_files_that_are_not_ours_are_refused(script, tmp_path, capsys):
    """Promise: a missing or foreign file is named, and how to make the right one."""
    foreign = tmp_path / "fractals.h5"
    command = [str(foreign), "--output", str(tmp_path)]
    assert script.main(command) == 1 and "build_fractals.py makes it" in capsys.readouterr().err
    write_tensors(foreign, {"a": torch.zeros(1)})
    assert script.main(command) == 1
    assert "is no file of build_fractals.py" in capsys.readouterr().err
