"""Which image classifiers of torchvision and timm can be inflated, with the proof for each."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from i2p_lib.coverage import LARGE, Coverage, examine, family, torchvision_classifiers, without_data
from i2p_lib.files import atomic_write
from i2p_lib.weights import ensure_torchvision, image_model

EXAMPLE = """example:
  python benchmarks/model_coverage.py --output i2p_lib/book/model_coverage.csv
  python benchmarks/model_coverage.py resnet50 timm/dla34

One thread, up to half an hour and 8 GB of memory for all models. The weights are random; nothing
is downloaded.
"""
TIMM = (
    "bagnet17", "cspdarknet53", "cspresnet50", "darknet53", "densenet121", "dla34", "dpn68",
    "edgenext_xx_small", "efficientnet_lite0", "ese_vovnet19b_dw", "fbnetc_100", "ghostnet_050",
    "hardcorenas_a", "hrnet_w18_small", "inception_v4", "inception_resnet_v2", "lcnet_050",
    "mixnet_s", "mobileone_s0", "mobilenetv4_conv_small", "nf_resnet50", "dm_nfnet_f0",
    "regnetz_b16", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnet18d", "resnetv2_50",
    "resnetv2_50x1_bit", "rexnet_100", "selecsls42b", "seresnet18", "skresnet18", "spnasnet_100",
    "tf_efficientnet_b0", "tf_efficientnetv2_b0", "tf_mixnet_s", "tinynet_a", "tresnet_m",
    "visformer_tiny", "xception41", "convnextv2_atto", "convnext_atto", "convmixer_768_32",
    "coat_lite_tiny", "deit_tiny_patch16_224", "mixer_s32_224",
)  # fmt: skip
"""One member of each of timm's common families, and three transformers and mixers."""


def main() -> None:
    """Examine the models, print each, and write the table where ``--output`` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="torchvision's names, or timm/NAME; default: all")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="also write a CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = [*torchvision_classifiers(), *(f"timm/{name}" for name in TIMM)]
    found = []
    for model in arguments.models or every:
        found.append(covered(model))
        print(*found[-1].row().values(), sep=" | ", flush=True)
    print(*(f"{count} {verdict}" for verdict, count in Counter(c.verdict for c in found).items()),
          sep=", ")
    if arguments.output is not None:
        rows = [result.row() for result in found]
        for row in rows:
            if row["deviation"] is not None:
                row["deviation"] = f"{row['deviation']:.1e}"
        with atomic_write(arguments.output) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def covered(model: str) -> Coverage:
    """Examine one model: torchvision's by its name, timm's as ``timm/NAME``."""
    library, _, name = model.rpartition("/")
    with without_data():
        size = sum(p.numel() for p in create(library, name).parameters())
    if size > LARGE:
        with without_data():
            built = create(library, name)
    elif library:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            built = create(library, name)
    else:
        built = image_model(name, "random", seed=0)
    group = type(built).__name__ if library else family(name)
    return examine(built, library or "torchvision", group, name)


def create(library: str, name: str) -> nn.Module:
    """Build a model as its library does."""
    ensure_torchvision()
    import timm
    import torchvision

    return timm.create_model(name) if library else torchvision.models.get_model(name)


if __name__ == "__main__":
    sys.exit(main())
