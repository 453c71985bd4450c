"""Norm, pooling, voxelisation and the tensor class keep their promises."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from i2p_lib.sparse import (
    SparseAvgPool3d,
    SparseBatchNorm,
    SparseConv3d,
    SparseGlobalPool,
    SparseMaxPool3d,
    SparseTensor,
    voxelize,
)


def full_grid(side=6, channels=3, batch=2, seed=0):
    """Every site of a grid occupied, so that the dense layer is the reference."""
    axes = torch.meshgrid(*[torch.arange(n) for n in (batch, side, side, side)], indexing="ij")
    coords = torch.stack([a.flatten() for a in axes], 1)
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(len(coords), channels, generator=generator)
    dense = feats.reshape(batch, side, side, side, channels).permute(0, 4, 1, 2, 3)
    return SparseTensor(feats.requires_grad_(), coords), dense.detach().requires_grad_()


def as_rows(dense):
    return dense.permute(0, 2, 3, 4, 1).flatten(0, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.SiLU()])
def test_norm_equals_torchs_norm_and_activation(training, activation):
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(700, 5, generator=generator) + 2).requires_grad_()
    tensor = SparseTensor(x, torch.arange(700)[:, None] * torch.tensor([[0, 1, 0, 0]]))
    ours, theirs = SparseBatchNorm(5, activation=activation), nn.BatchNorm1d(5)
    for norm in (ours, theirs):
        norm.train(training)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
            norm.running_mean.copy_(torch.linspace(1, 3, 5))
            norm.running_var.copy_(torch.linspace(2, 9, 5))
    out = ours(tensor).feats
    reference = (activation or nn.Identity())(theirs(x))
    torch.testing.assert_close(out, reference, rtol=1e-5, atol=1e-5)
    grad = torch.randn(out.shape, generator=generator)
    for a, b in zip(torch.autograd.grad(out, [x, ours.weight, ours.bias], grad),
                    torch.autograd.grad(reference, [x, theirs.weight, theirs.bias], grad),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.SiLU()])
def test_a_frozen_norm_sends_back_torchs_gradient(activation):
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(700, 5, generator=generator) + 2).requires_grad_()
    tensor = SparseTensor(x, torch.arange(700)[:, None] * torch.tensor([[0, 1, 0, 0]]))
    norm = SparseBatchNorm(5, activation=activation).requires_grad_(False)
    norm.frozen_stats = True
    norm.running_mean.copy_(torch.linspace(1, 3, 5))
    norm.running_var.copy_(torch.linspace(2, 9, 5))
    norm.weight.copy_(torch.linspace(-1, 2, 5))
    reference = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    reference = (activation or nn.Identity())(reference)
    grad = torch.randn(reference.shape, generator=generator)
    (ours,) = torch.autograd.grad(norm(tensor).feats, x, grad)
    torch.testing.assert_close(ours, torch.autograd.grad(reference, x, grad)[0])


def test_norm_lets_nan_through():
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]])
    tensor = SparseTensor(torch.tensor([[1.0], [float("nan")]]), coords)
    assert SparseBatchNorm(1, activation=nn.ReLU6())(tensor).feats.isnan().all()


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)])
def test_max_pooling_equals_dense_forward_and_backward(kernel, stride, padding):
    x, dense = full_grid()
    out = SparseMaxPool3d(kernel, stride, padding)(x)
    reference = F.max_pool3d(dense, kernel, stride, padding)
    torch.testing.assert_close(out.feats, as_rows(reference))
    out.feats.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(x.feats.grad, as_rows(dense.grad))


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 1, 1)])
def test_average_pooling_equals_dense_without_the_padding(kernel, stride, padding):
    x, dense = full_grid()
    out = SparseAvgPool3d(kernel, stride, padding)(x)
    reference = F.avg_pool3d(dense, kernel, stride, padding, count_include_pad=False)
    torch.testing.assert_close(out.feats, as_rows(reference))


@pytest.mark.parametrize("training", [True, False])
def test_norm_takes_what_global_pooling_left(training):
    x = torch.randn(8, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    ours, theirs = SparseBatchNorm(5, activation=nn.ReLU()), nn.BatchNorm2d(5)
    torch.testing.assert_close(ours.train(training)(x), F.relu(theirs.train(training)(x)))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_global_pooling_equals_the_mean_of_each_sample():
    x, dense = full_grid()
    torch.testing.assert_close(SparseGlobalPool(1)(x)[:, :, 0, 0], dense.mean((2, 3, 4)))
    torch.testing.assert_close(x.mean([2, 3]), dense.mean((2, 3, 4)))
    torch.testing.assert_close(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1), x.mean([2, 3]))


def test_feature_wise_functions_sum_and_cat_work_on_the_tensor():
    x, _ = full_grid()
    torch.testing.assert_close(F.relu(x).feats, F.relu(x.feats))
    torch.testing.assert_close((x + x).feats, 2 * x.feats)
    torch.testing.assert_close(torch.cat([x, x], 1).feats, torch.cat([x.feats, x.feats], 1))
    gate = torch.rand(2, 3, 1, 1)
    torch.testing.assert_close((x * gate).feats, x.feats * gate.flatten(1)[x.coords[:, 0]])


def test_channel_functions_equal_the_dense_ones():
    """What image models do between their layers: shuffles, splits, gates, stochastic depth."""
    x, dense = full_grid(channels=6)

    def shuffle(tensor):
        batch, channels, height, width = tensor.size()
        grouped = tensor.view(batch, 2, channels // 2, height, width)
        return torch.transpose(grouped, 1, 2).contiguous().view(batch, channels, height, width)

    flat = dense.flatten(3)  # an image of the same cells
    norm = (torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6))
    for ours, theirs in [
        (shuffle(x), shuffle(flat)),
        (torch.cat(x.chunk(3, 1)[::-1], 1), torch.cat(flat.chunk(3, 1)[::-1], 1)),
        (x.split([2, 4], 1)[1], flat.split([2, 4], 1)[1]),
        (nn.LayerNorm(6)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
         nn.LayerNorm(6)(flat.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        (x[:, 2:], flat[:, 2:]), (x[:, :1, :, :], flat[:, :1, :, :]),
        (torch.stack([x, x * 2], 1).sum(1), torch.stack([flat, flat * 2], 1).sum(1)),
        (x - x**2 / 3, flat - flat**2 / 3),
        (F.group_norm(x, 3, *norm), F.group_norm(flat, 3, *norm)),
        (F.group_norm(x, 1), F.group_norm(flat, 1)),
    ]:
        torch.testing.assert_close(ours.feats, theirs.flatten(2).mT.flatten(0, 1))
    last, flat_last = x.permute(0, 2, 3, 1), flat.permute(0, 2, 3, 1)
    for ours, theirs in [
        (last.split([2, 4], -1)[1], flat_last.split([2, 4], -1)[1]),
        (torch.cat((last, last), dim=-1), torch.cat((flat_last, flat_last), dim=-1)),
        (last * torch.rsqrt(torch.var(last, dim=(-1,), keepdim=True)),
         flat_last * torch.rsqrt(torch.var(flat_last, dim=(-1,), keepdim=True))),
        (last * norm[0], flat_last * norm[0]), (last * norm[0][None, None], flat_last * norm[0]),
    ]:
        torch.testing.assert_close(ours.feats, theirs.flatten(0, 2))
    mean = torch.mean(x.pow(2), dim=1, keepdim=True).feats
    torch.testing.assert_close(mean, flat.pow(2).mean(1, keepdim=True).flatten(2).mT.flatten(0, 1))
    torch.testing.assert_close(last.mean((1, 2)), flat.mean((2, 3)))
    torch.testing.assert_close(last.mean((1, 2), keepdim=True), flat_last.mean((1, 2), True))
    gate, scale = torch.rand(2, 6, 1, 1), torch.rand(6, 1, 1)
    torch.testing.assert_close((gate * x).feats, (gate * flat).flatten(2).mT.flatten(0, 1))
    torch.testing.assert_close((scale * x).feats, (scale * flat).flatten(2).mT.flatten(0, 1))


def test_enlarging_to_the_nearest_equals_the_dense_one_and_goes_back_to_the_sites():
    x, dense = full_grid(side=8)
    quarter = SparseAvgPool3d(2)(SparseAvgPool3d(2)(x))
    enlarged = F.interpolate(quarter, scale_factor=4.0, mode="nearest")
    assert enlarged.sites is x.sites
    expected = F.interpolate(F.avg_pool3d(dense, 4), scale_factor=4.0, mode="nearest")
    torch.testing.assert_close(enlarged.feats, as_rows(expected))
    enlarged.feats.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.feats.grad, as_rows(dense.grad))
    for arguments in ({"scale_factor": 2, "mode": "bilinear"}, {"size": (4, 4)},
                      {"scale_factor": 8}, {"scale_factor": 1.5}):
        with pytest.raises(ValueError, match="enlarged by a whole number"):
            F.interpolate(quarter, **arguments)


def test_stochastic_depth_drops_whole_clouds():
    from torchvision.ops import stochastic_depth

    x, _ = full_grid(batch=8)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        out = stochastic_depth(x, 0.5, "row").feats
    ratio = (out / x.feats).unflatten(0, (8, -1)).flatten(1)
    assert {0.0, 2.0} == set(ratio[:, 0].round(decimals=4).tolist())
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_functional_pooling_equals_the_layers_and_centres_a_window_that_shrinks_the_image():
    x, _ = full_grid()
    assert torch.equal(F.max_pool2d(x, 3, 2, 1).feats, SparseMaxPool3d(3, 2, 1)(x).feats)
    assert torch.equal(F.max_pool2d(x, 2).feats, SparseMaxPool3d(2)(x).feats)
    assert torch.equal(F.avg_pool2d(x, 3, stride=1).feats, SparseAvgPool3d(3, 1, 1)(x).feats)
    with pytest.raises(ValueError, match="uneven pooling window"):
        F.max_pool2d(x, (2, 3))
    with pytest.raises(ValueError, match="no other divisor"):
        F.avg_pool2d(x, 2, divisor_override=3)


def test_adaptive_pooling_gives_every_cell_the_mean_of_the_cloud():
    x, dense = full_grid()
    pooled = F.adaptive_avg_pool2d(x, (7, 5))
    assert pooled.shape == (2, 3, 7, 5)
    torch.testing.assert_close(pooled[:, :, 6, 2], dense.mean((2, 3, 4)))


def test_tensors_of_other_sites_and_other_functions_are_refused():
    a, _ = full_grid()
    b, _ = full_grid()
    with pytest.raises(ValueError, match="different sites"):
        a + b
    with pytest.raises(TypeError, match="'softmax' has no meaning on a SparseTensor"):
        F.softmax(a, 1)
    with pytest.raises(AttributeError, match="no attribute 'roll'"):
        a.roll(1)
    with pytest.raises(ValueError, match=r"must be \[B, C, 1, 1\] with B = 2 or 1"):
        a * torch.rand(3, 3, 1, 1)
    with pytest.raises(ValueError, match=r"only the channels .* can be regrouped"):
        a.view(2, 3, 1, 1)
    for compute in (lambda side: side // 2, lambda side: side < 7, lambda side: 1 + side):
        with pytest.raises(TypeError, match="height or width of an image is computed with"):
            compute(a.shape[2])
    with pytest.raises(ValueError, match="channels last and back"):
        a.permute(0, 1, 3, 2)
    with pytest.raises(ValueError, match="over channels"):
        a.chunk(2, 2)
    last = a.permute(0, 2, 3, 1)
    for wrong in (lambda: F.linear(a, torch.rand(3, 3)), lambda: F.layer_norm(a, (3,)),
                  lambda: last.permute(0, 2, 3, 1), lambda: last[:, :1], lambda: last.mean((2, 3)),
                  lambda: last.chunk(3, 1), lambda: last + a, lambda: a * torch.rand(3),
                  lambda: torch.stack([last, last], 1), lambda: torch.var(a, 2, keepdim=True)):
        with pytest.raises(ValueError):
            wrong()
    for index in (0, (0, slice(1)), (slice(None), 1), (slice(None), slice(1), slice(1, None))):
        with pytest.raises(ValueError, match="only channels can be cut out"):
            a[index]
    with pytest.raises(ValueError, match="groups of channels"):
        a.sum(1)
    with pytest.raises(ValueError, match="in other groups or places"):
        torch.stack([a, a], 1) * a


@pytest.mark.parametrize("coords, error, message", [
    (torch.zeros(2, 4), TypeError, "must be integers"),
    (torch.zeros(2, 3, dtype=torch.long), ValueError, r"\[N, 4\]"),
    (torch.zeros(2, 4, dtype=torch.long), ValueError, "occurs twice"),
    (torch.tensor([[-1, 0, 0, 0], [0, 0, 0, 0]]), ValueError, "batch indices"),
])  # fmt: skip
def test_bad_coordinates_are_refused(coords, error, message):
    with pytest.raises(error, match=message):
        SparseTensor(torch.zeros(2, 1), coords)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), size=st.floats(0.01, 3), points=st.integers(1, 80))
def test_voxelisation_equals_grouping_by_floor(seed, size, points):
    cloud = np.random.default_rng(seed).normal(size=(points, 3)) * 3
    groups = {}
    for point in cloud:
        groups.setdefault(tuple(np.floor(point / size).astype(int)), []).append(point)
    for reduce, pick in (("mean", lambda g: np.mean(g, 0)), ("first", lambda g: g[0])):
        tensor = voxelize([cloud], size, reduce, dtype=torch.float64)
        assert [tuple(c) for c in tensor.coords[:, 1:].tolist()] == sorted(groups)
        expected = np.array([pick(groups[key]) for key in sorted(groups)])
        np.testing.assert_allclose(tensor.feats.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_a_rounded_grid_starts_at_the_lowest_of_each_cloud():
    cloud = torch.tensor([[-0.5, 2.0, 0.0], [0.5, 2.0, 0.0], [1.5, 3.0, 9.0]])
    x = voxelize([cloud, torch.zeros(0, 3), cloud + 7], 1.0, "first", grid="round")
    cells = [[0, 0, 0], [2, 1, 9]]  # -0.5 and 0.5 are rounded to 0, 1.5 to 2
    assert x.coords[x.coords[:, 0] == 0, 1:].tolist() == cells
    assert x.coords[x.coords[:, 0] == 2, 1:].tolist() == [[0, 0, 0], [2, 0, 0], [2, 1, 9]]
    assert torch.equal(x.feats[:2], cloud[[0, 2]])
    with pytest.raises(ValueError, match="'floor' or 'round'"):
        voxelize([cloud], 1.0, grid="ceil")


def test_voxelisation_does_not_depend_on_the_order_of_the_points():
    cloud = torch.rand(300, 3, dtype=torch.float64)
    order = torch.randperm(300)
    a, b = voxelize([cloud], 0.1), voxelize([cloud[order]], 0.1)
    assert torch.equal(a.coords, b.coords)
    torch.testing.assert_close(a.feats, b.feats)


@pytest.mark.parametrize("points, message", [
    ([torch.zeros(3, 2)], r"cloud 0 must be \[N, 3\]"),
    ([torch.zeros(3, 3), torch.full((2, 3), float("nan"))], "cloud 1 has NaN"),
    ([torch.full((2, 3), float("inf"))], "cloud 0 has NaN or infinite"),
    ([], "empty batch"),
    ([torch.full((1, 3), 1e12)], "2.30 cells"),
])  # fmt: skip
def test_bad_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        voxelize(points, 0.05)


@pytest.mark.parametrize("points, features, error, message", [
    (np.zeros((3, 3)), None, ValueError, r"got \[3\]; a single cloud goes into a list"),
    ([None], None, TypeError, "cloud 0 must be a floating point array, got NoneType"),
    ([[[0.0, 1.0], [2.0]]], None, TypeError, "cloud 0 must be a floating point array, got list"),
    ([np.zeros((3, 3))], np.zeros(3), ValueError, r"features must be \[3, C\], got \[3\]"),
    ([np.zeros((3, 3))], np.zeros((3, 1), int), TypeError, "features must be floating .* int64"),
    ([np.zeros((3, 3))], np.full((3, 1), np.inf), ValueError, "features hold NaN or infinite"),
])  # fmt: skip
def test_what_is_no_batch_of_clouds_is_told_beside_what_was_expected(
    points, features, error, message
):
    with pytest.raises(error, match=message):
        voxelize(points, 0.05, features=features)


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_layout_give_the_voxels_of_plain_ones_in_float32():
    plain = np.random.default_rng(0).random((50, 3))
    turned = np.array(plain[::-1])[::-1]
    fixed = plain.copy()
    fixed.setflags(write=False)
    expected = voxelize([plain], 0.2)
    assert expected.feats.dtype == torch.float32  # as the weights of a network
    assert voxelize([plain], 0.2, dtype=torch.float64).feats.dtype == torch.float64
    for cloud in (plain.astype(">f8"), np.asfortranarray(plain), turned, fixed):
        for features in (None, cloud):
            got = voxelize([cloud], np.array(0.2), features=features)
            assert torch.equal(got.coords, expected.coords)
            assert torch.equal(got.feats, expected.feats)


@pytest.mark.parametrize("arguments, message", [
    ((np.zeros((1, 3)), torch.zeros(1, 4).long()), "features must be .* got ndarray of float64"),
    ((torch.zeros(1, 3), np.zeros((1, 4), int)), "coordinates must be .* got ndarray of int64"),
])  # fmt: skip
def test_a_sparse_tensor_says_that_it_takes_tensors(arguments, message):
    with pytest.raises(TypeError, match=message):
        SparseTensor(*arguments)


def small_net():
    random = torch.Generator().manual_seed(0)
    return nn.Sequential(
        SparseConv3d(3, 4, 3, generator=random), SparseBatchNorm(4, activation=nn.ReLU()),
        SparseConv3d(4, 2, 3, generator=random), SparseBatchNorm(2))  # fmt: skip


def test_checkpointing_gives_equal_gradients():
    x = voxelize(torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    plain, saving = small_net(), small_net()
    plain(x).feats.square().sum().backward()
    checkpoint(saving, x, use_reentrant=False).feats.square().sum().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_converted_to_syncbatchnorm_computes_the_same_with_its_activation(training):
    x = voxelize(torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    net = copy.deepcopy(small_net()).train(training)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(small_net()).train(training)
    assert not any(isinstance(layer, SparseBatchNorm) for layer in converted)
    torch.testing.assert_close(converted(x).feats, net(x).feats, rtol=1e-5, atol=1e-6)


def test_statistics_of_a_single_site_are_refused_in_training_and_stay_as_they_were():
    x = voxelize(torch.zeros(1, 5, 3), 0.2)
    norm = SparseBatchNorm(3)
    norm.label = "layer4.bn1"
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(ValueError, match=r"layer4.bn1 \(3 channels\).* got 1 sites at stride 1"):
        norm(x)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert norm.eval()(x).feats.shape == (1, 3)


def test_without_momentum_the_statistics_are_the_mean_of_all_batches():
    ours, theirs = SparseBatchNorm(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    for seed in range(3):
        x = voxelize(torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(seed)), 0.2)
        torch.testing.assert_close(ours(x).feats, theirs(x.feats))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_integer_points_and_bad_voxel_sizes_are_refused():
    with pytest.raises(TypeError, match="must be floating point"):
        voxelize([torch.zeros(3, 3, dtype=torch.long)], 0.05)
    for size in (0, -1, float("nan"), (0.1, 0.1, 0.1), "small"):
        with pytest.raises(ValueError, match="positive number"):
            voxelize([torch.zeros(3, 3)], size)


def test_a_cloud_in_millimetres_gets_one_warning_with_a_voxel_size() -> None:
    cloud = np.random.default_rng(0).normal(size=(2048, 3)) * 300 + 5000
    with pytest.warns(UserWarning, match=r"1 voxels per point.*from the origin.*Try voxel_size=\d"):
        voxelize([cloud], 0.0512)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        voxelize([cloud], 0.0512)  # said before
        voxelize([cloud / 1000], 0.0513)
        voxelize([cloud[:100]], 60.0)
    with pytest.warns(UserWarning, match="Try voxel_size"):
        voxelize([cloud / 1e6], 0.0514)
