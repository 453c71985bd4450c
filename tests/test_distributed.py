"""Several processes of torchrun train the network that one process trains: the same run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from i2p_lib.runs import RunResult, RunSpec, execute, run, train_missing
from i2p_lib.runs.profiles import load_profile
from i2p_lib.runs.store import Entry
from i2p_lib.sparse import SparseBatchNorm, voxelize
from i2p_lib.train import team as distributed

ROOT = Path(__file__).parents[1]
# 19 clouds in batches of 8, 8 and 3; 16 in batches of 7, 7 and 2.  No batch can be shared out
# evenly, and the last one leaves one of three processes without a cloud.
PROFILE = """
description: tiny runs, each with its own way through the training loop
defaults: {points: 256, voxel_size: 0.125, augment: paper, optimizer: sgd, lr: 0.01, epochs: 1,
           model: test_resnet, weights: random, init: inflated, recipe: paper,
           batch_size: 8, train_limit: 19, test_limit: 10}
experiments:
"""
RUNS = {
    "full": (2, "{probe_epochs: [0, 1]}"),
    "frozen_statistics": (2, "{regime: io}"),
    "student": (2, "{distill: soft, temperature: 0.8, teacher: "
                   "{shots: 1, episode: 0, train_limit: null}}"),
    "resumed": (2, "{regime: io+bn, epochs: 2, seed: 1}"),
    "few_shot": (3, "{shots: 1, episode: 0, train_limit: null, batch_size: 7, epochs: 2}"),
}  # fmt: skip
# Sums in another order differ by 1e-7; a few steps of training widen that about ten times.
# `init`: from He's taps two epochs of one process widen 1e-7 to 1e-4, from inflated ones not.
TOLERANCE = 1e-4


class Stop(BaseException):
    """Stands for a process that is interrupted."""


def stop_after_the_first_epoch(state):
    if state.epoch == 1:
        raise Stop


def torchrun(processes, *words, store, program=("-m", "i2p_lib.cli")):
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *command, *program, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env=os.environ | {"I2P_RUNS": str(store), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def profile(folder, processes):
    path = folder / f"tiny{processes}.yml"
    lines = [f"  {name}: [{text}]\n" for name, (n, text) in RUNS.items() if n == processes]
    path.write_text(PROFILE + "".join(lines))
    return load_profile(path)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """{name: result} of runs that two or three processes trained, one from a checkpoint on."""
    root, found = tmp_path_factory.mktemp("together"), {}
    for processes in (2, 3):
        tiny = profile(root, processes)
        specs = {name: specs[0] for name, specs in tiny.experiments.items()}
        if "resumed" in specs:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
                patch.setattr(execute, "CHECKPOINT_SECONDS", 0)
                entry = Entry.of(specs["resumed"], root)
                execute.train_entry(entry, hooks=[stop_after_the_first_epoch])
        done = torchrun(processes, "run", "--profile", tiny.path, store=root)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"runs: 0 found, {len(specs)} trained") == 1, done.stdout
        found |= {name: RunResult.load(Entry.of(spec, root)) for name, spec in specs.items()}
    return found


@pytest.fixture(scope="module")
def alone(together, tmp_path_factory):
    """{name: result} of the same runs in one process."""
    root = tmp_path_factory.mktemp("alone")
    return {name: run(r.spec, root, progress=False) for name, r in together.items()}


def learned(result):
    """How far parameters and statistics moved in training, each as one float64 vector."""
    before = result.spec.module.build_network(result.spec, result.metrics["classes"])
    after = result.network()
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    statistics = zip(before.buffers(), after.buffers(), strict=True)
    return [torch.cat([(b.double() - a.double()).detach().flatten() for a, b in group])
            for group in (pairs, statistics)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_several_processes_ends_as_that_of_one(name, alone, together):
    one, many = alone[name], together[name]
    assert many.key == one.key
    for moved, wanted in zip(learned(many), learned(one), strict=True):
        assert wanted.norm() > 0
        assert (moved - wanted).norm() / wanted.norm() < TOLERANCE
    left, right = one.features(), many.features()
    for part in ("train", "test"):
        assert (left[f"{part}_labels"] == right[f"{part}_labels"]).all()  # gathered in order
        for kind in ("features", "logits"):
            assert right[f"{part}_{kind}"] == pytest.approx(left[f"{part}_{kind}"], 0.01, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_counts_and_losses_of_several_processes_are_those_of_one(name, alone, together):
    one, many = alone[name], together[name]
    assert list(many.history) == list(one.history) and len(many.history) == len(one.history)
    for column in one.history:
        if column.endswith("loss"):
            wanted = pytest.approx(one.history[column].tolist(), 1e-4, nan_ok=True)
            assert many.history[column].tolist() == wanted, column
        elif "seconds" not in column:
            assert many.history[column].equals(one.history[column]), column
    for metric in ("top1", "mean_class_accuracy", "train_top1", "val_top1", "parameters_trained"):
        assert many.metrics[metric] == one.metrics[metric], metric


@pytest.mark.slow
def test_probes_of_several_processes_are_those_of_one(alone, together):
    one, many = alone["full"].probes(), together["full"].probes()
    names = ["epoch", "split", "layer", "metric"]
    assert many[names].equals(one[names])
    assert many["value"].tolist() == pytest.approx(one["value"].tolist(), 0.01, 1e-3)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_and_says_how_many_trained_it(together):
    entry = Entry.of(together["resumed"].spec, together["resumed"].folder.parent)
    log = (entry.folder / "log.txt").read_text()
    assert log.count("go on after epoch 1") == 1 and log.count("done") == 1
    assert entry.state()["processes"] == 2


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(40, 5), (8, 5, 4), (4, 5, 3, 3)])
def test_normalised_rows_and_their_gradients_are_those_of_batch_norm(group_of_one, shape):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64) * 3 + 7
    weight = torch.randn(shape, generator=random, dtype=torch.float64)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    plain, shared = (nn.Sequential(kind(5, dtype=torch.float64)) for _ in range(2))
    distributed.use_global_statistics(shared, distributed.Team())
    results = []
    for norm in (plain, shared):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        (out * weight).sum().backward()
        results.append((out.detach(), leaf.grad, norm[0].weight.grad, norm[0].bias.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
    small = x[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(shared, small)


def test_stored_statistics_follow_as_those_of_batch_norm(group_of_one):
    plain, shared = (nn.Sequential(nn.BatchNorm1d(5)) for _ in range(2))
    distributed.use_global_statistics(shared, distributed.Team())
    for seed in range(3):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) + 2
        torch.testing.assert_close(shared(x), plain(x))
    torch.testing.assert_close(shared.state_dict(), plain.state_dict())
    assert torch.equal(shared.eval()(x), shared[0].__class__.forward(shared[0], x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sparse_norm_keeps_its_activation_its_dtype_and_its_frozen_statistics(
    group_of_one, dtype
):
    points = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(0))
    x = voxelize(points, 0.25).to(dtype)
    plain, shared = (nn.Sequential(SparseBatchNorm(3, activation=nn.ReLU6())) for _ in range(2))
    distributed.use_global_statistics(shared, distributed.Team())
    for frozen in (False, True):
        plain[0].frozen_stats = shared[0].frozen_stats = frozen
        out = shared(x).feats
        assert out.dtype == dtype and out.min() == 0
        torch.testing.assert_close(out, plain(x).feats)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict())


def test_a_batch_norm_of_another_kind_is_refused_by_name():
    class Odd(nn.BatchNorm1d):
        pass

    for odd in (Odd(3), nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, affine=False)):
        name = type(odd).__name__
        with pytest.raises(ValueError, match=f"0: {name}.* cannot be shared by several processes"):
            distributed.use_global_statistics(nn.Sequential(odd), distributed.Team())


def test_a_process_alone_is_a_team_of_one():
    team, net, losses = distributed.Team(), nn.Linear(2, 2), torch.tensor([0.1, 0.25])
    assert team.replica(net) is net and team.salt == ()
    assert team.share(5) == slice(0, 5) and team.weight(5) == 1
    assert distributed.total(losses).tolist() == losses.tolist()
    assert distributed.agreed({"a": 1}) == {"a": 1}
    assert list(distributed.shard([1, 2, 3])) == [1, 2, 3]


def test_fewer_clouds_in_a_batch_than_processes_are_an_error_with_the_largest_number():
    specs = [RunSpec(batch_size=8), RunSpec(batch_size=4)]
    distributed.refuse_small_batches(specs, 4)
    with pytest.raises(ValueError, match="batch of 4 clouds .* 5 processes: start at most 4"):
        distributed.refuse_small_batches(specs, 5)


@pytest.mark.parametrize(
    ("scheduler", "error", "message"),
    [
        (None, RuntimeError, "process 0 would train other runs .* same version of the project"),
        ("tcp://127.0.0.1:9", ValueError, "torchrun and --scheduler exclude each other"),
    ],
)
def test_processes_that_cannot_train_together_are_told_why(
    scheduler, error, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "agreed", lambda value: ["the main process's run"])
    with pytest.raises(error, match=message):
        train_missing([Entry.of(RunSpec(), tmp_path)], None, False, "cpu", scheduler)


def test_half_a_set_of_torchruns_variables_is_an_error_that_names_the_rest(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="asks for 2 processes, but LOCAL_RANK, MASTER_ADDR"):
        with distributed.joined("cpu"):
            raise AssertionError("joined nobody")


def test_on_a_machine_with_gpus_each_process_takes_its_own(monkeypatch):
    seen = []
    for name, value in (("WORLD_SIZE", 2), ("RANK", 1), ("LOCAL_RANK", 1), ("MASTER_ADDR", "x"),
                        ("MASTER_PORT", 1)):  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(dist, "init_process_group", seen.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for device in ("auto", "cuda"):
        with distributed.joined(device):
            pass
    assert seen == [1, "nccl"] * 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with distributed.joined("auto"):
        assert seen[-1] == "gloo"


def test_the_book_is_built_by_one_process(monkeypatch, capsys):
    from i2p_lib import cli

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["book"]) == 1
    assert "i2p book is one process" in capsys.readouterr().err
