"""The roles of a network's parameters, and the regimes: which of them are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Regime:
    """What is fine-tuned (the original's core/builder.py, freeze_parameter).

    title: in the names of methods, such as "IO+BN" of "FIP-IO+BN".  roles: of the parameters that
    are trained.  rate: a learning rate that does well with AdamW and batches of 16 (the book's grid
    on its home objects).  keeps_statistics: whether frozen norm layers keep the statistics of the
    images instead of following the points.
    """

    title: str
    roles: tuple[str, ...]
    rate: float = 1e-3
    keeps_statistics: bool = False


REGIMES: dict[str, Regime] = {
    "io": Regime("IO", ("input", "output"), 1e-2, keeps_statistics=True),
    "io+ms": Regime("IO, moving statistics", ("input", "output"), 3e-2),
    "io+bn": Regime("IO+BN", ("input", "output", "norm"), 3e-2),
    "all": Regime("ALL", ("input", "output", "norm", "backbone"), 3e-3),
}
"""Every regime: the only place where they are listed."""


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor's name is that of one inside some modules."""
    return name.startswith(tuple(f"{module}." for module in modules))


def chosen(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor is one of some parts, which are names of modules or of tensors."""
    return name in parts or within(name, parts)


Shapes = dict[str, tuple[int, ...]]


def shapes(net: nn.Module, prefix: str = "") -> Shapes:
    """Name (behind a prefix) -> shape of every parameter and buffer."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def describe(net: nn.Module, inputs: Sequence[str], outputs: Sequence[str], image: Shapes,
             new: Sequence[str] = (), reshaped: str = "inflated",
             takes: Literal["points", "voxels", "range"] = "points") -> nn.Module:  # fmt: skip
    """Give a network on points its ``i2p_`` attributes and return it.

    Args:
        inputs: modules whose parameters have the role "input".
        outputs: the classifier, and behind it the other modules with the role "output". Of the
            rest, norm layers are "norm" and everything else is "backbone".
        image: names and shapes of the image network's tensors; empty where there was none.
            ``net.i2p_report`` says of each tensor whether it was copied, is new, or was dropped,
            with both shapes.
        new: modules that are new although the image network has some of the same name.
        reshaped: what the report says of an image tensor that has another shape now.
        takes: what the network takes, ``net.i2p_input``.
    """
    points = shapes(net)
    norms = {name for name, layer in net.named_modules() if isinstance(layer, NORMS)}

    def role(name: str) -> str:
        if within(name, inputs) or within(name, outputs):
            return "input" if within(name, inputs) else "output"
        return "norm" if name.rpartition(".")[0] in norms else "backbone"

    def row(name: str) -> dict[str, str]:
        action = "copied" if image.get(name) == points.get(name) else reshaped
        if name not in points:
            action = "dropped"
        elif name not in image or within(name, new):
            action = "new"
        text = ["x".join(map(str, sizes[name])) or "scalar" if name in sizes else ""
                for sizes in (image, points)]  # fmt: skip
        return {"tensor": name, "image": text[0], "points": text[1], "action": action}

    net.i2p_input, net.i2p_classifier = takes, next(iter(outputs), None)
    net.i2p_roles = {name: role(name) for name, _ in net.named_parameters()}
    net.i2p_report = pd.DataFrame([row(name) for name in dict.fromkeys([*image, *points])])
    return net


def freeze(net: nn.Module, regime: str) -> pd.DataFrame:
    """Freeze a network with ``i2p_roles`` (the original: core/builder.py, freeze_parameter).

    Sets ``requires_grad`` of every parameter and, for ``io``, lets the frozen batch norm layers
    use their stored statistics in training as well, whatever ``net.train()`` says later.

    Returns a row (parameter, role, values, trained) of each tensor; "values" counts its numbers.

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
            if not hasattr(layer, "frozen_stats"):  # torch's own layers have no such switch
                layer.register_forward_pre_hook(_stay_in_eval)
            layer.frozen_stats = chosen.keeps_statistics and roles.get(f"{name}.weight") == "norm"
            layer.train(net.training)
    return pd.DataFrame(rows, columns=["parameter", "role", "values", "trained"])


def _stay_in_eval(layer: nn.Module, inputs: tuple) -> None:
    if layer.frozen_stats:
        layer.eval()
