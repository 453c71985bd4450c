"""Augmentation stays within its bounds, follows its generator and leaves its input alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2p_lib.data import PAPER_AUGMENT, Augment, augment


def clouds(batch=64, points=32, seed=0):
    return torch.rand(batch, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


def changed(points, how, seed=0):
    return augment(points, torch.Generator().manual_seed(seed), how)


@settings(max_examples=30, deadline=None)
@given(
    how=st.builds(
        Augment,
        scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0)]),
        shift=st.sampled_from([0.0, 0.3]),
        jitter=st.sampled_from([0.0, 0.1]),
        rotate=st.sampled_from(["none", "x", "y", "z"]),
        shuffle=st.booleans(),
    ),
    seed=st.integers(0, 2**31),
)
def test_the_input_is_never_written_to_and_the_result_shares_no_memory(how, seed):
    points = clouds(4)
    before = points.clone()
    result = changed(points, how, seed)
    assert torch.equal(points, before)
    assert result.shape == points.shape and result.dtype == points.dtype
    assert result.data_ptr() != points.data_ptr()
    assert result.isfinite().all()
    assert torch.equal(result, changed(points, how, seed))


def test_the_default_changes_nothing():
    points = clouds()
    assert torch.equal(changed(points, Augment()), points)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_papers_augmentation_stays_within_its_bounds(seed):
    points = clouds(8, seed=seed)
    farthest = 0.5 * 1.1 + 0.2 + 0.025 / 2
    assert changed(points, PAPER_AUGMENT, seed).abs().max() <= farthest + 1e-6


def test_scale_is_drawn_per_axis_and_cloud_with_its_probability():
    points = torch.ones(4000, 1, 3)
    factor = changed(points, Augment(scale=(0.9, 1.1), scale_p=0.9))[:, 0]
    assert factor.min() >= 0.9 - 1e-6 and factor.max() <= 1.1 + 1e-6
    untouched = (factor == 1).all(dim=1)
    assert untouched.float().mean() == pytest.approx(0.1, abs=0.02)
    drawn = factor[~untouched]
    assert drawn.std(dim=0).allclose(torch.full((3,), 0.2 / math.sqrt(12)), atol=0.003)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.06


def test_shift_moves_a_cloud_as_a_whole():
    points = clouds(4000, 4)
    moved = changed(points, Augment(shift=0.2, shift_p=0.9)) - points
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6)
    assert moved.abs().max() <= 0.2 + 1e-6
    assert (moved[:, 0] == 0).all(dim=1).float().mean() == pytest.approx(0.1, abs=0.02)
    assert moved.mean(dim=(0, 1)).abs().max() < 0.01


def test_jitter_is_uniform_clipped_and_has_its_probability():
    points = torch.zeros(2000, 8, 3)
    noise = changed(points, Augment(jitter=0.025, jitter_clip=0.05, jitter_p=0.7))
    assert noise.abs().max() <= 0.0125
    assert (noise == 0).all(dim=(1, 2)).float().mean() == pytest.approx(0.3, abs=0.04)
    clipped = changed(points, Augment(jitter=1.0, jitter_clip=0.05))
    assert clipped.abs().max() == pytest.approx(0.05)


@pytest.mark.parametrize(("axis", "column"), [("x", 0), ("y", 1), ("z", 2)])
def test_rotation_keeps_its_axis_and_all_lengths(axis, column):
    points = clouds()
    turned = changed(points, Augment(rotate=axis))
    assert torch.equal(turned[..., column], points[..., column])
    assert torch.allclose(turned.norm(dim=2), points.norm(dim=2), atol=1e-6)
    others = [c for c in range(3) if c != column]
    assert (turned[..., others] - points[..., others]).abs().amax(dim=(1, 2)).median() > 0.1


def test_rotation_is_proper():
    points = torch.eye(3).expand(16, 3, 3)
    assert torch.allclose(torch.linalg.det(changed(points, Augment(rotate="z"))), torch.ones(16))


def test_shuffle_follows_the_order_of_its_random_numbers_also_where_two_are_equal():
    points = clouds(16, 2048)
    drawn = torch.rand(16, 2048, generator=torch.Generator().manual_seed(3))
    assert any(len(row.unique()) < 2048 for row in drawn)
    order = drawn.argsort(dim=1, stable=True)
    expected = torch.stack([cloud[places] for cloud, places in zip(points, order, strict=True)])
    assert torch.equal(changed(points, Augment(shuffle=True), seed=3), expected)


def test_shuffle_keeps_the_points_and_draws_each_cloud_on_its_own():
    points = clouds(2, 100)
    points[1] = points[0]
    result = changed(points, Augment(shuffle=True))
    assert torch.equal(result[0].sort(dim=0).values, points[0].sort(dim=0).values)
    assert not torch.equal(result[0], points[0]) and not torch.equal(result[0], result[1])
    assert {tuple(p) for p in result[0].tolist()} == {tuple(p) for p in points[0].tolist()}


def test_features_follow_their_point_and_stay_as_they_are():
    points = clouds(2, 50)
    coloured = torch.cat([points, torch.arange(100.0).reshape(2, 50, 1)], dim=2)
    settings = Augment(shuffle=True, rotate="z", scale=(0.8, 1.2), shift=0.1, jitter=0.01)
    plain, both = changed(points, settings), changed(coloured, settings)
    assert torch.equal(both[..., :3], plain)
    assert torch.equal(both[..., 3].sort(dim=1).values, coloured[..., 3])
    still = changed(coloured, Augment(shuffle=True))
    at = still[0, :, 3].long()
    assert torch.equal(still[0, :, :3], points[0, at])


@pytest.mark.parametrize("points", [torch.zeros(4, 3), torch.zeros(1, 4, 2),
                                    torch.zeros(1, 4, 3, dtype=torch.long)])
def test_other_shapes_and_types_are_refused(points):
    with pytest.raises(ValueError, match="expected .B, P, 3 or more. floating"):
        changed(points, PAPER_AUGMENT)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": (1.1, 0.9)}, {"scale": (0.0, 1.0)}, {"shift": -0.1}, {"jitter": math.nan},
     {"jitter_clip": -1.0}, {"scale_p": 1.5}, {"rotate": "w"}],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
