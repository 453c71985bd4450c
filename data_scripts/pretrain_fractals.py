"""Pretrain an image network, or PointNet++ on pixels, to tell the categories of fractals apart.

Contract: from the fractals.h5 of build_fractals.py the script trains torchvision's unchanged
ResNet-18, or PointNet++ with pixels as points, in a folder of its own, and writes there

    checkpoint.safetensors       all that going on needs; the same command goes on from it, and
                                 ends with the same bits as a run that never stopped
    history.csv                  loss, accuracy, held-out accuracy and CPU seconds of each epoch
    MODEL-fractal*.safetensors   the weights in half precision, after the last epoch
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
    # stops after 30 minutes at the latest; the same command goes on
    python data_scripts/pretrain_fractals.py fractals/fractals.h5 --output points \\
        --model pointnet2_ssg --categories 40 --epochs 4 --batch 32 --rate 0.02
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from _pretraining import CHECKPOINT, MODELS, Recipe, Training, accuracy, train

from i2p_lib.files import atomic_write, sha256
from i2p_lib.machine import cpu_name
from i2p_lib.runs.store import write_tensors
from i2p_lib.weights.cards import read_cards

WEIGHTS = {"resnet18": "fractal", "pointnet2_ssg": "fractal_pixels"}  # model -> name of its weights
HALF_LOSS = 0.002  # the most held-out accuracy that half precision may cost


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
    file = folder / f"{state.recipe.model}-{WEIGHTS[state.recipe.model]}.safetensors"
    write_tensors(file, halves)
    with atomic_write(folder / "card.yml") as temp:
        cards = {"library": [], "cards": [_card(state, file, top1)]}
        temp.write_text(yaml.safe_dump(cards, sort_keys=False, width=1000), encoding="utf-8")
        read_cards(temp)
    return top1


def _card(state: Training, file: Path, top1: dict[str, float]) -> dict:
    recipe, count, size = state.recipe, len(state.train.labels), state.train.pixels.shape[1]
    classes, held_out = int(state.train.labels.max()) + 1, len(state.held_out.labels)
    return {
        "model": recipe.model, "weights": WEIGHTS[recipe.model],
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
    parser.add_argument("--model", choices=MODELS, default=MODELS[0],
                        help="default: %(default)s")
    parser.add_argument("--categories", type=int,
                        help="train on the first so many only (default: all)")
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
                        options.rate, seed=options.seed, model=options.model,
                        categories=options.categories)  # fmt: skip
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
