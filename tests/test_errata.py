"""The slips of the original are shown as they are: each cell of the chapter against a count."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_notebooks import chapter_functions
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
LABELS = np.repeat(np.arange(4), 30)


@pytest.fixture(scope="module")
def errata():
    """The functions that the chapter's cells define."""
    return chapter_functions(ROOT / "notebooks" / "06_errata.ipynb")


def test_the_rate_falls_once_or_154_times(errata):
    step = np.arange(100 * 308)
    assert errata.times_it_falls(errata.cosine(0.1, step, 100 * 308)) == 1
    assert errata.times_it_falls(errata.cosine(0.1, step, 100)) == 154


def test_processes_draw_different_clouds_of_every_class(errata):
    draws = errata.process_draws(LABELS, shots=2, processes=3)
    assert all(np.bincount(LABELS[d]).tolist() == [2, 2, 2, 2] for d in draws)
    learned = errata.clouds_learned(draws)["clouds it learns from"]
    assert learned[1] == 8
    assert learned[3] == len(set(np.concatenate(draws).tolist())) > 8


def test_another_order_of_files_gives_another_draw(errata):
    assert errata.share_that_stays(LABELS, files=1, shots=1) == 1
    assert errata.share_that_stays(LABELS, files=5, shots=5) < 1


def test_what_is_written_back_drifts_and_the_given_cloud_stays(errata):
    cloud = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    before = cloud.clone()
    kept = errata.written_back(cloud, (0, 5))
    assert torch.equal(kept[0], before) and torch.equal(cloud, before)
    assert not torch.allclose(kept[5].mean(0), before.mean(0), atol=0.05)


def test_the_first_point_and_the_mean_are_compared_voxel_by_voxel(errata):
    points = torch.tensor([[[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.9, 0.9, 0.9]]])
    counts, first, mean = errata.first_and_mean(points, 0.5)
    assert counts.tolist() == [2, 1]
    assert (first - mean).norm(dim=1).tolist() == pytest.approx([0.1, 0], abs=1e-6)


def test_layers_in_another_order_load_without_a_word(errata):
    source, target = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    values = errata.with_layers_swapped(source.state_dict(), "0.", "1.")
    answer = target.load_state_dict(errata.by_position(values, target), strict=False)
    assert not answer.missing_keys and not answer.unexpected_keys
    assert torch.equal(target[0].weight, source[1].weight)
    with pytest.raises(ValueError, match="different shapes"):
        errata.with_layers_swapped(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4)).state_dict(),
                                   "0.", "1.")  # fmt: skip


def test_a_frozen_weight_with_a_gradient_of_zeros_decays(errata):
    assert errata.frozen_weight(50, None) == 1
    assert errata.frozen_weight(50, torch.zeros(1)) < 1


def test_an_absent_class_is_taken_out_of_the_mean(errata):
    ious = np.linspace(20, 80, 13)
    logged = np.append(ious, 100).mean()
    assert errata.without_absent_class(logged) == pytest.approx(ious.mean())
    assert round(errata.without_absent_class(55.09), 2) == 51.64


def test_the_best_test_epoch_stands_beside_the_last(errata):
    table = pd.DataFrame({"key": "a", "seed": 3, "epoch": [1, 2, 3], "test_top1": [0.2, 0.5, 0.4]})
    row = errata.last_and_best(table).loc[3]
    assert row.tolist() == pytest.approx([40, 50, 2, 10])


def test_choosing_among_equal_epochs_gains_by_luck(errata):
    gain = errata.gain_by_luck(0.5, clouds=100, epochs=(1, 10))["gain (points)"]
    assert abs(gain[1]) < 0.5 and gain[10] > 5
