"""The optimizer, and the learning rate of every step."""

from __future__ import annotations

import math

import torch
from torch import nn

from i2p_lib.train.settings import Settings


def build_optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer over what is trained; norms and biases get no weight decay.

    With the decision `decay` "everything" they do, in one group of all, as in the original code
    (core/builder.py, make_optimizer; it is built before freezing, but what gets no gradient is
    skipped).  SGD has momentum 0.9; without Nesterov on ModelNet40, as in the original code.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    least = 2 if settings.rules.decay == "weights" else 0  # dimensions of what decays
    groups = [
        {"params": [p for p in trained if p.ndim >= least], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < least], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=settings.nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def learning_rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step `step` (from 0): a pure function, so nothing to save.

    one_cycle: lr/25 up to lr within the share `warmup`, then a cosine down to lr/250000.
    cosine: from lr down to 0 over all steps.
    cosine_per_iteration: the original code's slip, a cosine whose half period is `epochs`
    *iterations*, so it swings up and down many times (core/trainers.py).
    poly: lr (1 - t) ** 0.9 over all steps (configs/s3dis).
    warmup_cosine: linear over `warmup_steps`, then a cosine towards 0 (SemanticKITTI).
    Where the decision `end` is "later", poly counts one step more, and the cosine is as long as
    without its warm-up, as in the original code (core/builder.py, core/schedulers.py).
    """
    lr, total = settings.lr, max(1, settings.epochs * steps_per_epoch)
    later = settings.rules.end == "later"
    match settings.schedule:
        case "cosine":
            return _cosine(lr, 0.0, step / total)
        case "cosine_per_iteration":
            return _cosine(lr, 0.0, step / settings.epochs)
        case "poly":
            return lr * (1 - step / (total + later)) ** 0.9
        case "warmup_cosine":
            if step < settings.warmup_steps:
                return lr * (step + 1) / settings.warmup_steps
            rest = total if later else max(1, total - settings.warmup_steps)
            return _cosine(lr, 0.0, (step - settings.warmup_steps) / rest)
    rise = settings.warmup * total
    if step < rise:
        return _cosine(lr / 25, lr, step / rise)
    return _cosine(lr, lr / 250_000, (step - rise) / (total - rise))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
