"""The slips of the original are shown as they are: each simulation against a direct count."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from i2p_lib.analysis import errata
from i2p_lib.runs.spec import RunSpec

LABELS = np.repeat(np.arange(4), 30)


def test_the_rate_falls_once_or_154_times():
    spec = RunSpec(optimizer="sgd", lr=0.1, epochs=100, batch_size=32, schedule="cosine")
    table = errata.rates(spec, steps_per_epoch=308)
    assert errata.swings(table).to_dict() == {"one fall": 1, "stepped per iteration": 154}


def test_processes_draw_different_clouds_of_every_class():
    draws = errata.process_draws(LABELS, shots=2, processes=3)
    assert all(np.bincount(LABELS[d]).tolist() == [2, 2, 2, 2] for d in draws)
    table = errata.draw_table(draws)
    assert table.loc[1, "clouds it learns from"] == 8
    assert table.loc[3, "clouds it learns from"] == len(set(np.concatenate(draws).tolist())) > 8


def test_another_order_of_files_gives_another_draw():
    assert errata.glob_draws(LABELS, files=1) == 1
    assert errata.glob_draws(LABELS, files=5, shots=5) < 1


def test_what_is_written_back_drifts_and_the_given_cloud_stays():
    cloud = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    before = cloud.clone()
    kept = errata.written_back(cloud, (0, 5))
    assert torch.equal(kept[0], before) and torch.equal(cloud, before)
    assert not torch.allclose(kept[5].mean(0), before.mean(0), atol=0.05)


def test_the_first_point_and_the_mean_are_compared_voxel_by_voxel():
    points = torch.tensor([[[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.9, 0.9, 0.9]]])
    table = errata.first_against_mean(points, 0.5).sort_values("points")
    assert table["points"].tolist() == [1, 2]
    assert table["distance"].tolist() == pytest.approx([0, 0.1 / 0.5], abs=1e-6)


def test_layers_in_another_order_load_without_a_word():
    source, target = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    values = errata.with_layers_swapped(source.state_dict(), "0.", "1.")
    answer = target.load_state_dict(errata.by_position(values, target), strict=False)
    assert not answer.missing_keys and not answer.unexpected_keys
    assert torch.equal(target[0].weight, source[1].weight)
    with pytest.raises(ValueError, match="different shapes"):
        errata.with_layers_swapped(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4)).state_dict(),
                                   "0.", "1.")  # fmt: skip


def test_a_frozen_weight_with_a_gradient_of_zeros_decays():
    table = errata.decayed(steps=50)["weight after 50 steps"]
    assert table["gradient None"] == 1 and table["gradient zeros"] < 1


def test_an_absent_class_is_taken_out_of_the_mean():
    ious = np.linspace(20, 80, 13)
    logged = np.append(ious, 100).mean()
    assert errata.without_absent_class(logged) == pytest.approx(ious.mean())


def test_the_best_test_epoch_stands_beside_the_last():
    table = pd.DataFrame({"key": "a", "seed": 3, "epoch": [1, 2, 3], "test_top1": [0.2, 0.5, 0.4]})
    row = errata.checkpoint_table(table).loc[3]
    assert row.tolist() == pytest.approx([40, 50, 2, 10])


def test_choosing_among_equal_epochs_gains_by_luck():
    gain = errata.lucky_epoch(0.5, clouds=100, epochs=(1, 10))["gain (points)"]
    assert abs(gain[1]) < 0.5 and gain[10] > 5
