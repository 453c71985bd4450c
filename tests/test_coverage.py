"""Every image classifier of torchvision is inflated with its proof, or refused with its reason.

The small and medium ones are run here: logits and gradients on an extruded image, and a training
step. The large ones, and the smallest network of each of timm's modules, were run for the committed
tables, which must name all that the installed libraries have.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.coverage import (
    BORDER,
    EXACT,
    FAMILIES,
    FORWARD,
    INFLATED,
    MOST_DOUBLES,
    REFUSED,
    TOLERANCE,
    WRONG,
    backward,
    compare,
    enliven,
    examine,
    family,
    torchvision_classifiers,
    training_step,
    without_data,
)
from benchmarks.networks import networks
from i2p_lib.inflation import inflate
from i2p_lib.weights import image_model

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MEMBERS = pd.read_csv(RESULTS / "model_coverage-torchvision.csv", keep_default_na=False)
TIMM = pd.read_csv(RESULTS / "model_coverage-timm.csv", keep_default_na=False)
CONVOLUTIONAL = MEMBERS[MEMBERS["verdict"] != REFUSED]
TINY, SMALL, MEDIUM = 2_000_000, 4_000_000, 30_000_000  # parameters
"""What is run here; all together takes about a minute of one core."""
COMMAND = ("run: python benchmarks/model_coverage.py {0} "
           "--output benchmarks/results/model_coverage-{0}.csv")


def small_and_medium() -> list[str]:
    """All small members, and the smallest of each family as far as it is medium."""
    smallest = CONVOLUTIONAL.groupby("family")["parameters"].transform("min")
    chosen = CONVOLUTIONAL["parameters"] <= smallest.clip(lower=SMALL).clip(upper=MEDIUM)
    return CONVOLUTIONAL.loc[chosen, "model"].tolist()


def test_the_table_names_every_classifier_and_family_of_torchvision():
    missing = set(torchvision_classifiers()) ^ set(MEMBERS["model"])
    assert not missing, COMMAND.format("torchvision")
    assert MEMBERS["model"].is_unique
    assert set(MEMBERS["family"]) == set(FAMILIES.values())


def test_the_table_names_a_network_of_every_module_of_timm():
    import timm

    stated = dict(zip(TIMM["family"], TIMM["model"], strict=True))
    assert set(timm.list_modules()) <= set(stated), COMMAND.format("timm")
    assert all(stated[module] in timm.list_models(module=module) for module in timm.list_modules())


@pytest.mark.parametrize("members", [MEMBERS, TIMM], ids=["torchvision", "timm"])
def test_every_network_was_run_and_is_right_or_is_refused_with_its_reason(members):
    refused = members["verdict"] == REFUSED
    assert members.loc[refused, "reason"].str.match(r"[\w.]+: |the model").all()
    assert members.loc[~refused, "verdict"].isin([EXACT, BORDER, FORWARD]).all()
    for dtype, ran in members[~refused].groupby("dtype"):
        bound = TOLERANCE[getattr(torch, dtype)]
        figures = ["deviation", "gradient"] if dtype == "float64" else ["deviation"]
        assert (ran[figures].astype(float) <= bound).all(axis=None)
        assert (ran["parameters"] > MOST_DOUBLES).all() == (dtype == "float32")
        assert ran["verdict"].eq(FORWARD).all() == (dtype == "float32")


def test_all_convolutional_families_of_torchvision_are_inflated_and_only_attention_is_refused():
    refused = MEMBERS[MEMBERS["verdict"] == REFUSED]
    assert set(refused["family"]) == {"ViT", "Swin", "Swin V2", "MaxViT"}
    assert refused["reason"].str.contains("attention").all()


@pytest.mark.parametrize("name", torchvision_classifiers())
def test_every_classifier_is_inflated_or_refused_as_the_table_says(name):
    import torchvision

    with without_data():
        model = torchvision.models.get_model(name)
    found = examine(model, "torchvision", family(name), name)
    stated = MEMBERS.set_index("model").loc[name]
    assert found.verdict == (REFUSED if stated["verdict"] == REFUSED else INFLATED)
    assert (found.parameters, found.reason) == (stated["parameters"], stated["reason"])


@pytest.mark.parametrize("name", small_and_medium())
def test_logits_and_gradients_equal_the_image_networks_and_a_step_reaches_every_parameter(name):
    found = examine(image_model(name, "random"), "torchvision", family(name), name)
    stated = MEMBERS.set_index("model").loc[name]
    assert (found.verdict, found.reason) == (stated["verdict"], "")


@pytest.mark.parametrize("name", TIMM.loc[
    (TIMM["verdict"] != REFUSED) & (TIMM["parameters"] < TINY), "model"])  # fmt: skip
def test_the_smallest_of_timms_networks_are_what_the_table_says(name):
    stated = TIMM.set_index("model").loc[name]
    found = examine(image_model(name, "random"), "timm", stated["family"], name)
    assert (found.verdict, found.reason) == (stated["verdict"], "")


def test_the_page_says_what_the_tables_hold(tmp_path):
    page = networks()
    ran = CONVOLUTIONAL["model"].count()
    assert f"lists {len(MEMBERS)} classifiers: {ran} in 18 families were inflated" in page
    covered = TIMM[TIMM["verdict"] != REFUSED]
    assert f"each of its {len(TIMM)} modules was tried: {len(covered)} were inflated" in page
    assert all(f"<code>{name}</code>" in page for name in {*MEMBERS["model"], *TIMM["model"]})
    for library, members in (("torchvision", MEMBERS), ("timm", TIMM)):
        members.assign(reason="stem: <b> is no layer").to_csv(
            tmp_path / f"model_coverage-{library}.csv", index=False)
    changed = networks(tmp_path)
    assert "<b>" not in changed and "stem: &lt;b&gt; is no layer" in changed
    assert "for their attention" in page and "for their attention" not in changed


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


class Doubled(nn.Module):
    """On sites it is twice what it is on images."""

    def forward(self, x):
        return x if isinstance(x, torch.Tensor) else x + x


class BlockedGradient(torch.autograd.Function):
    """The right value with twice the gradient, on sites alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class WrongGradient(nn.Module):
    def forward(self, x):
        return x if isinstance(x, torch.Tensor) else x.replace(BlockedGradient.apply(x.feats))


class Detached(nn.Module):
    """Without a gradient in training, on sites alone."""

    def forward(self, x):
        return x.replace(x.feats.detach()) if self.training and hasattr(x, "feats") else x


@pytest.mark.parametrize("layer, reason", [
    (Doubled(), "the logits deviate"), (WrongGradient(), "the gradient deviates"),
    (Detached(), "0.weight: no finite gradient in a training step"), (nn.Identity(), ""),
])  # fmt: skip
def test_a_network_with_a_wrong_layer_is_called_wrong_with_its_fault(layer, reason):
    model = pooled(nn.Conv2d(3, 3, 3, padding=1), layer)
    found = examine(model, "none", "none", "none")
    assert found.verdict == (WRONG if reason else EXACT)
    assert found.reason.endswith(reason) and bool(found.reason) == bool(reason)


def test_gradients_are_shown_once_and_not_kept():
    net = inflate(pooled(nn.Conv2d(3, 3, 3, padding=1)), 3, 3)
    found = training_step(pooled(nn.Conv2d(3, 3, 3, padding=1)))
    assert set(found) == {name for name, _ in net.named_parameters()}
    assert all(0 < size < 10 for size in found.values())
    layer, seen = nn.Linear(3, 2), []
    backward(layer, layer(torch.ones(1, 3)).sum(), lambda name, grad: seen.append((name, grad)))
    assert {name: grad.tolist() for name, grad in seen} == {
        "weight": [[1.0] * 3] * 2, "bias": [1.0] * 2}
    assert layer.weight.grad is None and not layer.weight._post_accumulate_grad_hooks


def test_in_single_precision_the_logits_alone_are_compared():
    model = enliven(image_model("shufflenet_v2_x0_5", "random"))
    found = compare(model)
    assert 1e-9 < found.deviation < TOLERANCE[torch.float32]
    assert found.gradient is None
