"""07: random streams, few-shot draws, the order of an epoch, and distillation."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from i2p_lib.data import few_shot_episode
from i2p_lib.train.classify import distillation_loss, teacher_answers
from i2p_lib.train.loop import order_of
from i2p_lib.train.settings import ClassifySettings
from i2p_lib.train.task import generator
from tests.golden.items import item
from tests.golden.original import apart, golden, tensor, unlike

FILE = "07_fewshot_distill_rng"
RELEASED = ClassifySettings(protocol="released", distill="hard")


@item("07 random streams", 1e-15)
def streams() -> float:
    """First numbers and permutations of random, numpy and torch for seeds 0, 1 and 777: this
    machine's generators are the original's."""
    apart_by = 0.0
    for seed in (0, 1, 777):
        python, old = random.Random(seed), np.random.RandomState(seed)
        drawn = torch.Generator().manual_seed(seed)
        for name, ours in (
            ("py", [python.random() for _ in range(4)]), ("np", old.rand(4)),
            ("torch", torch.rand(4, generator=drawn)),
            ("perm", old.permutation(8)),
            ("torchperm", torch.randperm(8, generator=drawn)),
        ):  # fmt: skip
            apart_by = max(apart_by, apart(ours, golden(FILE)[f"rng_{name}_{seed}"]))
    return apart_by


@item("07 few-shot draws", unit="of 1,920 clouds")
def draws() -> float:
    """The clouds of 1, 5 and 10 shots for seeds 0, 1 and 777, in order, of the first process."""
    data, apart_by = golden(FILE), 0
    for seed in (0, 1, 777):
        for shots in (1, 5, 10):
            ours = few_shot_episode(data["labels"].ravel(), shots, seed, RELEASED.rules.draws)
            apart_by += unlike(ours, data[f"seed{seed}_shot{shots}_ids"].ravel())
    return apart_by


@item("07 shots of each class", unit="classes")
def shots() -> float:
    """How many clouds of each class are drawn."""
    data, apart_by = golden(FILE), 0.0
    for count in (1, 5, 10):
        labels = data["labels"].ravel()
        ours = np.bincount(labels[few_shot_episode(labels, count, 0)], minlength=40)
        theirs = np.bincount(data[f"seed0_shot{count}_labels"].ravel(), minlength=40)
        apart_by += unlike(ours, theirs)
    return apart_by


@item("07 order of an epoch", unit="of 30 places")
def order() -> float:
    """The order of ten items in the first three epochs, one process."""
    apart_by = 0.0
    for epoch in range(3):
        ours = order_of(10, epoch + 1, generator(0, "epoch", epoch + 1), RELEASED)
        apart_by += unlike(ours, golden(FILE)[f"sampler_epoch{epoch}"])
    return apart_by


@item("07 distillation", 1e-6)
def distillation() -> float:
    """Loss and gradient of the student's logits for given ones of the teacher, whose mode is that
    of training."""
    student = tensor(FILE, "distill_student").requires_grad_()
    teacher = nn.Identity().eval()
    answers = teacher_answers(teacher, tensor(FILE, "distill_teacher"), RELEASED)
    loss = distillation_loss(student, answers, "hard", None)
    loss.backward()
    wrong = unlike(answers.argmax(1), golden(FILE)["distill_pseudo_label_as_released"])
    return max(wrong, not teacher.training, apart(loss[None], golden(FILE)["distill_loss"]),
               apart(student.grad, golden(FILE)["distill_grad"]))  # fmt: skip
