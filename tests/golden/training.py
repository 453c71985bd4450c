"""05: steps of training from the closed-form weights, in every regime of the original."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.inflation.regimes import freeze
from i2p_lib.train.optimise import build_optimizer, learning_rate
from i2p_lib.train.settings import ClassifySettings
from tests.golden.classification import MODES, ROUNDING, batch, file, leaking, named, network
from tests.golden.items import item
from tests.golden.original import apart, golden, load_closed_form, tensor

SETTINGS = ClassifySettings(protocol="released", optimizer="sgd", lr=0.1, weight_decay=1e-4,
                            epochs=100, schedule="cosine_per_iteration")  # fmt: skip
GROUPS = ("weight decay spares norms and biases; the original's one group decays every trained "
          "parameter")  # fmt: skip


def one_group(net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the library with its groups joined, as the original has them."""
    optimizer = build_optimizer(net, SETTINGS)
    first, *others = optimizer.param_groups
    for group in others:
        first["params"] += group["params"]
    del optimizer.param_groups[1:]
    return optimizer


@cache
def steps(depth: int, mode: str, whole: bool) -> tuple[nn.Module, list[float], list[Tensor]]:
    """The network after some steps, their losses, and the parameters' norms after each.

    whole: whether one group holds all parameters.
    """
    net = leaking(load_closed_form(network(depth), file(depth)))
    freeze(net, MODES[mode])
    optimizer = one_group(net) if whole else build_optimizer(net, SETTINGS)
    net.train()
    x, targets = batch(depth)
    losses, norms = [], []
    for step in range(len(golden(file(depth))[f"{mode}_loss"])):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(SETTINGS, step, 1)
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(net(x), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        values = named(depth, {name: p.detach() for name, p in net.named_parameters()})
        norms.append(torch.stack([value.norm() for value in values]))
    return net, losses, norms


def stepped(depth: int, mode: str, whole: bool) -> float:
    """Losses, norms of all parameters after each step, first entries after the last."""
    net, losses, norms = steps(depth, mode, whole)
    data = file(depth)
    values = named(depth, {name: p.detach() for name, p in net.named_parameters()})
    first = torch.stack([value.flatten()[:4] for value in values])
    return max(apart(losses, golden(data)[f"{mode}_loss"]),
               apart(torch.stack(norms), tensor(data, f"{mode}_param_norm")),
               apart(first, tensor(data, f"{mode}_first4")))  # fmt: skip


def afterwards(depth: int, mode: str) -> float:
    net = steps(depth, mode, True)[0].eval()
    with torch.no_grad():
        return apart(net(batch(depth)[0]), tensor(file(depth), f"{mode}_logits_eval_after"))


for _mode in MODES:
    _count = len(golden(file(18))[f"{_mode}_loss"])

    @item(f"05 SPVCNN18 {_count} steps of {_mode}, one group of decay", ROUNDING)
    def joined(mode: str = _mode) -> float:
        """Losses, norms of all parameters after each step and their first entries at the end,
        where the test joins the optimizer's groups."""
        return stepped(18, mode, True)

    @item(f"05 SPVCNN18 logits after {_count} steps of {_mode}, one group of decay", ROUNDING)
    def after(mode: str = _mode) -> float:
        """Logits in eval mode after the steps, where the test joins the optimizer's groups."""
        return afterwards(18, mode)


@item("05 SPVCNN18 5 steps of all", ROUNDING, differs=GROUPS, by=4.28e-5)
def split() -> float:
    """Losses, norms of all parameters after each step and their first entries at the end."""
    return stepped(18, "all", False)


@item("05 SPVCNN34 5 steps of all, norm on the logits added, one group of decay", ROUNDING)
def smaller() -> float:
    """Losses, norms of all parameters after each step and their first entries at the end."""
    return max(stepped(34, "all", True), afterwards(34, "all"))


@item("05 groups of the optimizer", unit="groups", differs=GROUPS, by=1)
def groups() -> float:
    """How many groups of parameters with their own weight decay there are."""
    theirs = len(golden(file(18))["opt_groups"])
    return abs(len(build_optimizer(network(18), SETTINGS).param_groups) - theirs)
