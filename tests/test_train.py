"""The training loop: what it promises whatever the network is."""

import math

import pytest
import torch
from torch import nn

from i2p_lib import models
from i2p_lib.analysis.taps import pooled, stage_names
from i2p_lib.runs import run, store
from i2p_lib.runs.execute import begin as begin_named
from i2p_lib.runs.spec import RunSpec
from i2p_lib.train import loop as train
from i2p_lib.train import task
from i2p_lib.train.classify import Classify
from i2p_lib.train.clouds import (
    Split,
    Splits,
    evaluate,
    load_splits,
    logits_of,
    net_input,
    stratified_first,
)
from i2p_lib.train.loop import State
from i2p_lib.train.optimise import build_optimizer, learning_rate

SPEC = RunSpec(
    points=64, epochs=4, batch_size=8, lr=0.01, augment="paper", weights="random", voxel_size=0.2
)
TIMES = ("seconds", "eval_seconds")
CPU = torch.device("cpu")
INFLATED = RunSpec(
    points=256, epochs=1, batch_size=8, train_limit=8, test_limit=16, voxel_size=0.1,
    weights="random", recipe="paper", augment="paper", optimizer="sgd", lr=0.01,
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Tiny(nn.Module):
    """Two linear layers on sites with a norm and dropout, then the mean of each cloud."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.layer1, self.norm = nn.Linear(3, 16), nn.BatchNorm1d(16)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(16, 2)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=random)

    def forward(self, x):
        feats = self.drop(torch.relu(self.norm(self.layer1(x.feats))))
        return self.fc(pooled(x.replace(feats)))


def split(count: int, seed: int) -> Split:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    points = torch.rand(count, 64, 3, generator=random) * (1 + labels)[:, None, None]
    return Split(points - points.mean(1, keepdim=True), labels)


def begin(spec: RunSpec = SPEC, net: nn.Module | None = None) -> State:
    net = net or Tiny()
    splits = Splits(split(32, 1), split(8, 2), split(8, 3), ("small", "large"))
    return train.start(Classify(spec, splits), net)


def without_times(history):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


class Stop(Exception):
    """Stands for a process that dies."""


def stop_after(epoch):
    def hook(state):
        if state.epoch == epoch:
            raise Stop

    return hook


@pytest.mark.parametrize(("optimizer", "protocol"), [("adamw", "clean"), ("sgd", "released")])
def test_going_on_from_a_checkpoint_gives_the_same_bits(tmp_path, optimizer, protocol):
    spec = SPEC.but(optimizer=optimizer, protocol=protocol)
    whole = train.train(begin(spec))
    path = tmp_path / store.CHECKPOINT
    with pytest.raises(Stop):
        train.train(begin(spec), [lambda s: store.write_checkpoint(path, s), stop_after(2)])
    torch.rand(7)  # another process has another global generator
    resumed = begin(spec, Tiny(seed=5))
    store.read_checkpoint(path, resumed)
    assert resumed.epoch == 2
    train.train(resumed)
    assert without_times(resumed.history) == without_times(whole.history)
    wanted = whole.net.state_dict()
    assert all(torch.equal(value, wanted[k]) for k, value in resumed.net.state_dict().items())
    assert whole.best.keys() == resumed.best.keys() and bool(whole.best) == (protocol != "clean")
    assert all(torch.equal(value, resumed.best[k]) for k, value in whole.best.items())


def test_the_reported_epoch_is_the_network_that_is_kept():
    state, seen = begin(SPEC.but(protocol="released")), []
    train.train(state, [lambda s: seen.append(s.net.fc.weight.detach().clone())])
    state.task.finish = lambda state: task.Kept({})
    kept = train.finish(state).metrics
    assert torch.equal(state.net.fc.weight, seen[kept["best_test_epoch"]])
    assert kept["top1_best_test"] >= kept["top1_last"]


def test_training_learns_and_leaves_the_global_generator_alone():
    state = begin(SPEC.but(epochs=30))
    before = torch.get_rng_state()
    train.train(state)
    assert torch.equal(before, torch.get_rng_state())
    assert state.history[-1]["val_top1"] > 0.8
    assert [row["epoch"] for row in state.history] == list(range(1, 31))


def test_the_data_in_memory_are_not_changed_by_training():
    state = begin()
    before = state.task.splits["train"].points.clone()
    train.train(state)
    assert torch.equal(before, state.task.splits["train"].points)


def test_hooks_are_called_before_training_and_after_every_epoch():
    epochs = []
    train.train(begin(), [lambda state: epochs.append(state.epoch)])
    assert epochs == [0, 1, 2, 3, 4]


def test_frozen_parameters_stay_and_are_not_in_the_optimizer():
    net = Tiny()
    net.layer1.weight.requires_grad_(False)
    before = net.layer1.weight.clone()
    state = train.train(begin(net=net))
    inside = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert id(net.layer1.weight) not in inside
    assert torch.equal(before, net.layer1.weight)
    assert "layer1.weight" not in store.learned_tensors(net)


def test_norms_and_biases_are_decayed_by_the_original_alone():
    net = Tiny()
    (every,) = build_optimizer(net, SPEC.but(protocol="released")).param_groups
    assert len(every["params"]) == len(list(net.parameters())) and every["weight_decay"] > 0
    decayed, plain = build_optimizer(net, SPEC).param_groups
    assert {id(p) for p in decayed["params"]} == {id(net.layer1.weight), id(net.fc.weight)}
    assert decayed["weight_decay"] == SPEC.weight_decay and plain["weight_decay"] == 0


def test_a_loss_that_is_not_a_number_is_an_error_that_names_epoch_and_rate():
    net = Tiny()
    net.fc.bias.data.fill_(math.nan)
    with pytest.raises(train.Diverged, match="epoch 1, step 0, at a learning rate of"):
        train.train(begin(net=net))


def test_the_test_split_is_measured_while_training_only_if_released():
    clean = train.train(begin())
    released = train.train(begin(SPEC.but(protocol="released")))
    assert "test_top1" not in clean.history[0]
    assert 0 <= released.history[0]["test_top1"] <= 1


def test_evaluating_leaves_the_mode_alone_and_gives_the_same_twice():
    state = begin()
    state.net.train()
    first = evaluate(state.net, state.task.splits["test"].points, SPEC)
    second = evaluate(state.net, state.task.splits["test"].points, SPEC)
    assert state.net.training
    assert torch.equal(first, second)


def test_one_cycle_rises_to_the_rate_and_falls_to_almost_nothing():
    rates = [learning_rate(SPEC, step, 25) for step in range(100)]
    assert rates[0] == pytest.approx(SPEC.lr / 25)
    assert max(rates) == pytest.approx(SPEC.lr)
    assert rates.index(max(rates)) == 30
    assert rates[-1] < SPEC.lr / 100


def test_the_originals_cosine_swings_while_the_right_one_falls():
    right = SPEC.but(schedule="cosine", epochs=100)
    slip = SPEC.but(schedule="cosine_per_iteration", epochs=100)
    fall = [learning_rate(right, step, 3) for step in range(300)]
    swing = [learning_rate(slip, step, 3) for step in range(300)]
    assert fall == sorted(fall, reverse=True)
    assert swing[0] == swing[200] == SPEC.lr and swing[100] == pytest.approx(0)


def test_a_last_batch_of_one_joins_the_batch_before_it():
    sizes = [len(part) for part in train.batches(torch.arange(17), 8)]
    assert sizes == [8, 9]
    assert sorted(torch.cat(list(train.batches(torch.arange(17), 8))).tolist()) == list(range(17))


def test_a_limit_takes_the_first_of_every_class_in_turn():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert stratified_first(labels, 4).tolist() == [0, 1, 3, 5]
    assert stratified_first(labels, None).tolist() == list(range(6))


def test_seeds_of_different_purposes_differ_and_do_not_change():
    assert task.seed_for(0, "epoch", 1) != task.seed_for(0, "epoch", 2)
    assert task.seed_for(0, "epoch", 1) != task.seed_for(1, "epoch", 1)
    assert task.seed_for(0, "inflate") == 1415974577587682561


def test_splits_follow_points_limits_and_shots_of_the_spec():
    spec = RunSpec(points=128, train_limit=20, test_limit=10)
    splits = load_splits(spec)
    assert splits.train.points.shape == (20, 128, 3)
    assert len(splits.val) == len(splits.test) == 10
    few = load_splits(RunSpec(points=128, shots=2, episode=1))
    assert few.train.labels.bincount().tolist() == [2] * len(few.class_names)


def test_more_points_than_a_cloud_holds_is_an_error():
    with pytest.raises(ValueError, match="points=99999, but clouds of home_objects hold"):
        load_splits(RunSpec(points=99_999))


class OnPoints(nn.Module):
    """A network on points as the loop expects them: two blocks of tokens, then their mean."""

    i2p_input = "points"
    i2p_classifier = "fc"

    def __init__(self, num_classes: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.blocks = nn.Sequential(nn.Linear(3, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 8)))
        self.fc = nn.Linear(8, num_classes)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=random) - 0.5
        self.i2p_roles = {name: "backbone" for name, _ in self.named_parameters()}

    def forward(self, points):
        return self.fc(self.blocks(points).amax(1))


def blocks_on_points(num_classes, weights="random", seed=0, weights_dir=None, up="z"):
    return OnPoints(num_classes, seed)


@pytest.fixture
def on_points(monkeypatch):
    monkeypatch.setitem(models.point_models(), "blocks_on_points", __name__)
    return INFLATED.but(model="blocks_on_points", probe_epochs=(1,), train_limit=64, test_limit=32)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_network_on_points_gets_the_points_and_trains(on_points, amp):
    state = begin_named(on_points.but(amp=amp), CPU)
    points = state.task.splits["train"].points[:2]
    assert net_input(state.net, points, state.task.settings) is points
    before = state.net.fc.weight.clone()
    train.train(state)
    assert not torch.equal(before, state.net.fc.weight)
    assert state.history[0]["voxels"] == on_points.points
    layers = list(dict.fromkeys(row["layer"] for row in state.probes))
    assert layers == ["blocks.0", "blocks.1", "penultimate"] == [*stage_names(state.net), layers[2]]
    assert state.task.finish(state).tensors["features"]["train_features"].shape == (64, 8)


def test_tokens_and_maps_are_averaged_and_other_shapes_refused():
    tokens = torch.rand(2, 5, 3)
    assert torch.equal(pooled(tokens), tokens.mean(1))
    maps = torch.rand(2, 3, 4, 5)
    assert torch.equal(pooled(maps), maps.mean((2, 3)))
    with pytest.raises(ValueError, match=r"got .*2, 3, 4, 5, 1"):
        pooled(maps[..., None])


def one_step(spec: RunSpec, device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return logits and gradients of a run's first step, on the CPU."""
    state = begin_named(spec, torch.device(device))
    for module in state.net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # devices have their own random numbers for it
    _, _, _, (points, labels), _ = next(train.steps(state.task, 1))
    assert points.device.type == device
    x = net_input(state.net, points, spec)
    logits = logits_of(state.net.train(), x, spec)
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, labels.to(device)).backward()
    grads = {n: p.grad.cpu() for n, p in state.net.named_parameters() if p.requires_grad}
    return logits.detach().cpu(), grads


def largest_difference(one, other) -> float:
    """Return the largest relative difference of logits and of each gradient, as norms.

    A gradient is measured against at least a thousandth of the largest one: those in front of a
    batch norm are zero but for rounding.
    """
    pairs = [(one[0], other[0])], [(one[1][name], other[1][name]) for name in one[1]]
    worst = 0.0
    for group in pairs:
        floor = 1e-3 * max(float(b.norm()) for _, b in group)
        worst = max(worst, *(float((a - b).norm()) / max(float(b.norm()), floor) for a, b in group))
    return worst


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_lite0"])
def test_a_step_in_bfloat16_is_near_the_one_in_float32(model):
    """Rounding each layer's output alone moves Lite0's logits by 5 %, its weights by as much."""
    spec = INFLATED.but(model=model, init="inflated")
    exact, rough = one_step(spec, "cpu"), one_step(spec.but(amp="bf16"), "cpu")
    assert 1e-4 < float((rough[0] - exact[0]).norm() / exact[0].norm()) < 0.25
    direction = [torch.cat([g.flatten() for g in step[1].values()]) for step in (rough, exact)]
    assert torch.cosine_similarity(*direction, dim=0) > 0.8


def test_evaluation_has_the_precision_of_the_training():
    spec = INFLATED.but(amp="bf16")
    state = begin_named(spec, CPU)
    points = state.task.splits["val"].points
    rough = evaluate(state.net, points, spec)
    exact = evaluate(state.net, points, spec.but(amp="off"))
    assert 1e-4 < float((rough - exact).norm() / exact.norm()) < 0.1


@needs_gpu
@pytest.mark.parametrize("model", ["resnet18", "efficientnet_lite0"])
def test_a_step_on_a_gpu_is_the_step_on_the_cpu(model):
    spec = INFLATED.but(model=model)
    assert largest_difference(one_step(spec, "cuda"), one_step(spec, "cpu")) < 1e-3


@needs_gpu
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_run_on_a_gpu_gives_the_same_bits_twice(amp):
    steps = [one_step(INFLATED.but(amp=amp), "cuda") for _ in range(2)]
    assert largest_difference(*steps) == 0


@needs_gpu
def test_a_short_run_of_the_gpu_profiles_settings_ends_with_its_numbers(tmp_path):
    from i2p_lib.runs.profiles import load_profile

    (spec, *_) = load_profile("gpu").experiment("regimes")
    spec = spec.but(
        data="home_objects", epochs=2, probe_epochs=(0, 2), train_limit=64, test_limit=32
    )
    result = run(spec, store=tmp_path, progress=False, device="cuda")
    assert 0 <= result.metrics["top1"] <= 1 and list(result.history["epoch"]) == [1, 2]


def test_the_step_on_the_cpu_is_the_same_twice():
    assert largest_difference(one_step(INFLATED, "cpu"), one_step(INFLATED, "cpu")) == 0
