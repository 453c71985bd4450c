"""Two processes of torchrun train a segmenter as one process does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_distributed import ROOT, torchrun
from torch import nn

from i2p_lib.runs import RunResult, run
from i2p_lib.runs.execute import begin
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.spec import SegmentSpec
from i2p_lib.runs.store import Entry
from i2p_lib.train import team
from i2p_lib.train.loop import steps

# Batches of two of five scenes: the last one leaves a process without a scene.
SETTINGS = {"scenes": "s3dis", "batch_size": 2, "train_limit": 5, "test_limit": 3, "epochs": 1}
UNET = {"model": "unet:efficientnet_lite0", "voxel_size": 0.4, "decoder_width": 0.1}
SPECS = {
    "unet": UNET | {"init": "inflated", "regime": "io+bn"},
    "released": UNET | {"protocol": "released", "weights": "imagenet1k", "regime": "io+bn"},
    "blocks": {"model": "pointnet2_ssg", "block_points": 64, "blocks": 2},
}


def gradients(name: str) -> Iterator[dict[str, torch.Tensor]]:
    """The loss and the gradients of each step of an epoch at the initial weights.

    In float64, since networks on so few points widen a rounding much, and without dropout, which
    each process draws by itself.
    """
    state = begin(SegmentSpec(**SETTINGS, **SPECS[name]))
    net, task = state.net.double(), state.task
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    replica = state.team.replica(net.train())
    for _, _, items, batch, random in steps(task, 1):
        x, targets = task.encode(net, batch, state.team.share(len(items)), random)
        net.zero_grad(set_to_none=True)
        loss, number, _ = task.loss(replica, x.to(torch.float64), targets)
        loss = loss * state.team.weight(number)
        loss.backward()
        found = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
        yield found | {"loss": team.total(loss.detach().view(1)) / team.size()}


def main() -> None:
    """Write the gradients of `name` to `path`, for torchrun."""
    name, path = sys.argv[1:]
    with team.joined("cpu"):
        found = list(gradients(name))
        if team.rank() == 0:
            torch.save(found, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_a_step_of_two_processes_is_that_of_one(
    name: str, tmp_path: Path, scene_data: Path
) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "data_scripts")))
    done = subprocess.run(
        [sys.executable, *command, __file__, name, str(tmp_path / "two.pt")],
        capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    one = list(gradients(name))
    assert len(one) == len(two) == 3
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys() and len(left) > 20
        for key, wanted in left.items():
            assert (right[key] - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, key


@pytest.mark.slow
def test_a_plan_of_scenes_runs_in_two_processes(tmp_path: Path, scene_data: Path) -> None:
    text = f"description: tiny\nexperiments:\n  rooms: [{SETTINGS | UNET | {'seed': 1}}]\n"
    (tmp_path / "tiny.yml").write_text(text)
    profile = load_profile(tmp_path / "tiny.yml")
    done = torchrun(2, "run", "--profile", profile.path, store=tmp_path / "two")
    assert done.returncode == 0, done.stderr
    spec = profile.all_specs()[0]
    one = run(spec, tmp_path / "one", progress=False)
    two = RunResult.load(Entry.of(spec, tmp_path / "two"))
    assert two.about["processes"] == 2 and two.history["points"].equals(one.history["points"])
    assert two.confusions().shape == one.confusions().shape
    assert (two.confusions().sum(2) == one.confusions().sum(2)).all()


if __name__ == "__main__":
    main()
