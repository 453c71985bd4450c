"""Sentences say no more than an interval allows, and are escaped."""

import pytest

from i2p_lib.analysis.bootstrap import Estimate
from i2p_lib.show import text


@pytest.mark.parametrize("low, high, said", [
    (0.01, 0.2, "a is better than b"), (-0.2, -0.01, "a is worse than b"),
    (-0.01, 0.2, "a and b cannot be told apart"), (0, 0.2, "a and b cannot be told apart"),
])  # fmt: skip
def test_a_difference_is_called_one_where_its_interval_leaves_out_zero(low, high, said):
    assert text.difference("a", "b", Estimate(0.1, low, high), 3).startswith(f"{said}: +10.0")


def test_a_difference_is_given_in_points_with_its_interval_and_pairs():
    line = text.difference("a", "b", Estimate(0.3, 0.1, 0.5), 3)
    assert line == ("a is better than b: +30.0 points (95 % interval +10.0 to +50.0; 3 pairs of "
                    "runs).")


def test_one_pair_of_runs_is_never_called_better():
    """Promise: an interval over test clouds says nothing of other seeds, and says so."""
    line = text.difference("a", "b", Estimate(0.3, 0.1, 0.5), 1)
    assert line == ("one pair of runs cannot tell a from b: +30.0 points (95 % interval +10.0 to "
                    "+50.0 over test clouds alone).")


def test_a_box_without_sentences_says_that_nothing_can_be_said():
    assert "Nothing can be said at this profile" in text.box([])
    assert "<li>" not in text.box(["one"]) and text.box(["one", "two"]).count("<li>") == 2


def test_what_is_shown_is_escaped():
    for html in (text.html_list(["<b>"]), text.box(["<b>"]), text.box(["a"], title="<b>")):
        assert "<b>" not in html and "&lt;b&gt;" in html


def test_a_ranking_keeps_the_order_given():
    assert text.ranked({"b": 2, "a": 1.5}) == "b 2.00, a 1.50"
