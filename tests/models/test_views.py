"""Depth views are SimpleView's, and any image model runs on them with its weights copied."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from i2p_lib.models.views import (
    depth_views,
    image_on_views,
    resnet18_quarter,
    simpleview,
)
from i2p_lib.weights import image_model

ANGLES = [(0, 0), (1, 0), (2, 0), (3, 0), (0, -1), (0, 1)]  # about x and y, in right angles


def cloud(batch=2, points=300, seed=0):
    """Points in the unit ball, float32."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, points, 3, generator=generator)
    return points / points.norm(dim=2).amax(1)[:, None, None]


def turn(axis, angle):
    """Rotation matrix about a coordinate axis."""
    c, s = round(np.cos(angle)), round(np.sin(angle))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def pictures_by_hand(points, size):
    """SimpleView's projection, point by point, from its Euler angles; y points up."""
    pictures = np.zeros((6, size, size), np.float32)
    for view, (about_x, about_y) in enumerate(ANGLES):
        rotation = (turn(0, about_x * np.pi / 2) @ turn(1, about_y * np.pi / 2)
                    @ turn(2, np.pi / 2)).astype(np.float32)  # fmt: skip
        values = np.zeros((size, size), np.float32)
        weights = np.zeros((size, size), np.float32)
        for point in points:
            row, column, depth = rotation @ point
            depth = np.float32(depth + np.float32(1.4))
            if depth <= 0:
                continue
            r = int(np.ceil((row / depth + 1) * size / 2 - 0.5))
            c = int(np.ceil((column / depth + 1) * size / 2 - 0.5))
            if 0 <= r < size and 0 <= c < size:
                values[r, c] += depth / depth
                weights[r, c] += 1 / depth
        hit = weights > 0
        pictures[view][hit] = values[hit] / weights[hit]
    return pictures


@pytest.mark.parametrize("size", [16, 37, 128])
def test_views_equal_a_loop_over_points(size):
    """Promise: rotation, perspective, rounding and weights are SimpleView's."""
    points = cloud()
    got = depth_views(points, size, up="y")
    for image, expected in zip(got, points.numpy(), strict=True):
        np.testing.assert_allclose(image, pictures_by_hand(expected, size), rtol=1e-5)
    assert (got > 0).any((2, 3)).all()


def test_z_up_is_y_up_after_a_turn():
    """Promise: a cloud whose z points up gives the pictures of the same cloud set upright in y."""
    points = cloud()
    x, y, z = points.unbind(2)
    assert torch.equal(depth_views(points, up="z"), depth_views(torch.stack([x, z, -y], 2), up="y"))


@pytest.mark.parametrize("up, axis", [("y", 1), ("z", 2)])
def test_a_quarter_turn_permutes_the_side_views(up, axis):
    """Promise: a turn by 90 degrees about the upright axis only renames the four side views."""
    points = cloud()
    matrix = torch.tensor(turn(axis, np.pi / 2), dtype=points.dtype)
    before, after = depth_views(points, 64, up), depth_views(points @ matrix.T, 64, up)
    assert torch.equal(before[:, :4], after[:, :4].roll(1, dims=1)) or torch.equal(
        before[:, :4], after[:, :4].roll(-1, dims=1))  # fmt: skip
    assert not torch.equal(before[:, 0], before[:, 1])


@pytest.mark.parametrize("up, axis", [("y", 1), ("z", 2)])
def test_up_is_up_in_the_side_views(up, axis):
    """Promise: the highest point lies in the top row of the side views, nearest from above."""
    points = torch.zeros(1, 2, 3)
    points[0, 0, axis], points[0, 1, axis] = 0.8, -0.8
    views = depth_views(points, 32, up)[0]
    rows = [torch.nonzero(view)[:, 0].tolist() for view in views[:4]]
    assert all(r == [7, 25] for r in rows), rows
    assert views[4].max() == pytest.approx(2 / (1 / 0.6 + 1 / 2.2))


def test_a_pixel_is_the_harmonic_mean_of_its_depths():
    """Promise: points that share a pixel count with weights 1/depth; a pixel without any is 0."""
    picture = depth_views(torch.tensor([[[0.0, 0, 0.6], [0.0, 0, -0.4]]]), 8, up="y")[0, 0]
    assert picture.max() == pytest.approx(2 / (1 / 2.0 + 1 / 1.0))
    assert (picture > 0).sum() == 1


def test_points_behind_the_camera_or_beside_the_picture_leave_no_trace():
    far = torch.tensor([[[0.0, 0, -1.5], [0.0, 0, -1.4], [50.0, 0, 0.2], [float("nan")] * 3]])
    assert not depth_views(far, 16, up="y")[0, 0].any()
    assert torch.isfinite(depth_views(far, 16, up="y")).all()


def test_pictures_follow_the_depth_of_their_points():
    """Promise: the gradient is that of the mean; points out of sight have none and are finite."""
    points = torch.tensor([[[0.1, 0.2, 0.3], [0.0, 0.0, -1.4]]], requires_grad=True)
    depth_views(points, 32, up="y")[0, 0].sum().backward()
    torch.testing.assert_close(points.grad, torch.tensor([[[0.0, 0, 1], [0, 0, 0]]]))


def test_neither_order_nor_company_changes_a_picture():
    """Promise: deterministic, independent of the other clouds, and of the order of points."""
    points = cloud(3)
    views = depth_views(points)
    assert torch.equal(views, depth_views(points))
    assert torch.equal(views[1:2], depth_views(points[1:2]))
    torch.testing.assert_close(views, depth_views(points.flip(1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_pictures():
    torch.testing.assert_close(depth_views(cloud().cuda()).cpu(), depth_views(cloud()))


def test_one_summed_channel_is_three_equal_channels():
    """Promise: the adapted input layer gives what depth repeated to three channels gives."""
    image = image_model("efficientnet_lite0", "imagenet1k").eval()
    net = image_on_views("efficientnet_lite0", 5, "imagenet1k").eval()
    image.classifier = nn.Identity()
    points = cloud(1)
    pictures = depth_views(points)[0][:, None]
    with torch.no_grad():
        expected, got = image(pictures.expand(-1, 3, -1, -1)), net.image(pictures)
        logits = net(points)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, net.classifier(expected.flatten()[None]), rtol=1e-3,
                               atol=1e-4)  # fmt: skip


def test_image_weights_are_copied():
    """Promise: every tensor but the input convolution and the classifier is the image model's."""
    image = image_model("efficientnet_lite0", "imagenet1k").state_dict()
    net = image_on_views("efficientnet_lite0", 5, "imagenet1k")
    mine = net.image.state_dict()
    assert set(image) - set(mine) == {"classifier.weight", "classifier.bias"}
    assert [n for n in mine if not torch.equal(mine[n], image[n])] == ["conv_stem.weight"]
    assert "refused" not in set(net.image.i2p_transfer.state)


@pytest.mark.parametrize("make", [
    simpleview, lambda *a, **k: image_on_views("resnet18", *a, **k),
    lambda *a, **k: image_on_views("vit_tiny_patch16_224", *a, **k),
], ids=["simpleview", "resnet18", "vit"])  # fmt: skip
def test_the_contract_of_networks_on_points(make):
    """Promise: roles for each parameter, a linear classifier, a report, and the seed alone."""
    before = torch.random.get_rng_state()
    net, again, other = make(7, seed=1), make(7, seed=1), make(7, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not torch.equal(net.classifier.weight, other.classifier.weight)
    names = [name for name, _ in net.named_parameters()]
    assert list(net.i2p_roles) == names and net.i2p_input == "points"
    assert set(net.i2p_roles.values()) == {"input", "norm", "backbone", "output"}
    assert net.i2p_roles["classifier.weight"] == "output"
    classifier = net.get_submodule(net.i2p_classifier)
    seen = []
    classifier.register_forward_hook(lambda m, i, o: seen.append((i[0].shape, o.shape)))
    logits = net.eval()(cloud())
    assert logits.shape == (2, 7) and isinstance(classifier, nn.Linear)
    assert seen == [((2, classifier.in_features), (2, 7))]
    report = net.i2p_report
    assert set(report["tensor"][report["action"] != "dropped"]) == set(net.state_dict())
    assert report["action"].isin(["copied", "new", "replaced", "dropped"]).all()
    assert (report["action"] == "replaced").sum() == 1  # the input convolution


def test_simpleview_is_the_quarter_width_network():
    """Promise: SimpleView's widths, stem, head and number of parameters."""
    net = simpleview(40)
    shapes = {}
    for name in ("conv1", "layer1", "layer4"):
        net.image.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: shapes.update({name: tuple(o.shape[1:])}))  # fmt: skip
    net.eval()(cloud(1))
    assert shapes == {"conv1": (16, 128, 128), "layer1": (16, 128, 128), "layer4": (128, 16, 16)}
    assert tuple(net.image.conv1.weight.shape) == (16, 1, 3, 3)
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(768, 128), (128, 40)]
    assert net.i2p_roles["fusion.4.weight"] == "output"


def test_simpleview_learns():
    """Promise: every parameter gets a gradient, and a few steps lower the loss."""
    net, points = simpleview(2, seed=3), cloud(8, 200)
    net.size = 24
    points[4:, :, 0] *= 0.1
    labels = torch.arange(8) // 4
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(6):
            loss = nn.functional.cross_entropy(net(points), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert all(p.grad is not None for p in net.parameters())
    assert losses[-1] < 0.5 * losses[0], losses


def test_simpleview_without_a_file_says_that_none_is_public(tmp_path, monkeypatch):
    monkeypatch.delenv("I2P_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match="train i2p_lib.models.views.resnet18_quarter"):
        simpleview(40, "imagenet1k", weights_dir=tmp_path)


def test_simpleview_loads_a_file_of_its_own_strictly(tmp_path):
    """Promise: each tensor arrives, the stem summed over colours; another network is refused."""
    image = resnet18_quarter()
    save_file(image.state_dict(), tmp_path / "simpleview.imagenet1k.safetensors")
    net = simpleview(40, "imagenet1k", weights_dir=tmp_path)
    stored, loaded = image.state_dict(), net.image.state_dict()
    assert torch.equal(loaded["conv1.weight"], stored["conv1.weight"].sum(1, keepdim=True))
    assert all(torch.equal(loaded[n], stored[n]) for n in loaded if n != "conv1.weight")
    tensors = image.state_dict()
    del tensors["layer3.0.bn1.weight"]
    save_file(tensors, tmp_path / "simpleview.imagenet1k.safetensors")
    with pytest.raises(ValueError, match="layer3.0.bn1.weight"):
        simpleview(40, "imagenet1k", weights_dir=tmp_path)


@pytest.mark.parametrize("points", [torch.zeros(5, 3), torch.zeros(1, 5, 4),
                                    torch.zeros(1, 5, 3, dtype=torch.int64)])  # fmt: skip
def test_other_points_are_refused(points):
    with pytest.raises(ValueError, match=r"expected float points \[B, P, 3\]"):
        depth_views(points)


@pytest.mark.parametrize("name, size, pixels", [
    ("mobilenetv3_small_050", None, 128), ("mobilenetv3_small_050", 40, 40),
    ("vit_tiny_patch16_224", None, 224),
])  # fmt: skip
def test_size_of_the_pictures(name, size, pixels):
    """Promise: 128 pixels, the size asked for, or the only one that the image model takes."""
    net, seen = image_on_views(name, 5).eval(), []
    net.size = size or net.size
    net.image.register_forward_pre_hook(lambda m, i: seen.append(tuple(i[0].shape)))
    net(cloud(1))
    assert seen == [(6, 1, pixels, pixels)]


def test_unfit_models_and_axes_are_refused():
    with pytest.raises(ValueError, match="SqueezeNet has no linear classifier"):
        image_on_views("squeezenet1_0", 5)
    with pytest.raises(ValueError, match="unknown image model 'resnet5'"):
        image_on_views("resnet5", 5)
    with pytest.raises(ValueError, match="up must be one of y, z, got 'x'"):
        simpleview(5, up="x")(cloud())
