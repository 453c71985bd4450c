"""The images' side of the transfer: how the classes of fractals collapse in the ResNet-18."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from i2p_lib.analysis.collapse import collapse_report
from i2p_lib.analysis.few_shot import class_gap, complexity_factor, few_shot_bound, few_shot_error
from i2p_lib.analysis.taps import PENULTIMATE, stage_names
from i2p_lib.data.fractal_images import SPLITS, FractalImages
from i2p_lib.show.text import html_list
from i2p_lib.weights import WeightCard, image_model

MEAN, DEVIATION = 0.2, 0.5  # of grey values from 0 to 1, as in the pretraining
CROP = 80  # pixels
MEASURES = {"cdnv": "CDNV", "nc1": "NC1", "nc2_equiangle": "NC2 (angles)", "nc3": "NC3",
            "nc4": "NC4"}

Labelled = tuple[np.ndarray, np.ndarray]  # features [N, C], labels [N]


def trained_on(card: WeightCard) -> tuple[int, int]:
    """Return how many classes a card's network was trained on, and how many images of each.

    Raises ValueError where the card does not say.
    """
    found = re.search(r"(\d+) images", card.pretraining)
    if found is None or not card.classes:
        raise ValueError(f"the card {card.label} does not say how many classes and images")
    return card.classes, int(found.group(1)) // card.classes


def fractal_input(images: np.ndarray) -> torch.Tensor:
    """Return grey images [N, 96, 96] as the pretraining took held-out ones: [N, 3, 80, 80]."""
    edge = (images.shape[1] - CROP) // 2
    middle = torch.from_numpy(images[:, edge : edge + CROP, edge : edge + CROP])
    values = (middle.float() / 255 - MEAN) / DEVIATION
    return values[:, None].expand(-1, 3, -1, -1).contiguous()


@torch.inference_mode()
def image_layers(
    model: nn.Module, images: torch.Tensor
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return ({stage: pooled [N, C]}, logits [N, K]) of an image ResNet in eval mode."""
    seen: dict[str, list] = {name: [] for name in [*stage_names(model), PENULTIMATE]}
    hooks = [model.get_submodule(name).register_forward_hook(
        lambda module, args, out, name=name: seen[name].append(out.mean((2, 3))))
        for name in stage_names(model)]  # fmt: skip
    hooks.append(model.fc.register_forward_pre_hook(
        lambda module, args: seen[PENULTIMATE].append(args[0])))  # fmt: skip
    model.eval()
    logits = torch.cat([model(part) for part in images.split(64)]).numpy()
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in seen.items()}, logits


def source_collapse(
    drawn: Mapping[str, FractalImages],
) -> tuple[pd.DataFrame, dict[str, Labelled]]:
    """Return the collapse of the fractal ResNet-18 on fractals, and its held-out features.

    drawn: {split: its images}, such as those of "fractals_anew".
    The table has one row per network (fractal or random weights), split (train: shapes that it
    was trained on, drawn anew; held_out: shapes that it never saw), layer and metric; top1 is the
    share that the classifier of the pretraining names rightly, among all of its classes.
    The features are {network: (penultimate [N, C], labels [N])}, held-out.
    """
    rows, features = [], {}
    for split in SPLITS:
        labels, images = drawn[split].labels, fractal_input(drawn[split].images)
        for weights in ("fractal", "random"):
            model = image_model("resnet18", weights=weights)
            layers, logits = image_layers(model, images)
            if split == "held_out":
                features[weights] = layers[PENULTIMATE], labels
            for layer, values in layers.items():
                extra = {}
                if layer == PENULTIMATE and weights == "fractal":
                    weight = model.fc.weight.detach()
                    extra = {"weight": weight, "logits": logits}
                report = collapse_report(values, labels, **extra)
                if extra:
                    report["top1"] = float((logits.argmax(1) == labels).mean())
                rows += [{"weights": weights, "split": split, "layer": layer, "metric": m,
                          "value": v} for m, v in report.items()]
    return pd.DataFrame(rows), features


def source_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the collapse of the last features as rows for `paper.compare`."""
    last = table[(table["layer"] == PENULTIMATE) & table["metric"].isin(MEASURES)]
    return pd.DataFrame({
        "dataset": "fractals", "model": "resnet18", "method": "image network",
        "pretraining": last["weights"].replace("random", "none"),
        "metric": last["metric"] + "_" + last["split"], "value": last["value"],
    })  # fmt: skip


def source_sentences(table: pd.DataFrame, classes: int) -> str:
    """Say how well the pretrained network names held-out fractals, and how far it collapses."""
    from scipy.stats import binomtest

    last = table[table["layer"] == PENULTIMATE].set_index(["weights", "split", "metric"])["value"]
    count = int(last["fractal", "held_out", "samples"])
    right = last["fractal", "held_out", "top1"]
    low = binomtest(round(right * count), count).proportion_ci(0.95).low
    lines = [
        f"Of {count} held-out images it names {100 * right:.1f} % rightly, among {classes} "
        f"classes: {right * classes:.0f} times chance ({100 / classes:.1f} %), and at least "
        f"{low * classes:.0f} times with 95 % confidence.",
    ]
    for metric, name in MEASURES.items():
        values = [f"{last[w, s, metric]:.2f} ({w} weights, {s.replace('_', ' ')})"
                  for w in ("fractal", "random") for s in SPLITS
                  if (w, s, metric) in last.index]  # fmt: skip
        lines.append(f"{name} of the last features: {', '.join(values)}.")
    return html_list(lines)


def source_bound_sentences(
    features: Labelled, targets: int, shots: Sequence[int], source: tuple[int, int]
) -> str:
    """Say what the images' own collapse would promise for new classes: HTML list.

    features: held-out source features and labels; source: (classes, samples of each) that the
    network was trained on.
    """
    values, labels = features
    found, gap = len(np.unique(labels)), class_gap(values, labels)
    scale = (targets - 1) / (found - 1)  # from all pairs of the source to the targets' pairs
    lines = []
    for n in shots:
        error = few_shot_error(values, labels, n, 20, np.random.default_rng(0))
        own = few_shot_bound(values, labels, n)
        factor = complexity_factor(gap, *source, targets, n)
        lines.append(
            f"{n}-shot: on its own {found} classes the error is {100 * error:.0f} % and the bound "
            f"{100 * own:,.0f} %; {targets} new classes drawn as those were would have a bound of "
            f"{100 * scale * own:,.0f} %, and what is added for classes and samples not seen is "
            f"{factor:.3g} times the network's complexity."
        )
    return html_list(lines)
