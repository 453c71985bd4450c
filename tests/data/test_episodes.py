"""Few-shot episodes are the same everywhere, balanced, nested, and refused where impossible."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2p_lib.data import few_shot_episode, load_dataset

LABELS = np.arange(40) % 4
FIXED = [0, 9, 11, 12, 14, 18, 21, 35]  # two shots of episode 0


@given(shots=st.integers(1, 10), episode=st.integers(0, 1000))
def test_every_class_gives_exactly_its_shots_once(shots, episode):
    chosen = few_shot_episode(LABELS, shots, episode)
    assert chosen.dtype == np.int64 and len(set(chosen)) == len(chosen)
    assert np.bincount(LABELS[chosen]).tolist() == [shots] * 4


def test_fewer_shots_are_a_subset_of_more():
    one, five = few_shot_episode(LABELS, 1, 3), few_shot_episode(LABELS, 5, 3)
    assert set(one) < set(five)


def test_episodes_differ():
    draws = {tuple(few_shot_episode(LABELS, 3, episode)) for episode in range(20)}
    assert len(draws) == 20


def test_an_episode_is_the_same_in_another_process_and_for_ever():
    here = few_shot_episode(LABELS, 2, 0).tolist()
    code = (
        "import numpy as np; from i2p_lib.data.episodes import few_shot_episode as f; "
        "print(f(np.arange(40) % 4, 2, 0).tolist())"
    )
    there = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert str(here) == there.strip()
    assert here == FIXED


def test_ten_shots_can_be_drawn_from_home_objects():
    labels = load_dataset("home_objects", "train").labels
    assert len(few_shot_episode(labels, 10, 0)) == 160


def test_a_class_with_too_few_clouds_is_named():
    with pytest.raises(ValueError, match=r"11 shots asked.*\{1: 3\}.*at most 3"):
        few_shot_episode(np.array([0] * 12 + [1] * 3), 11, 0)


@pytest.mark.parametrize(("shots", "episode"), [(0, 0), (1, -1)])
def test_numbers_out_of_range_are_refused(shots, episode):
    with pytest.raises(ValueError, match="shots >= 1 and episode >= 0"):
        few_shot_episode(LABELS, shots, episode)


def test_labels_of_the_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="expected .N. integers"):
        few_shot_episode(np.zeros((4, 1)), 1, 0)
