"""PointNet++ is the paper's network, keeps its symmetries, and takes what pixels have taught."""

import fractals
import pytest
import torch
from _pretraining import image_to_points
from safetensors.torch import load_file, save_file
from torch import nn

from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.models.pointnet2 import PointNet2, SetAbstraction, pointnet2_ssg
from i2p_lib.weights.cards import weight_card
from i2p_lib.weights.files import PACKAGED

PIXELS = "pointnet2_ssg-imagenet1k_pixels.safetensors"


def sphere(batch=2, size=128, seed=0):
    """Points on the unit sphere, float32."""
    points = torch.randn(batch, size, 3, generator=torch.Generator().manual_seed(seed))
    return points / points.norm(dim=2, keepdim=True)


@pytest.fixture(scope="module")
def settled():
    """A network in float64 whose norms have seen points, in evaluation mode."""
    net = pointnet2_ssg(5)
    with torch.no_grad():
        net(sphere())
    return net.double().eval()


def test_the_layers_are_those_of_the_paper():
    """Promise: SSG widths, radii, samples and dropout, and the known 1.48 million parameters."""
    net = pointnet2_ssg(40)
    widths = [tuple(layer.weight.shape[::-1]) for layer in net.modules()
              if isinstance(layer, nn.Linear)]  # fmt: skip
    assert widths == [(3, 64), (64, 64), (64, 128), (131, 128), (128, 128), (128, 256),
                      (259, 256), (256, 512), (512, 1024), (1024, 512), (512, 256), (256, 40)]
    stages = [(stage.count, stage.radius, stage.size) for stage in (net.sa1, net.sa2)]
    assert stages == [(512, 0.2, 32), (128, 0.4, 64)]
    assert [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    # 1,475,688 in the authors' code, where 3,328 biases stand before norms that undo them
    assert sum(p.numel() for p in net.parameters()) == 1_475_688 - 3_328


def test_a_stage_is_a_pointnet_on_each_ball():
    """Promise: equal to a loop over centres that looks at one ball at a time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = SetAbstraction(2, count=6, radius=0.7, size=4, widths=[8, 5]).eval()
    points, features = sphere(size=40), sphere(size=40, seed=1)[..., :2]
    centres, pooled = stage(points, features)
    for b in range(2):
        for m in range(6):
            near = (points[b] - centres[b, m]).norm(dim=1) < 0.7
            ball = torch.cat([points[b] - centres[b, m], features[b]], 1)[near][:4]
            torch.testing.assert_close(pooled[b, m], stage.mlp(ball).amax(0))


def test_the_order_of_the_points_does_not_matter_where_it_is_said_not_to(settled):
    """Promise: point 0 stays first and no ball overflows: the same logits."""
    points = sphere(size=400).double()
    assert int((torch.cdist(points, points) < 0.2).sum(2).max()) <= 32
    order = 1 + torch.randperm(399, generator=torch.Generator().manual_seed(3))
    order = torch.cat([torch.zeros(1, dtype=torch.long), order])
    with torch.no_grad():
        logits = settled(points)
        torch.testing.assert_close(settled(points[:, order]), logits, rtol=1e-9, atol=1e-9)
        other_start = settled(points.roll(1, 1))
    assert not torch.allclose(other_start, logits, rtol=1e-6, atol=1e-6)


def test_a_fuller_ball_is_cut_in_the_order_of_the_points(settled):
    """Promise: the limit of the symmetry is real: crowded balls feel the order."""
    points = sphere(1, size=100).double() * 0.1  # all within one ball
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(99, 0, -1)])
    with torch.no_grad():
        assert not torch.allclose(settled(points), settled(points[:, order]), rtol=0, atol=1e-9)


def test_moving_the_cloud_changes_the_last_stage_only(settled):
    """Promise: local features see offsets; the global stage sees the centres."""
    points = ((sphere(size=200) * 256).round() / 256).double()
    with torch.no_grad():
        first, second = (settled.sa2(*settled.sa1(x, x[..., 3:])) for x in (points, points + 2))
        assert torch.equal(second[0], first[0] + 2) and torch.equal(second[1], first[1])
        assert not torch.allclose(settled(points), settled(points + 2), rtol=1e-6, atol=1e-6)


def test_the_network_fulfils_the_contract():
    """Promise: [B, P, 3] to logits; every parameter has one role; the classifier's input."""
    net = pointnet2_ssg(7)
    seen = {}
    net.get_submodule(net.i2p_classifier).register_forward_hook(
        lambda layer, x, y: seen.update(features=x[0], logits=y)
    )
    logits = net(sphere())
    assert net.i2p_input == "points" and logits.shape == (2, 7)
    assert seen["features"].shape == (2, 256) and seen["logits"] is logits
    roles = net.i2p_roles
    assert list(roles) == [name for name, _ in net.named_parameters()]
    assert [n for n in roles if roles[n] == "input"] == [
        "sa1.mlp.0.weight", "sa1.mlp.1.weight", "sa1.mlp.1.bias"]  # fmt: skip
    assert [n for n in roles if roles[n] == "output"] == ["classifier.weight", "classifier.bias"]
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm1d)]
    assert sum(role == "norm" for role in roles.values()) == 2 * (len(norms) - 1)
    assert set(net.i2p_report.action) == {"new"} and len(net.i2p_report) == len(net.state_dict())


@pytest.mark.parametrize("regime", REGIMES)
def test_regimes_train_what_they_say(regime):
    """Promise: parameters of the regime move, with finite gradients, and nothing else does."""
    net = pointnet2_ssg(2)
    freeze(net, regime)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    nn.functional.cross_entropy(net.train()(sphere(size=64)), torch.arange(2)).backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    optimizer.step()
    moved = {n for n, tensor in net.state_dict().items() if not torch.equal(tensor, before[n])}
    parameters = set(net.i2p_roles)
    assert moved & parameters == set(trained)
    assert {net.i2p_roles[name] for name in trained} == set(REGIMES[regime].roles)
    assert ("sa2.mlp.1.running_mean" in moved) is (regime != "io")
    assert "sa1.mlp.1.running_mean" in moved


def test_random_weights_follow_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = (pointnet2_ssg(3, w, seed=s).state_dict()
                           for w, s in (("random", 1), (None, 1), ("random", 2)))  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["sa3.0.weight"], other["sa3.0.weight"])


def test_an_image_becomes_a_cloud_of_its_pixels():
    """Promise: pixel by pixel; x right, y up, z 0, the longer side from -1 to 1, colours kept."""
    images = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    points = image_to_points(images)
    assert points.shape == (2, 8, 6)
    for row in range(2):
        for column in range(4):
            x, y = [-0.75, -0.25, 0.25, 0.75][column], [0.25, -0.25][row]
            place = points[:, row * 4 + column]
            assert torch.equal(place[:, :3], torch.tensor([[x, y, 0.0]] * 2))
            assert torch.equal(place[:, 3:], images[:, :, row, column])
    with pytest.raises(ValueError, match=r"float images .* got torch.uint8 \[1, 3, 8, 8\]"):
        image_to_points(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.fixture(scope="module")
def pixel_file(tmp_path_factory):
    """The file of a pixel network after one real training step on images, and its tensors."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = PointNet2(1000, channels=3)
        images = torch.rand(2, 3, 12, 16)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        nn.functional.cross_entropy(net(image_to_points(images)), torch.tensor([1, 4])).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / PIXELS
    save_file(net.state_dict(), path)
    return path, net.state_dict()


def test_what_pixels_have_taught_is_transferred(pixel_file):
    """Promise: all tensors but the first layer and the classifier are the file's own."""
    path, stored = pixel_file
    net = pointnet2_ssg(4, weights="imagenet1k_pixels", seed=1, weights_dir=path.parent)
    new = {"sa1.mlp.0.weight", "classifier.weight", "classifier.bias"}
    state = net.state_dict()
    assert set(state) == set(stored)
    assert all(torch.equal(state[name], stored[name]) for name in set(state) - new)
    report = net.i2p_report.set_index("tensor")
    assert set(report.index) == set(state)
    assert set(report.index[report.action == "new"]) == new
    assert (report.action[report.action != "new"] == "copied").all()
    assert report.loc["sa1.mlp.0.weight", ["image", "points"]].tolist() == ["64x6", "64x3"]
    assert report.loc["classifier.weight", ["image", "points"]].tolist() == ["1000x256", "4x256"]
    assert net.eval()(sphere()).shape == (2, 4)


def test_the_packaged_weights_name_pixels_of_fractals_that_they_never_saw():
    """Promise: PointNet++'s own pretraining loads strictly, and is far better than chance."""
    card = weight_card("pointnet2_ssg", "fractal_pixels")
    net = PointNet2(card.classes, channels=3).eval()
    net.load_state_dict(load_file(PACKAGED / card.file_name), strict=True)
    categories = fractals.find_categories(10, seed=1)  # the first of those that it learned
    drawn = list(fractals.fractal_images(categories, 10, 96, 2, "held_out"))
    pixels = torch.stack([torch.from_numpy(image[8:88, 8:88].copy()) for _, image in drawn])
    values = nn.functional.adaptive_avg_pool2d((pixels[:, None].float() / 255 - 0.2) / 0.5, 32)
    with torch.no_grad():
        named = net(image_to_points(values.expand(-1, 3, -1, -1))).argmax(1)
    right = (named == torch.tensor([label for label, _ in drawn])).float().mean()
    assert right > 0.1  # chance is 1 in 60
    assert pointnet2_ssg(4, weights="fractal_pixels").eval()(sphere()).shape == (2, 4)


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda t: t.pop("sa2.mlp.0.weight"), "sa2.mlp.0.weight .missing in the file"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.pop("classifier.bias"), "classifier"),
        (lambda t: t.update({"sa1.mlp.0.weight": torch.zeros(64, 3)}), "sa1.mlp.0.weight"),
    ],
)
def test_a_file_of_another_network_is_refused(pixel_file, tmp_path, change, fault):
    """Promise: no tensor is missing, left over or of another shape."""
    tensors = dict(pixel_file[1])
    change(tensors)
    save_file(tensors, tmp_path / PIXELS)
    with pytest.raises(ValueError, match=f"do not fit.*{fault}"):
        pointnet2_ssg(4, weights="imagenet1k_pixels", weights_dir=tmp_path)


def test_absent_weights_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="imagenet1k_pixels"):
        pointnet2_ssg(4, weights="imagenet1k")
    with pytest.raises(FileNotFoundError, match=f"train i2p_lib.*{PIXELS}"):
        pointnet2_ssg(4, weights="imagenet1k_pixels", weights_dir=tmp_path)


def test_points_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"expected points \[B, P, 3\], got \[2, 128, 6\]"):
        pointnet2_ssg(4)(torch.zeros(2, 128, 6))
