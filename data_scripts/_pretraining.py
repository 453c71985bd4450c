"""Training a network on the images of a file, to the bit the same however often it is cut.

All that a step draws (order, crops, flips) comes from generators seeded by (seed, purpose, number),
so a checkpoint holds tensors, a step and a history, and no state of any generator.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from tqdm.auto import tqdm

from i2p_lib.models.pointnet2 import PIXEL_CHANNELS, PointNet2
from i2p_lib.runs.store import write_csv, write_tensors
from i2p_lib.weights.building import image_model, seeded

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 300
MEAN, DEVIATION = 0.2, 0.5  # of grey values from 0 to 1, as the network takes them
MODELS = ("resnet18", "pointnet2_ssg")
POINTS_ACROSS = 32  # of an image whose pixels are the points of a cloud: 1,024 points


@dataclass(frozen=True)
class Recipe:
    """What decides the result, besides the images; a checkpoint of another recipe is refused.

    crop: pixels across; rate: the highest; warm_up: share of the steps before it.
    data: SHA-256 of the images' file.
    model: one of MODELS; categories: only the first so many (None: all).
    """

    epochs: int
    crop: int
    data: str
    batch: int = 128
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 1e-4
    warm_up: float = 0.05
    seed: int = 0
    model: str = "resnet18"
    categories: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.crop < 16 or not self.rate > 0:
            raise ValueError(f"expected 1 epoch, batch 2, crop 16 and a rate or more: {self}")
        if self.model not in MODELS or (self.categories is not None and self.categories < 2):
            raise ValueError(f"expected one of {', '.join(MODELS)} and 2 categories: {self}")


@dataclass(frozen=True)
class Images:
    """One split in memory: pixels [N, S, S] uint8, labels [N] int64."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def load(cls, path: Path, split: str, categories: int | None = None) -> Images:
        """Read a split of fractals.h5; ValueError where the file has no such content."""
        try:
            with h5py.File(path, "r") as file:
                labels = file[f"{split}/labels"][:]
                chosen = labels < (len(labels) if categories is None else categories)
                return cls(torch.from_numpy(file[f"{split}/images"][:][chosen]),
                           torch.from_numpy(labels[chosen]))  # fmt: skip
        except (OSError, KeyError) as error:
            raise ValueError(f"{path} is no file of build_fractals.py: {error}") from error


@dataclass
class Training:
    """A pretraining under way: the network, its optimizer, and how far it has come.

    step counts batches; sums holds this epoch's loss and right answers so far.
    """

    recipe: Recipe
    train: Images
    held_out: Images
    net: nn.Module
    optimizer: torch.optim.SGD
    step: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)

    @classmethod
    def start(cls, recipe: Recipe, path: Path) -> Training:
        """Begin anew, with weights drawn from the recipe's seed."""
        train, held_out = (Images.load(path, split, recipe.categories)
                           for split in ("train", "held_out"))  # fmt: skip
        if not recipe.crop <= train.pixels.shape[1] or len(train.labels) < recipe.batch:
            raise ValueError(
                f"expected images of {recipe.crop} pixels or more and one batch of {recipe.batch}, "
                f"got {list(train.pixels.shape)}"
            )
        classes = int(train.labels.max()) + 1
        net = new_network(recipe.model, classes, recipe.seed)
        optimizer = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum,
                                    weight_decay=recipe.decay)  # fmt: skip
        return cls(recipe, train, held_out, net, optimizer)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train.labels) // self.recipe.batch  # the odd rest waits for another epoch

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def one_step(self) -> None:
        """Train on the next batch; its images, crops and flips depend on seed and step alone."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        batch, seed = self.recipe.batch, self.recipe.seed
        order = torch.randperm(len(self.train.labels), generator=_generator(seed, 1, epoch))
        chosen = order[place * batch : (place + 1) * batch]
        pixels = augmented(self.train.pixels[chosen], self.recipe.crop,
                           _generator(seed, 2, self.step))  # fmt: skip
        labels = self.train.labels[chosen]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step, self.steps)
        self.net.train()
        logits = self.net(network_input(self.net, pixels))
        loss = cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} at step {self.step}: use a smaller --rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        right = (logits.argmax(1) == labels).sum().double()
        self.sums += torch.stack([loss.detach().double() * batch, right])
        self.step += 1

    def end_epoch(self) -> None:
        """Add a row to the history, with the accuracy on the held-out images."""
        loss, right = (self.sums / (self.steps_per_epoch * self.recipe.batch)).tolist()
        self.sums.zero_()
        self.history.append({
            "epoch": self.step // self.steps_per_epoch, "train_loss": loss, "train_top1": right,
            "held_out_top1": accuracy(self.net, self.held_out, self.recipe.crop),
        })  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors[f"momentum.{index}"] = values["momentum_buffer"]
        note = {"recipe": asdict(self.recipe), "step": self.step, "seconds": self.seconds,
                "history": self.history}  # fmt: skip
        write_tensors(path, tensors | {"sums": self.sums}, note)

    def restore(self, path: Path) -> None:
        """Go to where a checkpoint was written; ValueError where its recipe is another one."""
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()["note"])
        if note["recipe"] != asdict(self.recipe):
            changed = {name: (old, new) for name, new in asdict(self.recipe).items()
                       if (old := note["recipe"].get(name)) != new}  # fmt: skip
            raise ValueError(f"{path} was begun with another recipe (was, is now): {changed}; "
                             "use its own, or another folder")  # fmt: skip
        tensors = load_file(path)
        self.net.load_state_dict({name.removeprefix("net."): value
                                  for name, value in tensors.items() if name[:4] == "net."})
        moments = {int(name.removeprefix("momentum.")): {"momentum_buffer": value}
                   for name, value in tensors.items() if name.startswith("momentum.")}  # fmt: skip
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.sums = tensors["sums"]
        self.step, self.seconds = note["step"], note["seconds"]
        self.history = note["history"]


def _generator(*seeds: int) -> torch.Generator:
    """Return a generator for (seed, purpose, number); different ones give different numbers."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % 2**62
    return torch.Generator().manual_seed(mixed)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the rate of a step: linear up to `recipe.rate`, then a half cosine down to 0."""
    rising = max(1, round(recipe.warm_up * steps))
    if step < rising:
        return recipe.rate * (step + 1) / rising
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def augmented(pixels: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Return a random crop [B, crop, crop] of each image [B, S, S], flipped at random, uint8."""
    count, size = pixels.shape[:2]
    shift = torch.randint(size - crop + 1, (count, 2, 1), generator=generator)
    flip = torch.randint(2, (count, 2, 1), generator=generator).bool()
    place = torch.arange(crop).expand(count, 2, crop)
    place = torch.where(flip, crop - 1 - place, place) + shift
    return pixels[torch.arange(count)[:, None, None], place[:, 0, :, None], place[:, 1, None]]


def new_network(model: str, classes: int, seed: int) -> nn.Module:
    """Return one of MODELS with random weights: torchvision's network, or PointNet++ on pixels."""
    if model == "pointnet2_ssg":
        with seeded(seed):
            return PointNet2(classes, PIXEL_CHANNELS)
    net = image_model(model, seed=seed)
    with seeded(seed):
        net.fc = nn.Linear(net.fc.in_features, classes)
    return net


def image_to_points(images: Tensor) -> Tensor:
    """Turn images [B, 3, H, W] into clouds [B, H * W, 6]: x, y, z and the three colour channels.

    Pixel centres lie in the plane z = 0, x to the right and y up; the longer side of the image
    spans -1 to 1. Colours stay as they are given. Points are in the order of the pixels, row by
    row; 64 x 64 pixels make 4,096 points, so resize large photos before.
    Raises ValueError for images of another shape or of integers.
    """
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != PIXEL_CHANNELS or not images.is_floating_point():
        raise ValueError(f"expected float images [B, 3, H, W], got {images.dtype} {shape}")
    height, width = images.shape[2:]
    place = {"device": images.device, "dtype": images.dtype}
    x = (2 * torch.arange(width, **place) + 1 - width) / max(height, width)
    y = (height - 1 - 2 * torch.arange(height, **place)) / max(height, width)
    xyz = torch.stack([x.expand(height, width), y[:, None].expand(height, width),
                       images.new_zeros(height, width)], 2)  # fmt: skip
    colours = images.permute(0, 2, 3, 1)
    return torch.cat([xyz.expand(len(images), -1, -1, -1), colours], 3).flatten(1, 2)


def network_input(net: nn.Module, pixels: Tensor) -> Tensor:
    """Return grey images [B, H, W] uint8 as a network takes them, float32.

    An image network takes [B, 3, H, W]; PointNet++ the means of 32 x 32 fields of the image as
    points [B, 1024, 6].
    """
    values = ((pixels.float() / 255 - MEAN) / DEVIATION)[:, None]
    if isinstance(net, PointNet2):
        values = adaptive_avg_pool2d(values, POINTS_ACROSS)
        return image_to_points(values.expand(-1, PIXEL_CHANNELS, -1, -1))
    return values.expand(-1, 3, -1, -1).contiguous()


@torch.no_grad()
def accuracy(net: nn.Module, images: Images, crop: int, batch: int = 128) -> float:
    """Return the share of images whose centre crop is named rightly."""
    start = (images.pixels.shape[1] - crop) // 2
    middle = slice(start, start + crop)
    net.eval()
    right = 0
    for first in range(0, len(images.labels), batch):
        part = slice(first, first + batch)
        logits = net(network_input(net, images.pixels[part, middle, middle]))
        right += int((logits.argmax(1) == images.labels[part]).sum())
    return right / len(images.labels)


def train(
    state: Training, folder: Path, minutes: float = math.inf, wait: Callable[[], None] | None = None
) -> bool:
    """Train to the end, or for so many minutes; return whether the end was reached.

    The folder gets a checkpoint after each epoch, every five minutes, and in the end.
    wait: called between steps; what it takes does not count towards the minutes.
    """
    checkpoint = folder / CHECKPOINT
    clock = saved = time.monotonic()
    bar = tqdm(total=state.steps, initial=state.step, desc="pretrain", unit="batch", mininterval=5)
    try:
        while state.step < state.steps and time.monotonic() - clock < 60 * minutes:
            if wait is not None:
                asked = time.monotonic()
                wait()
                clock += time.monotonic() - asked
            began = time.process_time()
            state.one_step()
            ended = state.step % state.steps_per_epoch == 0
            if ended:
                state.end_epoch()
            state.seconds += time.process_time() - began
            bar.update()
            if ended:
                state.history[-1]["cpu_seconds"] = round(state.seconds, 1)
                write_csv(folder / "history.csv", state.history)
                bar.set_postfix(held_out=f"{state.history[-1]['held_out_top1']:.3f}")
            if ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save(checkpoint)
                saved = time.monotonic()
    finally:
        bar.close()
    state.save(checkpoint)
    return state.step == state.steps
