"""Training from objects: own networks and clouds go through the same loop as the named runs."""

import pytest
import torch

import i2p_lib as i2p
from i2p_lib.runs import RunSpec, run
from i2p_lib.train.classify import build_network
from i2p_lib.train.clouds import Split, Splits

SPEC = RunSpec(
    points=128, epochs=2, batch_size=8, train_limit=18, test_limit=16, voxel_size=0.2,
    regime="io+bn", recipe="paper", augment="paper", lr=3e-3,
)  # fmt: skip
TRAINING = {"epochs": 2, "batch_size": 8, "voxel_size": 0.2, "augment": "paper", "lr": 3e-3}
TIMES = ["seconds", "eval_seconds"]


def test_objects_give_the_numbers_of_the_named_run(tmp_path):
    """Promise: a named run is a thin layer on the same path, bit for bit."""
    named = run(SPEC, store=tmp_path, progress=False)
    clouds = i2p.point_clouds("home_objects", points=128, train_limit=18, test_limit=16)
    fitted = i2p.fit(build_network(SPEC, len(clouds.class_names)), clouds, **TRAINING)
    history = fitted.history.drop(columns=TIMES)
    assert history.to_dict("list") == named.history[history.columns].to_dict("list")
    assert fitted.metrics["top1"] == named.metrics["top1"]
    wanted = named.network().state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in fitted.net.state_dict().items())


def test_an_own_network_on_own_clouds_learns(tmp_path):
    """Promise: a network and point clouds that no registry knows train as they are."""
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        points = torch.rand(count, 64, 3, generator=random) * (1 + labels)[:, None, None]
        return Split(points, labels)

    class Own(torch.nn.Module):
        i2p_input, i2p_classifier = "points", "fc"

        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            torch.nn.init.zeros_(self.fc.weight)

        def forward(self, points):
            return self.fc(points.amax(1))

    clouds = Splits(split(64), split(16), split(16), ("small", "large"))
    seen = []
    fitted = i2p.fit(Own(), clouds, hooks=[lambda state: seen.append(state.epoch)], epochs=20,
                     lr=0.1, augment="none")  # fmt: skip
    assert fitted.metrics["top1"] == 1.0 and seen == list(range(21))


def test_a_setting_that_does_not_exist_is_an_error_before_anything_starts():
    clouds = i2p.point_clouds("home_objects", points=64, train_limit=16, test_limit=16)
    with pytest.raises(ValueError, match="unknown setting 'learning_rate'"):
        i2p.fit(torch.nn.Identity(), clouds, learning_rate=0.1)
