"""Every image classifier of torchvision is inflated with its proof, or refused with its reason.

The smallest member of each family is run: its logits on an extruded image, and one training step.
All members, however large, are inflated without data and compared with the committed table.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch

from i2p_lib.coverage import (
    BORDER,
    EXACT,
    FAMILIES,
    INFLATED,
    REFUSED,
    TOLERANCE,
    examine,
    family,
    gradients,
    torchvision_classifiers,
    without_data,
)
from i2p_lib.weights import image_model
from i2p_lib.weights.torchvision_import import ensure_torchvision

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "model_coverage-torchvision.csv"
MEMBERS = pd.read_csv(TABLE, keep_default_na=False)
SMALLEST = MEMBERS.loc[MEMBERS.groupby("family")["parameters"].idxmin()].set_index("model")
CONVOLUTIONAL = SMALLEST[SMALLEST["verdict"] != REFUSED].index


def test_the_table_names_every_classifier_and_family_of_torchvision():
    assert tuple(sorted(MEMBERS["model"])) == torchvision_classifiers(), (
        f"run: python benchmarks/model_coverage.py torchvision --output {TABLE}")
    assert set(MEMBERS["family"]) == set(FAMILIES.values())


def test_all_convolutional_families_are_inflated_and_only_attention_is_refused():
    refused = SMALLEST[SMALLEST["verdict"] == REFUSED]
    assert set(refused["family"]) == {"ViT", "Swin", "Swin V2", "MaxViT"}
    assert refused["reason"].str.contains("attention").all()
    assert set(SMALLEST["verdict"]) == {EXACT, BORDER, REFUSED}


@pytest.mark.parametrize("name", torchvision_classifiers())
def test_every_classifier_is_inflated_or_refused_as_the_table_says(name):
    ensure_torchvision()
    import torchvision

    with without_data():
        model = torchvision.models.get_model(name)
    found = examine(model, "torchvision", family(name), name)
    stated = MEMBERS.set_index("model").loc[name]
    assert found.verdict == (REFUSED if stated["verdict"] == REFUSED else INFLATED)
    assert (found.parameters, found.reason) == (stated["parameters"], stated["reason"])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_logits_on_an_extruded_image_equal_the_image_networks(name):
    found = examine(image_model(name, "random"), "torchvision", family(name), name)
    assert found.verdict == SMALLEST.loc[name, "verdict"]
    assert found.deviation <= TOLERANCE


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_training_step_on_clouds_reaches_every_parameter(name):
    found = gradients(image_model(name, "random"))
    lost = [n for n, grad in found.items() if grad is None or not torch.isfinite(grad).all()]
    assert not lost
    assert sum(bool(grad.any()) for grad in found.values()) > 0.5 * len(found)  # stochastic depth
