"""Pretrain torchvision's ResNet-18 to tell the categories of fractal images apart.

Contract: from the fractals.h5 of build_fractals.py the script trains the unchanged 2D network in a
folder of its own, and writes there

    checkpoint.safetensors       all that going on needs; the same command goes on from it, and
                                 ends with the same bits as a run that never stopped
    history.csv                  loss, accuracy, held-out accuracy and CPU seconds of each epoch
    resnet18-fractal.safetensors the weights in half precision, after the last epoch
    card.yml                     their card, in the form of i2p_lib/weights/cards.yml

Recipe: SGD with momentum 0.9 and weight decay 1e-4, cosine rate after a linear warm-up, batch 128,
random crops and flips of both axes.  (Kataoka et al. train a ResNet-50 for 90 epochs at 224 pixels:
SGD with the same momentum and decay, batch 256, rate 0.01 in IJCV 2022 and 0.1 in the default of
the public code's pretraining/args.py, times 0.1 after 30 and 60 epochs, random crops; their flips
are part of the data.  Pixels are normalised as there: mean 0.2, standard deviation 0.5.)
Images that are held out have weights of the maps' parameters that no training image has.

Examples:
    python data_scripts/pretrain_fractals.py fractals/fractals.h5 --output run --epochs 12
    python data_scripts/pretrain_fractals.py fractals/fractals.h5 --output run --minutes 30
    # the second stops after 30 minutes at the latest; the same command goes on
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from i2p_lib.files import atomic_write, sha256
from i2p_lib.machine import cpu_name
from i2p_lib.runs.store import write_csv, write_tensors
from i2p_lib.weights import image_model
from i2p_lib.weights.cards import read_cards

MEAN, DEVIATION = 0.2, 0.5
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "resnet18-fractal.safetensors"
HALF_LOSS = 0.002  # the most held-out accuracy that half precision may cost
CHECKPOINT_SECONDS = 300


@dataclass(frozen=True)
class Recipe:
    """What decides the result, besides the images; a checkpoint of another recipe is refused.

    crop: pixels across; rate: the highest; warm_up: share of the steps before it.
    data: SHA-256 of the images' file.
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

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.crop < 16 or not self.rate > 0:
            raise ValueError(f"expected 1 epoch, batch 2, crop 16 and a rate or more: {self}")


@dataclass(frozen=True)
class Images:
    """One split in memory: pixels [N, S, S] uint8, labels [N] int64."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def load(cls, path: Path, split: str) -> Images:
        """Read a split of fractals.h5; ValueError where the file has no such content."""
        try:
            with h5py.File(path, "r") as file:
                return cls(torch.from_numpy(file[f"{split}/images"][:]),
                           torch.from_numpy(file[f"{split}/labels"][:]))  # fmt: skip
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
        train, held_out = Images.load(path, "train"), Images.load(path, "held_out")
        if not recipe.crop <= train.pixels.shape[1] or len(train.labels) < recipe.batch:
            raise ValueError(
                f"expected images of {recipe.crop} pixels or more and one batch of {recipe.batch}, "
                f"got {list(train.pixels.shape)}"
            )
        classes = int(train.labels.max()) + 1
        net = image_model("resnet18", seed=recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(recipe.seed)
            net.fc = nn.Linear(net.fc.in_features, classes)
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
        logits = self.net(network_input(pixels))
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


def network_input(pixels: Tensor) -> Tensor:
    """Return grey images [B, H, W] uint8 as the network takes them: [B, 3, H, W] float32."""
    values = (pixels.float() / 255 - MEAN) / DEVIATION
    return values[:, None].expand(-1, 3, -1, -1).contiguous()


@torch.no_grad()
def accuracy(net: nn.Module, images: Images, crop: int, batch: int = 128) -> float:
    """Return the share of images whose centre crop is named rightly."""
    start = (images.pixels.shape[1] - crop) // 2
    middle = slice(start, start + crop)
    net.eval()
    right = 0
    for first in range(0, len(images.labels), batch):
        part = slice(first, first + batch)
        logits = net(network_input(images.pixels[part, middle, middle]))
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


def publish(state: Training, folder: Path) -> dict[str, float]:
    """Write the weights in half precision and their card; return both held-out accuracies.

    Raises ValueError where half precision costs more than 0.002 of the accuracy.
    """
    halves = {name: value.half() if value.is_floating_point() else value
              for name, value in state.net.state_dict().items()}  # fmt: skip
    rounded = copy.deepcopy(state.net)
    rounded.load_state_dict(halves)
    top1 = {"single": state.history[-1]["held_out_top1"],
            "half": accuracy(rounded, state.held_out, state.recipe.crop)}  # fmt: skip
    if not top1["half"] >= top1["single"] - HALF_LOSS:
        raise ValueError(f"half precision costs too much held-out accuracy, not written: {top1}")
    write_tensors(folder / WEIGHTS, halves)
    with atomic_write(folder / "card.yml") as temp:
        cards = {"library": [], "cards": [_card(state, folder / WEIGHTS, top1)]}
        temp.write_text(yaml.safe_dump(cards, sort_keys=False, width=1000), encoding="utf-8")
        read_cards(temp)
    return top1


def _card(state: Training, file: Path, top1: dict[str, float]) -> dict:
    recipe, count, size = state.recipe, len(state.train.labels), state.train.pixels.shape[1]
    classes, held_out = state.net.fc.out_features, len(state.held_out.labels)
    return {
        "model": "resnet18", "weights": "fractal",
        "pretraining": f"{classes} classes of fractals in the manner of FractalDB, "
        f"{count} images of {size} pixels, no natural image",
        "used_in": "none; an image source that needs no photograph and no download",
        "source": "trained here by data_scripts/build_fractals.py and pretrain_fractals.py",
        "licence": "BSD-3-Clause", "file_name": file.name, "size": file.stat().st_size,
        "sha256": sha256(file), "classes": classes,
        "how_to_get": "run data_scripts/build_fractals.py and data_scripts/pretrain_fractals.py",
        "note": f"SGD, momentum {recipe.momentum}, decay {recipe.decay}, rate {recipe.rate} "
        f"(cosine), batch {recipe.batch}, {recipe.epochs} epochs, crops of {recipe.crop} pixels, "
        f"seed {recipe.seed}; {state.seconds / 3600:.1f} CPU hours on one core "
        f"({cpu_name()}); held-out accuracy {top1['half']:.1%} in half precision, "
        f"{top1['single']:.1%} in single, chance {1 / classes:.1%}, of {held_out} images; "
        f"data SHA-256 {recipe.data[:16]}",
    }  # fmt: skip


def waiting_for(path: Path) -> Callable[[], None]:
    """Return a function that comes back once there is no such file."""

    def wait() -> None:
        while path.exists():
            time.sleep(2)

    return wait


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="fractals.h5 of build_fractals.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--crop", type=int, default=80, help="pixels across (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.1, help="highest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="stop after so many; the same command goes on (default: no limit)")
    parser.add_argument("--pause-file", type=Path, metavar="FILE",
                        help="rest between two batches while this file exists")
    options = parser.parse_args(arguments)
    wait = None if options.pause_file is None else waiting_for(options.pause_file)
    try:
        if not options.images.is_file():
            raise ValueError(f"{options.images} is not there: data_scripts/build_fractals.py "
                             "makes it")  # fmt: skip
        recipe = Recipe(options.epochs, options.crop, sha256(options.images), options.batch,
                        options.rate, seed=options.seed)  # fmt: skip
        state = Training.start(recipe, options.images)
        if (options.output / CHECKPOINT).exists():
            state.restore(options.output / CHECKPOINT)
        ended = train(state, options.output, options.minutes, wait)
        report = publish(state, options.output) if ended else None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if report is None:
        print(f"{state.step} of {state.steps} batches; the same command goes on")
    else:
        print(f"held-out accuracy {report['half']:.4f} ({report['single']:.4f} before rounding); "
              f"weights and card written to {options.output}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
