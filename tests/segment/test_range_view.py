"""Range images: every point where its direction says, image networks on them, votes coming back."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.models.range_view import (
    nearest_in_pixel,
    range_image,
    spherical_pixels,
    vote_of_neighbours,
)
from i2p_lib.models.segmenters import segmenter
from i2p_lib.models.stages import stage_outputs
from i2p_lib.weights import image_model

LITE = "range:efficientnet_lite0"


def at(yaw, pitch, distance):
    """A point by its angles in degrees."""
    yaw, pitch = math.radians(yaw), math.radians(pitch)
    return [distance * math.cos(pitch) * math.cos(yaw), distance * math.cos(pitch) * math.sin(yaw),
            distance * math.sin(pitch)]  # fmt: skip


def images(batch=2, channels=5, height=32, width=64, seed=0):
    return torch.randn(batch, channels, height, width,
                       generator=torch.Generator().manual_seed(seed))


def test_points_fall_into_the_pixels_of_their_directions():
    """Promise: a projection made by hand: 4 rows of 7 degrees from +3 down, 8 columns of 45."""
    made = [  # yaw, pitch, range, row, column
        (10, 1, 5, 0, 3), (-10, 1, 5, 0, 4), (100, 1, 5, 0, 1), (-100, 1, 5, 0, 6),
        (170, -5, 7, 1, 0), (-170, -5, 7, 1, 7), (180, -12, 9, 2, 0), (-179.99, -12, 9, 2, 7),
        (10, -24.9, 2, 3, 3), (10, 40, 3, 0, 3), (10, -60, 3, 3, 3),
    ]  # fmt: skip
    points = torch.tensor([at(*angles) for *angles, _, _ in made])
    row, column, distance = spherical_pixels(points, 4, 8, 3.0, -25.0)
    assert row.tolist() == [r for *_, r, _ in made]
    assert column.tolist() == [c for *_, c in made]
    torch.testing.assert_close(distance, torch.tensor([float(d) for _, _, d, _, _ in made]))
    behind = spherical_pixels(torch.tensor([[-1.0, -0.0, 0.0], [0.0, 0.0, 0.0]]), 4, 8, 3.0, -25.0)
    assert behind[1].tolist()[0] == 0  # straight behind is one column, whatever the sign of zero
    assert behind[2].tolist() == [1, 0] and all(0 <= r < 4 for r in behind[0].tolist())


def test_the_nearest_point_is_seen():
    """Promise: equal to a loop; the first of equally near ones; channels of that point."""
    random = torch.Generator().manual_seed(0)
    points = torch.randint(-3, 4, (200, 3), generator=random).float()
    features = torch.rand(200, 1, generator=random)
    row, column, distance = spherical_pixels(points, 4, 8, 90.0, -90.0)
    pixel = row * 8 + column
    nearest = nearest_in_pixel(pixel, distance, 40)
    for place in range(40):
        here = [(float(distance[n]), n) for n in range(200) if pixel[n] == place]
        assert int(nearest[place]) == (min(here)[1] if here else -1)
    assert (nearest == -1).sum() >= 8
    image = range_image(points, features, nearest)
    assert image.shape == (5, 40)
    for place, n in enumerate(nearest.tolist()):
        x, y, z = points[n].tolist()
        values = [(math.hypot(x, y, z) - 12) / 12, x / 12, y / 12, z + 1, 2 * features[n] - 1]
        expected = torch.tensor(values if n >= 0 else [0.0] * 5)
        torch.testing.assert_close(image[:, place], expected)


@pytest.mark.parametrize("window, neighbours", [(3, 3), (5, 5), (5, 25)])
def test_the_vote_equals_a_loop_over_points(window, neighbours):
    """Promise: RangeNet++'s rule, pixel by pixel, columns going round, rows ending."""
    random = torch.Generator().manual_seed(window)
    height, width, classes, half = 4, 6, 3, window // 2
    labels = torch.randint(classes, (height, width), generator=random)
    ranges = 3 + torch.randint(8, (height, width), generator=random) / 4
    ranges[torch.rand(height, width, generator=random) < 0.3] = torch.inf
    row = torch.randint(height, (50,), generator=random)
    column = torch.randint(width, (50,), generator=random)
    distance = 3 + torch.rand(50, generator=random) * 2
    votes = vote_of_neighbours(labels, ranges, row, column, distance, classes, neighbours, window)
    bell = {(i, j): math.exp(-(i * i + j * j) / 2) for i in range(-half, half + 1)
            for j in range(-half, half + 1)}  # fmt: skip
    for p in range(50):
        candidates = []
        for order, ((i, j), value) in enumerate(bell.items()):
            r, c = int(row[p]) + i, (int(column[p]) + j) % width
            if not 0 <= r < height:
                continue
            difference = 0.0 if i == j == 0 else abs(float(ranges[r, c]) - float(distance[p]))
            difference *= 1 - value / sum(bell.values())
            if difference <= 1:
                candidates.append((difference, order, int(labels[r, c])))
        expected = [0.0] * classes
        for _, _, label in sorted(candidates)[:neighbours]:
            expected[label] += 1
        assert votes[p].tolist() == expected
    assert (votes.sum(1) >= 1).all()


def test_a_hidden_point_is_outvoted_by_its_own_surface():
    """Promise: a point behind the edge of a pole gets the class of the wall around it."""
    labels, ranges = torch.zeros(5, 5, dtype=torch.int64), torch.full((5, 5), 10.0)
    labels[:, 2], ranges[:, 2] = 1, 4.0  # the pole
    votes = vote_of_neighbours(labels, ranges, torch.tensor([2, 2]), torch.tensor([2, 2]),
                               torch.tensor([10.0, 4.0]), 2)  # fmt: skip
    assert votes.argmax(1).tolist() == [0, 1]


def test_hrnet_joins_its_four_resolutions():
    """Promise: stage four's maps, all brought to the finest, 1x1 layers, as HRNetV2 has them."""
    net = segmenter("range:hrnet_w18_small", 3, 1).eval()
    net.wrap = 0
    x = images()
    maps = stage_outputs(net.encoder, net.stages, x)
    assert [m.shape[1] for m in maps] == [16, 32, 64, 128]
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    own = net.encoder
    with torch.no_grad():
        start = own.act1(own.bn1(own.conv1(x)))
        expected = own.stages(own.act2(own.bn2(own.conv2(start))))
        joined = torch.cat([F.interpolate(m, size=(16, 16), mode="bilinear") for m in expected], 1)
        logits = F.interpolate(net.decoder(joined), size=(32, 64), mode="bilinear")
        got = net(x)
    torch.testing.assert_close(got, logits.permute(0, 2, 3, 1).reshape(-1, 3))
    kinds = [type(layer) for layer in net.decoder]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    parts = {n.split(".")[1] for n, _ in net.named_parameters() if n.startswith("encoder.")}
    assert not parts & {"incre_modules", "downsamp_modules", "final_layer", "classifier"}


def test_the_papers_hrnet_joins_720_channels():
    with torch.device("meta"):
        net = segmenter("range:hrnet_w48", 19, 1)
    first, last = net.decoder[0], net.decoder[3]
    assert (first.in_channels, first.out_channels, last.out_channels) == (720, 720, 19)
    stem = net.encoder.conv1
    assert (stem.in_channels, stem.kernel_size, stem.stride) == (5, (3, 3), (1, 2))


def test_image_weights_arrive_and_all_are_accounted_for():
    """Promise: all but the input layer and the unused end are the file's; the report says so."""
    net = segmenter(LITE, 4, 1, weights="imagenet1k")
    image = image_model("efficientnet_lite0", "imagenet1k").state_dict()
    state, report = net.state_dict(), net.i2p_report.set_index("tensor")
    unused = ("conv_head.", "bn2.", "classifier.")
    for name, tensor in image.items():
        row = report.loc[f"encoder.{name}"]
        if name == "conv_stem.weight":
            assert (row.action, row["image"], row["points"]) == ("new", "32x3x3x3", "32x5x3x3")
        elif name.startswith(unused):
            assert row.action == "dropped" and f"encoder.{name}" not in state
        else:
            assert row.action == "copied" and torch.equal(state[f"encoder.{name}"], tensor)
    assert set(state) == set(report.index[report.action != "dropped"])
    assert "refused" not in set(net.encoder.i2p_transfer.state)


@pytest.mark.parametrize("regime", ["io", "io+bn", "all"])
def test_gradients_reach_what_a_regime_trains(regime):
    net = segmenter(LITE, 4, 1)
    freeze(net, regime)
    labels = torch.randint(4, (2 * 32 * 64,), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        F.cross_entropy(net.train()(images()), labels).backward()
    for name, parameter in net.named_parameters():
        trained = net.i2p_roles[name] in REGIMES[regime].roles
        assert (parameter.grad is not None) is trained, name
        assert not trained or torch.isfinite(parameter.grad).all()
    inputs = {n for n, role in net.i2p_roles.items() if role == "input"}
    assert inputs == {f"encoder.{n}" for n in ("conv_stem.weight", "bn1.weight", "bn1.bias")}
    assert all((r == "output") is n.startswith("decoder.") for n, r in net.i2p_roles.items())


def test_a_scan_is_a_closed_circle():
    """Promise: the network sees the columns of the other end beside the first and the last."""
    net = segmenter(LITE, 4, 1).eval()
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = images()
    with torch.no_grad():
        assert net(x).shape == (2 * 32 * 64, 4)
    assert torch.equal(seen[0], torch.cat([x[..., -32:], x, x[..., :32]], 3))


def test_answers_depend_on_input_and_seed_alone():
    before = torch.random.get_rng_state()
    nets = [segmenter(LITE, 4, 1, seed=seed).eval() for seed in (1, 1, 2)]
    with torch.no_grad():
        first, again, other = (net(images(1)) for net in nets)
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="multiples of 32, got 48 x 64"):
        segmenter(LITE, 4, 1)(images(height=48))
    with pytest.raises(ValueError, match="expected unet:NAME, range:NAME or pointnet2_ssg"):
        segmenter("ranges:resnet18", 4, 1)
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        segmenter(LITE, 0, 1)
    with pytest.raises(TypeError, match="block_size"):
        segmenter(LITE, 4, 1, block_size=1)
