"""05: steps of training from the closed-form weights, in every regime of the original."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from i2p_lib.inflation.regimes import freeze
from i2p_lib.train.optimise import build_optimizer, learning_rate
from i2p_lib.train.settings import ClassifySettings
from tests.golden.classification import MODES, ROUNDING, batch, file, leaking, named, network
from tests.golden.items import item
from tests.golden.original import apart, golden, load_closed_form, tensor

SETTINGS = ClassifySettings(protocol="released", optimizer="sgd", lr=0.1, weight_decay=1e-4,
                            epochs=100, schedule="cosine_per_iteration")  # fmt: skip


def stepped(depth: int, mode: str) -> float:
    """Losses, norms of all parameters after each step, first entries and logits after the last."""
    net, data = leaking(load_closed_form(network(depth), file(depth))), file(depth)
    freeze(net, MODES[mode])
    optimizer = build_optimizer(net, SETTINGS)
    net.train()
    (x, targets), apart_by = batch(depth), 0.0
    for step, theirs in enumerate(golden(data)[f"{mode}_loss"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(SETTINGS, step, 1)
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(net(x), targets)
        loss.backward()
        optimizer.step()
        values = list(named(depth, {name: p.detach() for name, p in net.named_parameters()}))
        norms = torch.stack([value.norm() for value in values])
        apart_by = max(apart_by, apart(loss, theirs),
                       apart(norms, tensor(data, f"{mode}_param_norm")[step]))  # fmt: skip
    first = torch.stack([value.flatten()[:4] for value in values])
    with torch.no_grad():
        logits = net.eval()(x)
    return max(apart_by, apart(first, tensor(data, f"{mode}_first4")),
               apart(logits, tensor(data, f"{mode}_logits_eval_after")))  # fmt: skip


for _mode in MODES:
    _count = len(golden(file(18))[f"{_mode}_loss"])

    @item(f"05 SPVCNN18 {_count} steps of {_mode}", ROUNDING)
    def steps(mode: str = _mode) -> float:
        """Losses, norms of all parameters after each step, their first entries and the logits in
        eval mode at the end."""
        return stepped(18, mode)


@item("05 SPVCNN34 5 steps of all", ROUNDING)
def smaller() -> float:
    """Losses, norms of all parameters after each step, their first entries and the logits in eval
    mode at the end."""
    return stepped(34, "all")


@item("05 groups of the optimizer", unit="groups")
def groups() -> float:
    """How many groups of parameters with their own weight decay there are."""
    theirs = len(golden(file(18))["opt_groups"])
    return abs(len(build_optimizer(network(18), SETTINGS).param_groups) - theirs)
