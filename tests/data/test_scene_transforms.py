"""The paper's transforms of scenes: what each does, on what it draws, and what it leaves alone."""

import math

import numpy as np
import pytest
import torch

from i2p_lib.data.scene_transforms import (
    SceneAugment,
    at_most,
    augment_scene,
    clip_to_cube,
)
from i2p_lib.data.scenes import scene_card

PAPER_ROOMS, PAPER_STREETS = (scene_card(n).augment for n in ("s3dis", "semantic_kitti"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene():
    drawn = seeded(9)
    points = torch.rand(2000, 3, generator=drawn) * torch.tensor([20.0, 12.0, 3.0])
    return points, 0.2 + 0.5 * torch.rand(2000, 3, generator=drawn)


def test_the_papers_settings():
    """Promise: both are what the released code's loaders say."""
    assert PAPER_ROOMS == SceneAugment(clip=4.0, flip_p=0.95, jitter=0.005, shift=0.05,
                                       colour_p=0.95, contrast_p=0.2)  # fmt: skip
    assert PAPER_STREETS == SceneAugment(rotate=True, scale=(0.95, 1.05), most=80_000)


@pytest.mark.parametrize("settings", [PAPER_ROOMS, PAPER_STREETS], ids=["rooms", "streets"])
def test_the_generator_alone_decides_and_nothing_is_written_to(scene, settings):
    points, features = (t.clone() for t in scene)
    state = torch.random.get_rng_state()
    first = augment_scene(points, features, seeded(), settings)
    again = augment_scene(points, features, seeded(), settings)
    other = augment_scene(points, features, seeded(1), settings)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][:9], other[0][:9])
    assert torch.equal(points, scene[0]) and torch.equal(features, scene[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(first[0]) == len(first[1]) == len(first[2])


def test_the_default_changes_nothing(scene):
    points, features, kept = augment_scene(*scene, seeded(), SceneAugment())
    assert torch.equal(points, scene[0]) and torch.equal(features, scene[1])
    assert torch.equal(kept, torch.arange(2000))


def test_clipping_keeps_the_cube_about_the_centre_of_the_box(scene):
    """Promise: equal to numpy on the same cube; a scene shorter than 4 m stays whole."""
    points = scene[0]
    array = points.numpy()
    centre = (array.min(0) + array.max(0)) / 2
    inside = ((array >= centre - 4) & (array < centre + 4)).all(axis=1)
    np.testing.assert_array_equal(clip_to_cube(points, 4.0), np.flatnonzero(inside))
    assert 0 < inside.sum() < 2000
    small = points / points.max() * 3.9
    assert len(clip_to_cube(small, 4.0)) == 2000
    shown = augment_scene(*scene, seeded(), SceneAugment(clip=4.0))
    assert torch.equal(shown[0], points[shown[2]]) and torch.equal(shown[1], scene[1][shown[2]])


@pytest.mark.parametrize("shape", ["L", "ring", "a point in a ring"])
def test_a_scene_without_a_middle_is_clipped_about_a_point_of_its_own(shape):
    """Promise: training goes on where nothing stands in the middle of the box."""
    points = torch.rand(4000, 3, generator=seeded()) * 16
    points[:, 2] /= 6
    x, y = points[:, 0], points[:, 1]
    arms = (x < 2) | (y < 2) if shape == "L" else ((x - 8).abs() > 6) | ((y - 8).abs() > 6)
    points = points[arms]
    if shape == "a point in a ring":
        points = torch.cat([points, torch.tensor([[8.0, 8.0, 1.0]])])
    kept = clip_to_cube(points, 4.0)
    assert 100 < len(kept) < len(points) and kept.diff().min() > 0
    assert (points[kept].amax(0) - points[kept].amin(0)).max() < 8
    assert len(augment_scene(points, points[:, :1] / 16, seeded(), PAPER_ROOMS)[0]) > 100


def test_flips_mirror_x_and_y_each_half_the_time_and_never_z(scene):
    points, features = scene
    seen = {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 0}
    for seed in range(200):
        flipped = augment_scene(points, features, seeded(seed), SceneAugment(flip_p=1.0))[0]
        kind = tuple(int(not torch.equal(flipped[:, a], points[:, a])) for a in (0, 1))
        for axis in (0, 1):
            mirror = points[:, axis].max() - points[:, axis]
            assert torch.equal(flipped[:, axis], mirror if kind[axis] else points[:, axis])
        assert torch.equal(flipped[:, 2], points[:, 2])
        seen[kind] += 1
    assert min(seen.values()) > 30  # 50 expected, standard deviation 6


def test_turns_are_rigid_about_z_and_scale_is_one_factor(scene):
    """Promise: distances change by one factor in 0.95..1.05, heights by the same; all angles."""
    points, features = scene
    angles = []
    for seed in range(100):
        turned = augment_scene(points, features, seeded(seed), PAPER_STREETS)[0]
        factor = turned[:, 2] / points[:, 2]
        assert factor.max() - factor.min() < 1e-5 and 0.95 <= factor[0] <= 1.05
        before, after = torch.pdist(points[:40]), torch.pdist(turned[:40])
        torch.testing.assert_close(after, before * factor[0], rtol=1e-4, atol=1e-4)
        x, y = (turned[0, :2] / points[0, :2].norm() / factor[0]).tolist()
        start = math.atan2(points[0, 1], points[0, 0])
        angles.append((math.atan2(y, x) - start) % (2 * math.pi))
    counts = np.histogram(angles, 4, (0, 2 * math.pi))[0]
    assert counts.min() > 12  # 25 expected, standard deviation 4


def test_jitter_and_shift_have_the_papers_size(scene):
    points, features = scene
    jitter = augment_scene(points, features, seeded(), SceneAugment(jitter=0.005, colour_p=1.0))[1]
    assert (jitter - features).std().item() == pytest.approx(0.005, rel=0.05)
    shifts = torch.stack([
        augment_scene(points, features, seeded(s), SceneAugment(shift=0.05, colour_p=1.0))[1]
        - features for s in range(60)
    ])  # fmt: skip
    assert (shifts - shifts[:, :1]).abs().max() < 1e-6  # one displacement for all points
    assert 0.045 < shifts.abs().max() <= 0.05 + 1e-6
    assert not torch.equal(shifts[0, 0, 0], shifts[0, 0, 1])


def test_colours_stay_in_range(scene):
    points, features = scene[0], (scene[1] > 0.45).float()
    for seed in range(20):
        changed = augment_scene(points, features, seeded(seed), PAPER_ROOMS)[1]
        assert changed.min() >= 0 and changed.max() <= 1


def test_contrast_blends_half_with_colours_stretched_to_the_range(scene):
    """Promise: equal to numpy; a colour that is the same everywhere stays."""
    points, features = scene[0], scene[1].clone()
    features[:, 2] = 0.3
    shown = augment_scene(points, features, seeded(), SceneAugment(contrast_p=1.0))[1].numpy()
    array = features.numpy()[:, :2]
    stretched = (array - array.min(0)) / np.ptp(array, axis=0)
    np.testing.assert_allclose(shown[:, :2], (array + stretched) / 2, atol=1e-6)
    np.testing.assert_allclose(shown[:, 2], 0.3, atol=1e-6)


def test_probabilities_are_those_of_the_settings(scene):
    points, features = scene[0][:20], scene[1][:20]
    contrasted = sum(
        not torch.equal(augment_scene(points, features, seeded(s),
                                      SceneAugment(contrast_p=0.2))[1], features)
        for s in range(400)
    )  # fmt: skip
    assert 50 < contrasted < 110  # 80 expected, standard deviation 8


def test_the_cap_keeps_rising_numbers_each_at_most_once():
    kept = at_most(1000, 100, seeded())
    assert len(kept) == 100 and (kept.diff() > 0).all() and kept.max() < 1000
    assert torch.equal(at_most(5, 100, seeded()), torch.arange(5))
    assert not torch.equal(kept, at_most(1000, 100, seeded(1)))


def test_cap_and_clip_name_the_points_they_keep(scene):
    settings = SceneAugment(clip=4.0, most=50)
    points, features, kept = augment_scene(*scene, seeded(), settings)
    assert len(kept) == 50 and torch.equal(points, scene[0][kept])
    assert torch.equal(features, scene[1][kept])


@pytest.mark.parametrize(
    "wrong",
    [{"clip": 0}, {"scale": (1.1, 0.9)}, {"scale": (0, 1)}, {"jitter": -1}, {"shift": 2},
     {"flip_p": 1.5}, {"contrast_p": math.nan}, {"most": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SceneAugment(**wrong)


@pytest.mark.parametrize(
    ("points", "features"),
    [((5, 2), (5, 3)), ((5, 3), (4, 3)), ((5, 3), (5,)), ((0, 3), (0, 3))],
)
def test_tensors_that_are_no_scene_are_refused(points, features):
    with pytest.raises(ValueError, match="expected"):
        augment_scene(torch.zeros(points), torch.zeros(features), seeded(), PAPER_ROOMS)
