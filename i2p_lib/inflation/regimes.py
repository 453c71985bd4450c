"""The fine-tuning regimes: which parameters of a network on points are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Regime:
    """What is fine-tuned (paper notes 3.3).

    title: in the names of methods, such as "IO+BN" of "FIP-IO+BN".  roles: of the parameters that
    are trained.  keeps_statistics: whether frozen norm layers keep the statistics of the images
    instead of following the points.
    """

    title: str
    roles: tuple[str, ...]
    keeps_statistics: bool = False


REGIMES: dict[str, Regime] = {
    "io": Regime("IO", ("input", "output"), keeps_statistics=True),
    "io+ms": Regime("IO, moving statistics", ("input", "output")),
    "io+bn": Regime("IO+BN", ("input", "output", "norm")),
    "all": Regime("ALL", ("input", "output", "norm", "backbone")),
}
"""Every regime: the only place where they are listed."""


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor's name is that of one inside some modules."""
    return name.startswith(tuple(f"{module}." for module in modules))


def roles_of(net: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Name of each parameter -> "input" or "output" in those modules, else "norm", "backbone"."""
    norms = {name for name, layer in net.named_modules() if isinstance(layer, NORMS)}

    def role(name: str) -> str:
        if within(name, inputs):
            return "input"
        if within(name, outputs):
            return "output"
        return "norm" if name.rpartition(".")[0] in norms else "backbone"

    return {name: role(name) for name, _ in net.named_parameters()}


@dataclass(frozen=True)
class FrozenReport:
    """What a regime trains and freezes: a row (parameter, role, values, trained) of each tensor."""

    regime: str
    parameters: pd.DataFrame

    @property
    def trained(self) -> int:
        """Number of trained values."""
        return int(self.parameters.loc[self.parameters["trained"], "values"].sum())

    @property
    def total(self) -> int:
        """Number of all values."""
        return int(self.parameters["values"].sum())


def freeze(net: nn.Module, regime: str) -> FrozenReport:
    """Freeze a network, which has ``i2p_roles``, according to a regime (paper, section 3.3).

    Sets ``requires_grad`` of every parameter and, for ``io``, lets the frozen batch norm layers
    use their stored statistics in training as well, whatever ``net.train()`` says later.

    Raises ValueError for an unknown regime, or a network without roles.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}")
    if not hasattr(net, "i2p_roles"):
        raise ValueError("the network has no roles: freeze takes what inflate(...) or "
                         "point_model(...) returns")
    roles, chosen, rows = net.i2p_roles, REGIMES[regime], []
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(roles[name] in chosen.roles)
        rows.append((name, roles[name], parameter.numel(), parameter.requires_grad))
    for name, layer in net.named_modules():
        if isinstance(layer, _BatchNorm):
            frozen = chosen.keeps_statistics and roles.get(f"{name}.weight") == "norm"
            _freeze_statistics(layer, frozen, net.training)
    table = pd.DataFrame(rows, columns=["parameter", "role", "values", "trained"])
    return FrozenReport(regime, table)


def _freeze_statistics(layer: nn.Module, frozen: bool, training: bool) -> None:
    """Let a batch norm use its stored statistics in training, or follow the batches again."""
    if not hasattr(layer, "frozen_stats"):  # a layer of torch itself, which has no such switch
        if not frozen:
            return
        layer.register_forward_pre_hook(_stay_in_eval)
    elif layer.frozen_stats and not frozen:
        layer.train(training)
    layer.frozen_stats = frozen


def _stay_in_eval(layer: nn.Module, inputs: tuple) -> None:
    if layer.frozen_stats:
        layer.eval()
