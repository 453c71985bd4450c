"""What goes into a network stands for the right points, and so does what comes back."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from i2p_lib.data.scenes import IGNORED, Scene
from i2p_lib.models.encodings import BlockEncoding, VoxelEncoding, most_frequent
from i2p_lib.models.range_view import RangeEncoding
from i2p_lib.models.segmenters import encoding_for, segmenter


@dataclass(frozen=True)
class Loose:
    """A scene of tensors, as transforms give it."""

    points: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor


class Answers(nn.Module):
    """Stands where a network stands, and answers with a function of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        return self.function(x)


def scene(points=500, features=3, seed=0, size=(3.0, 2.0, 1.0), classes=4):
    random = np.random.default_rng(seed)
    return Scene(f"room_{seed}", (random.random((points, 3)) * size + 5).astype(np.float32),
                 random.random((points, features)).astype(np.float32),
                 random.integers(-1, classes, points))  # fmt: skip


def votes_by_hand(labels, owner):
    """The most frequent counted label of each owner, the lowest of equals."""
    found = {}
    for place in sorted(set(owner)):
        counted = [y for y, o in zip(labels, owner, strict=True) if o == place and y != IGNORED]
        found[place] = min(set(counted), key=lambda y: (-counted.count(y), y), default=IGNORED)
    return found


def test_voxels_hold_their_points_and_answer_for_them():
    """Promise: means, targets by vote and the way back, as dictionaries have them, two scenes."""
    encoding = VoxelEncoding(0.25)
    rooms = [scene(seed=0), scene(300, seed=1)]
    x, targets = encoding.encode(rooms)
    assert x.feats.shape == (len(targets), 3 + encoding.place_channels) and x.batch_size == 2
    sites = {tuple(row): n for n, row in enumerate(x.coords.tolist())}
    for sample, room in enumerate(rooms):
        centred = room.points - room.points.mean(0, dtype=np.float64).astype(np.float32)
        owner = [sites[(sample, *cell)] for cell in np.floor(centred / 0.25).astype(int).tolist()]
        rows = np.concatenate([centred, room.features - 0.5], 1)
        for place, label in votes_by_hand(room.labels.tolist(), owner).items():
            mean = rows[[n for n, o in enumerate(owner) if o == place]].mean(0)
            torch.testing.assert_close(x.feats[place], torch.tensor(mean), rtol=1e-4, atol=1e-5)
            assert int(targets[place]) == label
        alone = Answers(lambda x: x.feats)
        back = encoding.predict(alone, room)
        torch.testing.assert_close(back, x.feats[owner])
        assert alone.training
    loose = [Loose(*(torch.from_numpy(a) for a in (r.points, r.features, r.labels)))
             for r in rooms]  # fmt: skip
    same, labels = encoding.encode(loose)
    assert torch.equal(same.feats, x.feats) and torch.equal(labels, targets)


def test_scans_keep_their_origin():
    x, _ = VoxelEncoding(0.25, centre=False).encode([scene()])
    assert float(x.feats[:, 0].min()) > 4.9
    assert torch.equal(x.coords[:, 1:], torch.floor(x.feats[:, :3] / 0.25).long())


def test_labels_that_do_not_count_have_no_vote():
    labels = torch.tensor([2, 1, 1, -1, -1, -1, 3, 0])
    place = torch.tensor([0, 0, 0, 0, 1, 1, 3, 3])
    assert most_frequent(labels, place, 4).tolist() == [1, IGNORED, IGNORED, 0]
    nothing = torch.full((3,), IGNORED)
    assert most_frequent(nothing, torch.arange(3), 3).tolist() == [IGNORED] * 3


def test_random_blocks_hold_points_of_their_base():
    """Promise: equally many points, within the base, no repeats where there are enough."""
    encoding = BlockEncoding(block_size=1.0, block_points=64, blocks=5)
    room = scene(2000)
    rows, targets = encoding.encode([room], generators=[torch.Generator().manual_seed(3)])
    assert rows.shape == (5, 64, 6 + encoding.place_channels) and targets.shape == (5 * 64,)
    assert float(rows[..., :2].abs().max()) <= 0.5 + 1e-5 and float(rows[..., 2].min()) >= 0
    known = {tuple(f): n for n, f in enumerate((room.features - 0.5).tolist())}
    low, extent = room.points.min(0), np.ptp(room.points, 0)
    for b in range(5):
        chosen = [known[tuple(f)] for f in rows[b, :, 3:6].tolist()]
        assert len(set(chosen)) == 64
        assert targets[b * 64 : b * 64 + 64].tolist() == room.labels[chosen].tolist()
        place = torch.from_numpy((room.points[chosen] - low) / extent)
        torch.testing.assert_close(rows[b, :, 6:], place, rtol=1e-4, atol=1e-5)
        shift = torch.from_numpy(room.points[chosen])[:, :2] - rows[b, :, :2]
        torch.testing.assert_close(shift, shift[:1].expand(64, 2), rtol=1e-5, atol=1e-5)
    again, _ = encoding.encode([room], generators=[torch.Generator().manual_seed(3)])
    other, _ = encoding.encode([room], generators=[torch.Generator().manual_seed(4)])
    assert torch.equal(rows, again) and not torch.equal(rows, other)
    few, _ = BlockEncoding(block_points=64, blocks=1).encode([scene(5)])
    assert few.shape == (1, 64, 9)


@pytest.mark.parametrize("points, size", [(700, (3.0, 2.0, 1.0)), (3, (0.1, 5.0, 1.0)),
                                          (1, (1.0, 1.0, 1.0))])  # fmt: skip
def test_blocks_cover_every_point_and_answer_for_it(points, size):
    """Promise: the answer to a point's own colours comes back to that point, blocks overlapping."""
    room = scene(points, size=size)
    asked = []

    def answer(rows):
        asked.append(rows)
        return 10 * rows.flatten(0, 1)[:, 3:6]

    encoding = BlockEncoding(block_points=50)
    back = encoding.predict(Answers(answer), room)
    expected = (10 * (torch.from_numpy(room.features) - 0.5)).softmax(1)
    torch.testing.assert_close(back, expected, rtol=1e-4, atol=1e-5)
    rows = torch.cat(asked)
    assert rows.shape[1:] == (50, 9) and float(rows[..., :2].abs().max()) <= 0.5 + 1e-4
    half = np.floor((room.points - room.points.min(0))[:, :2] / np.float32(0.5))
    inner = half[((half > 0) & (half < half.max(0))).all(1)]
    seen = {tuple(f) for f in (room.features - 0.5).tolist()}
    counts = dict.fromkeys(seen, 0)
    for row in rows:
        for colours in {tuple(f) for f in row[:, 3:6].tolist()}:
            counts[colours] += 1
    assert min(counts.values()) >= 1
    assert sum(c >= 4 for c in counts.values()) >= len(inner)


def test_overlapping_blocks_are_averaged():
    """Promise: a point's score is the mean over the blocks that it lies in."""
    room = scene(200, size=(1.4, 0.4, 1.0))  # three half blocks long: two blocks
    calls = iter([0.0, 2.0])

    def answer(rows):
        logits = torch.zeros(rows.shape[0] * rows.shape[1], 2)
        for b in range(len(rows)):
            logits[b * rows.shape[1] : (b + 1) * rows.shape[1], 1] = next(calls)
        return logits

    back = BlockEncoding(block_points=200).predict(Answers(answer), room)
    first, second = (torch.tensor([0.0, value]).softmax(0) for value in (0.0, 2.0))
    half = np.floor((room.points[:, 0] - room.points[:, 0].min()) / np.float32(0.5))
    for point, cell in enumerate(half):
        expected = {0: first, 1: (first + second) / 2, 2: second}[int(cell)]
        torch.testing.assert_close(back[point], expected)


def scan(points=400, seed=0):
    random = np.random.default_rng(seed)
    place = random.normal(size=(points, 3)) * (8, 8, 0.8)
    return Scene(f"scan_{seed}", place.astype(np.float32),
                 random.random((points, 1)).astype(np.float32), random.integers(-1, 3, points))


def test_pixels_hold_the_nearest_point_and_its_label():
    encoding = RangeEncoding(32, 64)
    x, targets = encoding.encode([scan(seed=0), scan(seed=1)])
    assert x.shape == (2, 1 + encoding.place_channels, 32, 64) and targets.shape == (2 * 32 * 64,)
    target = targets.view(2, 32, 64)
    for sample in range(2):
        labelled = scan(seed=sample)
        for n in range(400):
            same = (x[sample, 4] == 2 * torch.tensor(labelled.features[n, 0]) - 1).nonzero()
            for r, c in same.tolist():
                assert int(target[sample, r, c]) == labelled.labels[n]
        empty = (x[sample] == 0).all(0)
        assert (target[sample][empty] == IGNORED).all() and 100 < int(empty.sum()) < 2000


def test_pixels_answer_for_their_points():
    """Promise: each point gets its own pixel's answer, or its neighbours' vote; none is missing."""
    sky = np.array([[0, 0, 50], [0, 0, 0]], np.float32)  # outside the image, and the sensor itself
    plain = scan()
    whole = Scene("scan", np.concatenate([plain.points, sky]),
                  np.concatenate([plain.features, np.float32([[0.5], [0.5]])]),
                  np.concatenate([plain.labels, [0, 0]]))  # fmt: skip
    numbers = Answers(lambda x: torch.arange(32 * 64.0)[:, None].expand(-1, 3))
    own = RangeEncoding(32, 64, back_projection="pixel").predict(numbers, whole)[:, 0].long()
    yaw = np.arctan2(whole.points[:, 1], whole.points[:, 0])
    column = np.floor((1 - yaw / np.pi) / 2 * 64).astype(int) % 64
    assert (own.numpy() % 64 == column).all() and own.shape == (402,)
    left = Answers(lambda x: torch.tensor([[1.0, 0, 0]] * 32 + [[0, 0, 1.0]] * 32).repeat(32, 1))
    votes = RangeEncoding(32, 64).predict(left, whole)
    assert votes.shape == (402, 3) and (votes.sum(1) >= 1).all()
    far = (np.abs(yaw) > 0.2) & (np.abs(yaw) < np.pi - 0.2)
    side = torch.from_numpy(np.where(yaw > 0, 0, 2))
    assert torch.equal(votes.argmax(1)[far], side[far])


@pytest.mark.parametrize("name, settings, network", [
    ("unet:efficientnet_lite0", {"voxel_size": 0.1}, {"decoder_width": 0.1}),
    ("pointnet2_ssg", {"block_points": 128, "blocks": 2}, {}),
    ("range:efficientnet_lite0", {"height": 32, "width": 64}, {}),
])  # fmt: skip
def test_every_network_answers_for_every_point(name, settings, network):
    """Promise: one answer per target, one score per point, the same each time."""
    encoding = encoding_for(name, **settings)
    net = segmenter(name, 4, 3, **network)
    room = scene(300)
    x, targets = encoding.encode([room, scene(100, seed=1)])
    with torch.random.fork_rng():
        assert net(x).shape == (len(targets), 4)
    first = encoding.predict(net, room)
    assert first.shape == (300, 4) and torch.isfinite(first).all() and net.training
    assert torch.equal(first, encoding.predict(net, room))


def test_scenes_without_points_are_refused():
    nothing = Loose(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    for name in ("unet:resnet18", "pointnet2_ssg", "range:resnet18"):
        with pytest.raises(ValueError, match=r"N at least 1, got \[0, 3\]"):
            encoding_for(name).encode([nothing])
    with pytest.raises(ValueError, match="expected unet:NAME, range:NAME or pointnet2_ssg, got"):
        encoding_for("unet")
    with pytest.raises(ValueError, match="'knn' or 'pixel'.*'vote'"):
        encoding_for("range:resnet18", back_projection="vote")
