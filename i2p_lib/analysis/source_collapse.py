"""The images' side of the transfer: how the classes of fractals collapse in the ResNet-18."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from i2p_lib.analysis.collapse import layer_reports
from i2p_lib.analysis.taps import PENULTIMATE, stage_names, taps
from i2p_lib.data.fractal_images import SPLITS, FractalImages
from i2p_lib.weights import WeightCard, image_model

MEAN, DEVIATION = 0.2, 0.5  # of grey values from 0 to 1, as in the pretraining
CROP = 80  # pixels

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


def source_collapse(
    drawn: Mapping[str, FractalImages],
) -> tuple[pd.DataFrame, dict[str, Labelled]]:
    """Return the collapse of the fractal ResNet-18 on fractals, and its held-out features.

    drawn: {split: its images}, such as those of "fractals_anew".
    The table has one row per network (weights: fractal or random), split (train: shapes that it
    was trained on, drawn anew; held_out: shapes that it never saw), layer and metric; top1 is the
    share that the classifier of the pretraining names rightly, among all of its classes.
    The features are {weights: (penultimate [N, C], labels [N])}, held-out.
    """
    tables, features = [], {}
    for split in SPLITS:
        labels, images = drawn[split].labels, drawn[split].images
        for weights in ("fractal", "random"):
            model = image_model("resnet18", weights=weights).eval()
            batches = fractal_input(images).split(64)
            with taps(model, stage_names(model), "fc") as seen, torch.inference_mode():
                logits = torch.cat([model(x) for x in batches]).numpy()
            layers = {name: torch.cat(parts).numpy() for name, parts in seen.items()}
            features[weights] = layers[PENULTIMATE], labels
            extra = (model.fc.weight.detach(), logits) if weights == "fractal" else ()
            table = layer_reports(layers, labels, *extra)
            if extra:
                top1 = float((logits.argmax(1) == labels).mean())
                table.loc[len(table)] = PENULTIMATE, "top1", top1
            tables.append(table.assign(weights=weights, split=split))
    return pd.concat(tables, ignore_index=True), features
