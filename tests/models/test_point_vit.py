"""The point transformer is timm's own behind a tokenizer: same tokens in, same logits out."""

import pytest
import torch
from torch import nn

from i2p_lib.inflation.regimes import REGIMES, freeze
from i2p_lib.models.point_vit import (
    PointTokenizer,
    _build,
    point_vit_b16,
    point_vit_l16,
    put_on_points,
)


def image_vit(depth=2, seed=0):
    """timm's ViT-Tiny at reduced depth: 32 x 32 pixels, four patches, random weights."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=depth, num_classes=9)
        nn.init.normal_(vit.cls_token)  # timm starts it at almost zero
        return vit


def small(num_classes=5, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return put_on_points(image_vit(seed=seed), num_classes, groups=4, size=8)


def cloud(batch=2, size=60, seed=0):
    return torch.randn(batch, size, 3, generator=torch.Generator().manual_seed(seed))


def test_from_the_tokens_on_the_logits_are_timms():
    """Promise: an image model that is handed the point tokens as its patches answers the same."""
    net, reference = small().eval(), image_vit().eval()
    tokens = net.patch_embed(cloud())
    reference.patch_embed = nn.Identity()
    reference.pos_embed.data[:, 1:] = 0  # the tokens carry their own; the class token keeps its
    reference.head = net.head
    assert torch.equal(net(cloud()), reference(tokens))


def test_on_image_patches_the_features_are_those_of_the_image_model():
    """Promise: the transformer is copied whole; with the image's tokens it sees as before."""
    image_model, net = image_vit().eval(), small().eval()

    class ImageTokens(nn.Module):
        def forward(self, image):
            return image_model.patch_embed(image) + image_model.pos_embed[:, 1:]

    net.patch_embed = ImageTokens()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    expected = image_model.forward_features(image)
    torch.testing.assert_close(net.forward_features(image), expected)


def test_the_report_lists_every_tensor_of_both_networks():
    net, image = small(), image_vit().state_dict()
    report = net.i2p_report.set_index("tensor")
    state = net.state_dict()
    assert report.index.is_unique and set(report.index) == set(image) | set(state)
    dropped = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert set(report.index[report.action == "dropped"]) == dropped
    new = set(report.index[report.action == "new"])
    assert new == {n for n in state if n.startswith(("patch_embed.", "head."))}
    for name in report.index[report.action == "copied"]:
        place = image["pos_embed"][:, :1] if name == "cls_token" else 0
        assert torch.equal(state[name], image[name] + place), name
    assert report.loc["head.weight", ["image", "points"]].tolist() == ["9x192", "5x192"]


def test_a_token_is_a_pointnet_of_the_nearest_points_plus_its_place():
    """Promise: equal to a loop over centres, one group at a time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = PointTokenizer(16, groups=5, size=7).eval()
    points = cloud()
    tokens = tokenizer(points)
    for b in range(2):
        taken = [0]
        for _ in range(5):
            centre = points[b, taken[-1]]
            group = points[b][(points[b] - centre).norm(dim=1).argsort()[:7]] - centre
            each = tokenizer.local(group)
            joined = torch.cat([each.amax(0).expand(7, -1), each], 1)
            expected = tokenizer.token(joined).amax(0) + tokenizer.position(centre)
            torch.testing.assert_close(tokens[b, len(taken) - 1], expected)
            taken.append(int(torch.cdist(points[b], points[b, taken]).amin(1).argmax()))


def test_the_order_of_the_points_does_not_matter_while_point_0_stays_first():
    net, points = small().eval().double(), cloud().double()
    order = 1 + torch.randperm(59, generator=torch.Generator().manual_seed(1))
    order = torch.cat([torch.zeros(1, dtype=torch.long), order])
    with torch.no_grad():
        torch.testing.assert_close(net(points[:, order]), net(points), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(net(points.roll(1, 1)), net(points), rtol=1e-6, atol=1e-6)


def test_moving_the_cloud_changes_the_position_embedding_only():
    tokenizer = small().eval().double().patch_embed
    points = (cloud().double() * 256).round() / 256
    with torch.no_grad():
        here, there = tokenizer(points), tokenizer(points + 2)
        assert not torch.allclose(here, there, rtol=1e-3, atol=1e-3)
        nn.init.zeros_(tokenizer.position[2].weight)
        assert torch.equal(tokenizer(points), tokenizer(points + 2))


@pytest.mark.parametrize("regime", REGIMES)
def test_regimes_train_what_they_say(regime):
    """Promise: parameters of the regime move, with finite gradients, and nothing else does."""
    net = small()
    freeze(net, regime)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    nn.functional.cross_entropy(net.train()(cloud()), torch.arange(2)).backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    optimizer.step()
    moved = {n for n, tensor in net.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved & set(net.i2p_roles) == set(trained)
    assert {net.i2p_roles[name] for name in trained} == set(REGIMES[regime].roles)
    assert "patch_embed.local.1.running_mean" in moved


def test_vit_b16_fulfils_the_contract():
    """Promise: ViT-B/16's blocks on 128 tokens and a class token; every parameter has one role."""
    net = point_vit_b16(6)
    seen = {}
    net.get_submodule(net.i2p_classifier).register_forward_hook(
        lambda layer, x, y: seen.update(features=x[0], logits=y)
    )
    net.blocks[0].register_forward_hook(lambda layer, x, y: seen.update(tokens=x[0]))
    whole = net.blocks
    net.blocks = whole[:1]  # one block is enough to see the shapes
    logits = net.eval()(cloud(2, 256))
    net.blocks = whole
    assert net.i2p_input == "points" and logits.shape == (2, 6) and seen["logits"] is logits
    assert seen["features"].shape == (2, 768) and seen["tokens"].shape == (2, 129, 768)
    roles = net.i2p_roles
    assert list(roles) == [name for name, _ in net.named_parameters()]
    assert {n.split(".")[0] for n in roles if roles[n] == "input"} == {"patch_embed"}
    assert [n for n in roles if roles[n] == "output"] == ["head.weight", "head.bias"]
    assert sum(role == "norm" for role in roles.values()) == 2 * (2 * 12 + 1)
    assert roles["cls_token"] == "backbone"


def test_random_weights_follow_the_seed_alone():
    """Promise: all layers, image model's and new ones, follow it; torch's generator does not."""
    before = torch.random.get_rng_state()
    first, again, other = (_build("vit_tiny_patch16_224", 5, w, s).state_dict()
                           for w, s in (("random", 1), (None, 1), ("random", 2)))  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    for name in ("blocks.3.attn.qkv.weight", "patch_embed.token.0.weight", "head.weight"):
        assert not torch.equal(first[name], other[name])


def test_vit_l16_has_the_blocks_of_vit_large():
    with torch.device("meta"):
        net = point_vit_l16(40)
    blocks = sum(p.numel() for p in net.blocks.parameters())
    assert len(net.blocks) == 24 and blocks == 24 * (12 * 1024**2 + 13 * 1024)
    assert (net.i2p_report.action == "copied").sum() == 24 * 12 + 3


@pytest.mark.parametrize("build, name", [(point_vit_b16, "base"), (point_vit_l16, "large")])
def test_absent_image_weights_say_what_to_place_where(build, name, tmp_path, monkeypatch):
    """Promise: the weights module's own error passes through."""
    monkeypatch.setenv("I2P_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    expected = f"expected vit_{name}_patch16_224.augreg_in21k.safetensors. To get them: download"
    with pytest.raises(FileNotFoundError, match=expected):
        build(4, weights="imagenet21k")
    with pytest.raises(ValueError, match="unknown weights 'imagenet22k'"):
        build(4, weights="imagenet22k")


def test_networks_and_clouds_that_do_not_fit_are_refused():
    import timm

    pooled = timm.create_model("vit_tiny_patch16_224", depth=1, class_token=False,
                               global_pool="avg")  # fmt: skip
    with pytest.raises(ValueError, match="one class token that has its own position embedding"):
        put_on_points(pooled, 4)
    with pytest.raises(ValueError, match="8 nearest points asked of clouds of 5"):
        small()(cloud(size=5))


def test_an_image_weight_file_reaches_the_blocks(tmp_path):
    """Promise: of a file with ImageNet-21k's classes every block tensor arrives as it is."""
    import timm
    from safetensors.torch import save_file

    tag = "vit_tiny_patch16_224.augreg_in21k"
    stored = timm.create_model(tag).state_dict()
    save_file(stored, tmp_path / f"{tag}.safetensors")
    net = _build("vit_tiny_patch16_224", 5, "imagenet21k", weights_dir=tmp_path)
    state = net.state_dict()
    shared = [name for name in stored if name.startswith(("blocks.", "norm."))]
    assert len(shared) == 12 * 12 + 2
    assert all(torch.equal(state[name], stored[name]) for name in shared)
    assert "refused" not in set(net.i2p_transfer.state)
    head = net.i2p_report.set_index("tensor").loc["head.weight"]
    assert head.tolist() == [f"{stored['head.bias'].shape[0]}x192", "5x192", "new"]
