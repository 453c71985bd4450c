"""The task of naming every point of a scene: its scenes, their encoding, loss and mIoU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from i2p_lib.analysis import segmentation
from i2p_lib.data.scene_transforms import SceneAugment, augment_scene
from i2p_lib.data.scenes import IGNORED, Scene, load_scenes, scene_card
from i2p_lib.inflation.regimes import freeze
from i2p_lib.models.encodings import Encoding, ReleasedVoxels
from i2p_lib.models.segmenters import encoding_for, segmenter
from i2p_lib.train import team
from i2p_lib.train.settings import PROTOCOLS, Protocol, SegmentSettings
from i2p_lib.train.task import Kept, NamedRun, draw_weights

if TYPE_CHECKING:
    from i2p_lib.train.loop import State

CPU = torch.device("cpu")
KEPT_SCENES, KEPT_POINTS = 3, 20_000


@dataclass
class Segment:
    """A class for every point of a scene, see `Task`.

    splits: "train", "val" and, where the run may read it, "test"; a scene is read when it is used,
    and only those of one batch are in memory.
    augment: what training changes; None leaves scenes alone.
    counted: only the points of so many classes are counted.
    absent: the rule of the mIoU for classes without points, see `mean_iou`.
    """

    score, least, hooks = "miou", 1, ()

    settings: SegmentSettings
    splits: Mapping[str, Sequence[Scene]]
    class_names: Sequence[str]
    encoding: Encoding
    augment: SceneAugment | None = None
    device: torch.device = CPU
    counted: float = math.inf
    absent: Literal["skipped", "perfect"] = "skipped"

    def batch(self, items: Tensor, random: torch.Generator) -> list[Scene]:
        """Return augmented scenes."""
        scenes = [self.splits["train"][item] for item in items.tolist()]
        return [augmented(scene, random, self.augment) for scene in scenes]

    def encode(
        self, net: nn.Module, batch: list[Scene], part: slice, random: torch.Generator
    ) -> tuple[Any, Tensor]:
        """Return the network's input and the targets of its answers."""
        self._points = sum(len(scene.points) for scene in batch[part])
        seeds = torch.randint(2**62, (len(batch),), generator=random)[part].tolist()
        each = [torch.Generator().manual_seed(seed) for seed in seeds]
        return self.encoding.encode(batch[part], self.device, each)

    def loss(
        self, net: nn.Module, x: Any, targets: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return the mean loss of the targets that count, their number, and the scenes' points."""
        loss, number = masked_cross_entropy(net(x), targets), (targets != IGNORED).sum()
        return loss, number, {"points": self._points}

    def measure(self, net: nn.Module, split: str) -> dict[str, float]:
        """Return the mIoU and the accuracy of a split over all original points."""
        confusion = self.confusions(net, self.splits[split]).sum(0)
        return {
            "miou": segmentation.mean_iou(confusion, self.absent),
            "accuracy": segmentation.accuracy(confusion),
        }

    def named(self, items: Tensor) -> str:
        """Return the names of scenes."""
        return ", ".join(self.splits["train"][item].name for item in items.tolist())

    def finish(self, state: State) -> Kept:
        """Return the measures of the test split, its confusion matrices and a few of its scenes.

        Where test is never read, matrices and scenes are those of val.
        """
        split = "test" if "test" in self.splits else "val"
        by_scene, metrics = self.confusions(state.net, self.splits[split]), {}
        confusion = by_scene.sum(0)
        if split == "test":
            metrics = {
                "miou": segmentation.mean_iou(confusion, self.absent),
                "miou_absent_perfect": segmentation.mean_iou(confusion, "perfect"),
                "accuracy": segmentation.accuracy(confusion),
                "mean_class_accuracy": segmentation.mean_class_accuracy(confusion),
            }
        counts = pd.DataFrame(confusion, columns=self.class_names)
        shown = self.kept_scenes(state.net, limited(self.splits[split], KEPT_SCENES))
        matrices = {"counts": torch.from_numpy(by_scene)}
        return Kept(metrics, {"confusion": counts}, {"scenes": shown, "confusions": matrices})

    def classes_of(self, net: nn.Module, scene: Scene) -> np.ndarray:
        """Return the predicted class of each of the scene's own points, int64 [N]."""
        return self.encoding.predict(net, scene, self.device).argmax(1).cpu().numpy()

    def confusions(self, net: nn.Module, scenes: Sequence[Scene]) -> np.ndarray:
        """Return counts of all original points of each scene, int64 [scenes, classes, classes].

        Processes that train together share out the scenes, and all get the whole answer.
        """
        classes = len(self.class_names)
        found = np.zeros((len(scenes), classes, classes), np.int64)
        for number in team.shard(range(len(scenes))):
            scene = scenes[number]
            labels = np.where(scene.labels < self.counted, scene.labels, IGNORED)
            found[number] = segmentation.confusion_of(self.classes_of(net, scene), labels, classes)
        return team.total(torch.from_numpy(found)).long().cpu().numpy()

    def kept_scenes(self, net: nn.Module, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """Return predictions for pictures: of each scene at most KEPT_POINTS, evenly thinned.

        Keys are NAME/points [P, 3] float32, NAME/labels and NAME/predictions [P] int16.
        """
        kept = {}
        for scene in scenes:
            found = self.classes_of(net, scene)
            chosen = evenly(len(found), KEPT_POINTS)
            kept |= {
                f"{scene.name}/points": torch.from_numpy(scene.points[chosen]),
                f"{scene.name}/labels": torch.from_numpy(scene.labels[chosen].astype(np.int16)),
                f"{scene.name}/predictions": torch.from_numpy(found[chosen].astype(np.int16)),
            }
        return kept


def augmented(scene: Scene, random: torch.Generator, settings: SceneAugment | None) -> Scene:
    """Return a scene as training sees it; see `augment_scene`."""
    if settings is None:
        return scene
    tensors = torch.from_numpy(scene.points), torch.from_numpy(scene.features)
    points, features, kept = augment_scene(*tensors, random, settings)
    labels = scene.labels[kept.numpy()]
    return replace(scene, points=points.numpy(), features=features.numpy(), labels=labels)


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy over the targets that count; 0 where none of them does.

    logits [M, C], targets [M] int64 with IGNORED.
    """
    total = cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp_min(1)


def limited(scenes: Sequence[Scene], limit: int | None) -> Sequence[Scene]:
    """Return at most so many scenes, taken evenly from the whole sequence."""
    return Subset(scenes, evenly(len(scenes), limit or len(scenes)).tolist())


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most so many of the numbers below `count`, evenly spaced: int64 [min of both]."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def scene_rules(spec: NamedRun) -> Protocol:
    """Return what decides how a run takes its scenes; the original's way is its U-Net's alone."""
    return spec.rules if spec.family == "unet" else PROTOCOLS["clean"]


def build_encoding(spec: NamedRun) -> Encoding:
    """Return the encoding of a spec; voxels count from the scene's middle, or from its sensor."""
    settings, card, rules = spec.encoding_settings, scene_card(spec.scenes), scene_rules(spec)
    if spec.family == "unet":
        settings["centre"] = not card.around_sensor
    if rules.grid == "round":
        most = card.augment.most if rules.cap == "voxels" else None
        return ReleasedVoxels(most=most, **settings)
    return encoding_for(spec.model, **settings)


def build_network(spec: NamedRun, num_classes: int) -> nn.Module:
    """Return the network of a spec on the CPU, with its regime's parameters frozen."""
    net = segmenter(
        spec.model,
        num_classes,
        len(scene_card(spec.scenes).feature_names),
        weights=spec.weights,
        seed=spec.seed,
        **spec.network_settings,
    )
    draw_weights(net, spec)
    freeze(net, spec.regime)
    return net


def task_of(spec: NamedRun, device: torch.device = CPU) -> Segment:
    """Return the task of a named run.  Raises ValueError where a split of it has no scene."""
    card, rules, splits = scene_card(spec.scenes), scene_rules(spec), {}
    encoding = build_encoding(spec)
    augment = None if spec.augment == "none" else card.augment
    if augment and getattr(encoding, "most", None):  # the cap is on its voxels
        augment = replace(augment, most=None)
    released = rules.labels == "released"
    names = card.released_names if released else card.class_names
    for name, file in spec.rules.splits().items():
        limit = spec.train_limit if name == "train" else spec.test_limit
        splits[name] = limited(load_scenes(spec.scenes, file, released=released), limit)
        if not len(splits[name]):
            raise ValueError(f"no scene in the split that is used as {name}")
    return Segment(spec, splits, names, encoding, augment, device, card.classes, rules.absent)
