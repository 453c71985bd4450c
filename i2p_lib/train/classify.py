"""The task of naming a cloud: its splits, what a network sees of them, loss and accuracy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2p_lib.analysis.collapse import layer_reports
from i2p_lib.analysis.taps import PENULTIMATE, classifier_weight, stage_names
from i2p_lib.data import augment, dataset_card
from i2p_lib.inflation import inflate, initialize, match_norms
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models import is_point_model, point_model
from i2p_lib.models.res16 import is_pointcontrast, load_pointcontrast
from i2p_lib.sparse import SparseTensor
from i2p_lib.train.clouds import CPU, Splits, evaluate, features, load_splits, logits_of, net_input
from i2p_lib.train.settings import ClassifySettings
from i2p_lib.train.task import Kept, NamedRun, draw_weights, generator
from i2p_lib.weights import image_model

if TYPE_CHECKING:
    from i2p_lib.train.loop import State


def probe(state: State) -> None:
    """At the settings' probe epochs, measure the collapse of every stage on train and test.

    Classes with a single cloud have no variance and are left out; a split without two larger
    classes (one shot) gives no rows.
    """
    for name in ("train", "test") if state.epoch in state.task.settings.probe_epochs else ():
        split = state.task.splits[name]
        net, settings = state.net, state.task.settings
        layers, logits = features(net, split.points, settings, stage_names(net))
        found = layer_reports(layers, split.labels, classifier_weight(net), logits)
        where = {"epoch": state.epoch, "split": name}
        state.probes += [where | row for row in found.to_dict("records")]


class Classify:
    """One class for each cloud, see `Task`.

    splits: on the device that trains.  teacher: a network whose answers are learned instead of
    labels, where the settings say `distill`; a student is given it before it trains.
    """

    score, least, hooks = "top1", 2, (probe,)
    teacher: nn.Module | None = None

    def __init__(self, settings: ClassifySettings, splits: Splits) -> None:
        self.settings, self.splits, self.class_names = settings, splits.used, splits.class_names

    def batch(self, items: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented points [B, P, 3] and labels [B]."""
        data = self.splits["train"]
        return augment(data.points[items], random, self.settings.augment), data.labels[items]

    def encode(
        self, net: nn.Module, batch: tuple[Tensor, Tensor], part: slice, random: torch.Generator
    ) -> tuple[SparseTensor | Tensor, Tensor]:
        """Return the network's input and labels of a part of a batch."""
        points, labels = batch
        return net_input(net, points[part], self.settings), labels[part].to(points.device)

    def loss(
        self, net: nn.Module, x: SparseTensor | Tensor, targets: Tensor
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return a batch's mean loss, clouds, hits, and voxels (points, of a point network).

        What is missed is the labels or, with a teacher, the teacher's answers.
        """
        logits, settings = logits_of(net, x, self.settings), self.settings
        if self.teacher is None:
            loss = cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        else:
            answers = teacher_answers(self.teacher, x, settings)
            loss = distillation_loss(logits, answers, settings.distill, settings.temperature)
        right = (logits.argmax(1) == targets).sum()
        places = len(x.coords) if isinstance(x, SparseTensor) else x[..., 0].numel()
        return loss, len(targets), {"train_top1": right, "voxels": places}

    def measure(self, net: nn.Module, split: str) -> dict[str, float]:
        """Return the mean loss and the accuracy of a split."""
        points, labels = self.splits[split].points, self.splits[split].labels
        logits = evaluate(net, points, self.settings)
        right = (logits.argmax(1) == labels).double()
        return {"loss": float(cross_entropy(logits, labels)), "top1": float(right.mean())}

    def named(self, items: Tensor) -> str:
        """Return the numbers of clouds among the training split."""
        return f"training clouds {', '.join(map(str, items.tolist()))}"

    def finish(self, state: State) -> Kept:
        """Return accuracies, probes, and the features and logits of train and test."""
        kept, metrics = {}, {}
        for name, split in self.splits.items():
            if name == "val":
                continue
            layers, logits = features(state.net, split.points, self.settings, [])
            right, labels = (logits.argmax(1) == split.labels).double(), split.labels
            metrics["train_top1" if name == "train" else "top1"] = float(right.mean())
            if name == "test":
                per_class = [right[labels == c].mean() for c in labels.unique()]
                metrics["mean_class_accuracy"] = float(torch.stack(per_class).mean())
            kept[f"{name}_features"] = _compact(layers[PENULTIMATE])
            kept |= {f"{name}_logits": _compact(logits), f"{name}_labels": labels.clone()}
        columns = ["epoch", "split", "layer", "metric", "value"]
        probes = pd.DataFrame(state.probes, columns=columns)
        return Kept(metrics, {"probes": probes}, {"features": kept})


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
def teacher_answers(teacher: nn.Module, x: object, settings: ClassifySettings) -> Tensor:
    """Return the logits of a teacher, which is in eval mode: its norms do not learn.

    The decision `teacher` "cut" repeats the original (core/distill.py, _run_step): its teacher
    stays in training mode, and hard labels are made of logits that were cut to integers, of which
    the first of equals wins.
    """
    cut = settings.rules.teacher == "cut"
    logits = teacher.train(cut)(x)
    return logits.trunc() if cut and settings.distill == "hard" else logits


def _compact(values: Tensor) -> Tensor:
    """Return floats as float16, or as they are where one is too large for it."""
    half = values.half()
    return half if torch.isfinite(half).all() else values


def build_network(spec: NamedRun, num_classes: int) -> nn.Module:
    """Return the network of a spec on the CPU, with its regime's parameters frozen.

    Networks on points are built as they are, image networks are inflated; PointContrast's kernels
    are 3D and come afterwards.
    """
    if is_point_model(spec.model):
        up = dataset_card(spec.data).up
        net = point_model(spec.model, num_classes, spec.weights, spec.seed, up=up)
    else:
        on_points = is_pointcontrast(spec.model, spec.weights)
        net = (_inflated(spec, "random", num_classes) if on_points else
               _inflated(spec, spec.weights, num_classes, spec.weights_except))
        draw_weights(net, spec)
        if on_points:
            load_pointcontrast(net, spec.weights, spec.rules.taps,
                               weights_except=spec.weights_except)
        if spec.norms == "torchsparse":
            initialize(reference := copy.deepcopy(net), spec.norms, generator(spec.seed, "norms"))
            match_norms(net, reference)
        elif spec.norms is not None:
            match_norms(net, _inflated(spec, spec.norms, num_classes))
    freeze(net, spec.regime)
    return net


def _inflated(
    spec: NamedRun, weights: str, num_classes: int, weights_except: Sequence[str] = ()
) -> nn.Module:
    return inflate(
        image_model(spec.model, weights, spec.seed, weights_except=weights_except),
        in_channels=dataset_card(spec.data).channels,
        num_classes=num_classes,
        axis=spec.axis,
        normalize=spec.normalize,
        recipe=spec.recipe,
        generator=generator(spec.seed, "inflate"),
    )


def task_of(spec: NamedRun, device: torch.device = CPU) -> Classify:
    """Return the task of a named run, its splits loaded onto a device."""
    return Classify(spec, load_splits(spec, device))
