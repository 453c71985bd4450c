"""The classifier of an image network: which layer it is, and a new one in its place."""

import math
from itertools import takewhile

import torch
from torch import nn

from i2p_lib.inflation.trace import InflationError, Step
from i2p_lib.sparse import SparseBatchNorm

LETS_PASS = (nn.Identity, nn.Flatten, nn.Dropout)


def find_classifier(steps: list[Step]) -> Step | None:
    """The layer that gives an image network's logits; None in one that has none (any more).

    That is the last linear layer or 1x1 convolution, where no layer with parameters and nothing
    that has a height and a width comes behind it, but for the pooling of a convolution's logits.
    """
    place = max(n for n, s in enumerate(steps) if isinstance(s.layer, nn.Linear | nn.Conv2d))
    last, behind = steps[place], steps[place + 1 :]
    others = [step for step in behind if not isinstance(step.layer, nn.Identity)]
    if others and _flat_identities(behind):
        return None  # an Identity took the classifier's place
    if isinstance(last.layer, nn.Linear):
        flat = len(last.shape) == 2 and all(len(step.shape) < 4 for step in behind)
        return last if flat else None
    pooled = last.shape[2:] == (1, 1)
    hidden = pooled and not all(isinstance(step.layer, LETS_PASS) for step in behind)
    bare = all(next(step.layer.parameters(), None) is None for step in behind)
    same = math.prod(steps[-1].shape[1:]) == last.layer.out_channels or not behind
    return last if last.layer.kernel_size == (1, 1) and bare and same and not hidden else None


def new_classifier(net: nn.Module, steps: list[Step], num_classes: int, norm: bool,
                   generator: torch.Generator | None) -> str:  # fmt: skip
    """Put a new linear classifier in its place, with a norm on its logits if asked; its name.

    That is the place of the old one. A model whose logits come from a convolution gets it behind
    the pooling, one without classifier at its end. Raises InflationError where there is no place.
    """
    old = find_classifier(steps)
    if old and isinstance(old.layer, nn.Linear):
        _check_single(old, steps)
        name, features, keeps = old.name, old.layer.in_features, False
    elif old:
        pools = [step.name for step in steps if isinstance(step.layer, nn.AdaptiveAvgPool2d)]
        if not pools:
            raise InflationError(f"{old.name}: the model ends in this convolution, and no pooling "
                                 "layer follows behind which a linear classifier could stand")
        net.set_submodule(old.name, nn.Identity())
        name, features, keeps = pools[-1], old.layer.in_channels, True
    else:
        free, end = _flat_identities(steps), steps[-1]
        if not free and not (len(end.shape) == 2 or end.shape[2:] == (1, 1)
                             or isinstance(end.layer, nn.AdaptiveAvgPool2d)):
            raise InflationError(f"{end.name}: the model ends here without a classifier, and no "
                                 "pooling layer behind which a new one could stand")
        step = free[0] if free else end
        name, features, keeps = step.name, math.prod(step.shape[1:]), not free
    head = nn.utils.skip_init(nn.Linear, features, num_classes)  # draws nothing globally
    with torch.no_grad():
        head.weight.uniform_(-(features**-0.5), features**-0.5, generator=generator)
        head.bias.zero_()
    place = f"{name}.2" if keeps else name
    if norm:
        head = nn.Sequential(head, SparseBatchNorm(num_classes))
        head[1].label = f"{place}.1"
    net.set_submodule(
        name, nn.Sequential(net.get_submodule(name), nn.Flatten(), head) if keeps else head)
    return place


def _flat_identities(steps: list[Step]) -> list[Step]:
    """The layers at the end that do nothing to features [B, F]."""
    return [*takewhile(lambda step: isinstance(step.layer, nn.Identity) and len(step.shape) == 2,
                       reversed(steps))][::-1]  # fmt: skip


def _check_single(last: Step, steps: list[Step]) -> None:
    """InflationError where the logits come from several classifiers (distilled networks)."""
    shape = last.layer.weight.shape
    twins = [step.name for step in steps if step.name != last.name
             and isinstance(step.layer, nn.Linear) and step.layer.weight.shape == shape]
    if twins and last.layer.in_features != last.layer.out_features:
        raise InflationError(f"{last.name}: {twins[-1]} gives logits as well, and only a single "
                             "classifier can be replaced by a new one")
