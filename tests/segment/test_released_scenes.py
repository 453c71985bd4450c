"""Scenes as the original takes them: which points a voxel keeps, and which points are counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import ROOM
from torch import nn

from i2p_lib.analysis import segmentation as metrics
from i2p_lib.data.scenes import IGNORED, Scene, load_scenes, scene_card
from i2p_lib.models.encodings import ReleasedVoxels, VoxelEncoding
from i2p_lib.runs import run
from i2p_lib.sparse import Points
from i2p_lib.train import segment
from i2p_lib.train.segment import task_of

RELEASED = ROOM.but(protocol="released", epochs=1, train_limit=4, batch_size=2)


class AtThePoints(nn.Module):
    """Answers each row with the features of its voxel's corners."""

    def forward(self, x):
        return Points.of_voxels(x).interpolate(x)


def line(*places: float) -> Scene:
    """Points on x, whose grey is their number."""
    points = np.zeros((len(places), 3), np.float32)
    points[:, 0] = places
    grey = np.linspace(0, 1, len(places), dtype=np.float32)[:, None].repeat(3, 1)
    return Scene("line", points, grey, np.arange(len(places)))


def test_the_first_point_of_a_cell_is_kept_with_its_label_and_answers_for_all_of_it():
    scene = line(0.0, 5.1, 1.0, 0.9, 5.0)
    encoding = ReleasedVoxels(1.0, centre=False)
    rows = encoding.rows(scene)
    assert rows.labels.tolist() == [0, 2, 1] and rows.of_point.tolist() == [0, 2, 1, 1, 2]
    assert torch.allclose(rows.features[:, 0], torch.tensor([0.0, 1.0, 5.1]))
    x, labels = encoding.encode([scene, scene])
    assert len(x.sites) == 6 and labels.tolist() == [0, 2, 1] * 2
    answers = encoding.predict(AtThePoints(), scene)
    assert torch.allclose(answers, rows.features[rows.of_point])


def test_cells_beside_a_rooms_mean_are_cut_to_one_layer():
    """Promise: from the mean -1.5, -0.5, 0.5, 1.5 voxels become -1, 0, 0, 1, in one voxel two
    rows that both are trained and both get answers."""
    scene = line(0.0, 1.0, 2.0, 3.0)
    x, labels = ReleasedVoxels(1.0).encode([scene])
    assert x.coords[:, 1].tolist() == [-1, 0, 1] and labels.tolist() == [0, 1, 2, 3]
    assert x.feats[:, 0].tolist() == [-1.5, 0.0, 1.5]
    answers = ReleasedVoxels(1.0).predict(AtThePoints(), scene)
    assert torch.equal(answers[1], answers[2]) and len(answers) == 4


def test_only_what_is_drawn_is_capped():
    scene, encoding = line(*range(9)), ReleasedVoxels(1.0, centre=False, most=5)
    x, labels = encoding.encode([scene], generators=[torch.Generator().manual_seed(0)])
    assert len(x.sites) == len(labels) == 5 and torch.equal(x.coords[:, 1], labels)
    assert len(encoding.encode([scene])[1]) == 9
    assert len(encoding.predict(AtThePoints(), scene)) == 9


def test_stairs_are_a_class_that_is_trained_and_test_ends_at_the_cube(scene_data):
    plain, released = (load_scenes("s3dis", "test", released=kind)[0] for kind in (False, True))
    assert np.array_equal(released.labels == 13, plain.labels == IGNORED)
    files = load_scenes("s3dis", "test", released=True)
    assert files.clip == 4.0 and load_scenes("s3dis", "trainval", released=True).clip == np.inf
    cut = replace(files, clip=1.0)[0]
    middle = (plain.points.min(0) + plain.points.max(0)) / 2
    inside = ((plain.points >= middle - 1) & (plain.points < middle + 1)).all(1)
    assert 0 < len(cut) == inside.sum() < len(plain)
    assert np.array_equal(cut.labels, released.labels[inside])


def test_a_released_run_trains_stairs_and_counts_them_as_perfect(scene_data, tmp_path):
    task = task_of(RELEASED)
    random = torch.Generator().manual_seed(0)
    _, targets = task.encode(nn.Identity(), task.batch(torch.arange(2), random), slice(2), random)
    assert 13 in targets and len(task.class_names) == 14 and task.augment.most is None
    result = run(RELEASED, store=tmp_path, progress=False)
    counts = result.confusion().to_numpy()
    assert counts.shape == (14, 14) and not counts[13].any()
    assert counts.sum() == 2 * 240  # without stairs
    assert result.metrics["miou"] == metrics.mean_iou(counts, "perfect")


@pytest.mark.parametrize(("changes", "classes", "encoding", "most", "absent"), [
    ({"grid": "floor"}, 14, VoxelEncoding, 9, "perfect"),  # such voxels have no cap
    ({"cap": "points"}, 14, ReleasedVoxels, 9, "perfect"),
    ({"labels": "set"}, 13, ReleasedVoxels, None, "perfect"),
    ({"absent": "skipped"}, 14, ReleasedVoxels, None, "skipped"),
])  # fmt: skip
def test_each_decision_about_scenes_is_set_by_itself(
    changes, classes, encoding, most, absent, scene_data, monkeypatch
):
    card = scene_card("s3dis")
    capped = card.model_copy(update={"augment": replace(card.augment, most=9)})
    monkeypatch.setattr(segment, "scene_card", lambda name: capped)
    task = task_of(RELEASED.but(changes=changes))
    assert len(task.class_names) == classes and isinstance(task.encoding, encoding)
    assert task.augment.most == most and task.absent == absent and task.counted == 13
    assert getattr(task.encoding, "most", None) == (9 if most is None else None)


def test_other_networks_and_protocols_take_scenes_as_before(scene_data):
    for spec in (ROOM, RELEASED.but(model="pointnet2_ssg", voxel_size=None, decoder_width=None)):
        task = task_of(spec)
        assert len(task.class_names) == 13 and not isinstance(task.encoding, ReleasedVoxels)
