"""Learning from a teacher's answers instead of labels (paper notes 3.3, semi-supervised)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def distillation_loss(
    student: Tensor, teacher: Tensor, kind: Literal["hard", "soft"], temperature: float | None
) -> Tensor:
    """Return the mean loss of student logits [B, C] against teacher logits [B, C].

    hard: cross entropy with the teacher's most likely class.
    soft: cross entropy between both distributions at `temperature` T, times T squared, so that
    its gradients keep their size whatever T is (Hinton et al., 2015).
    """
    if kind == "hard":
        return cross_entropy(student, teacher.argmax(1))
    wanted = (teacher / temperature).softmax(1)
    return cross_entropy(student / temperature, wanted) * temperature**2


@torch.no_grad()
def teacher_answers(teacher: nn.Module, x: object) -> Tensor:
    """Return the logits of a teacher, which must be in eval mode: its norms must not learn."""
    if teacher.training:
        raise ValueError("the teacher is in training mode: call teacher.eval() first")
    return teacher(x)
