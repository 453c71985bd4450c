"""The sparse convolutions equal the dense ones of torch, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from i2p_lib.sparse import (
    SparseConv3d,
    SparseConvTranspose3d,
    SparseTensor,
    cpu,
    gathered,
    voxelize,
)
from i2p_lib.sparse.backends import convolve
from i2p_lib.sparse.kernel_map import build_kernel_map, unique_rows

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def random_tensor(generator, sites=40, channels=3, extent=6, batch=2, shift=0, dtype=torch.float64):
    coords = torch.randint(0, extent, (sites, 3), generator=generator) + shift
    sample = torch.randint(0, batch, (sites, 1), generator=generator)
    coords = torch.unique(torch.cat([sample, coords], 1), dim=0)
    feats = torch.randn(len(coords), channels, generator=generator, dtype=dtype)
    return SparseTensor(feats.requires_grad_(), coords, batch)


def dense_weight(layer):
    """The layer's taps as torch's [C_out, C_in / groups, x, y, z]."""
    groups = layer.groups
    inner, outer = layer.in_channels // groups, layer.out_channels // groups
    taps = layer.weight.reshape(*layer.kernel_size, groups, inner, outer)
    return taps.permute(3, 5, 4, 0, 1, 2).flatten(0, 1)


def dense_reference(layer, x):
    """The dense convolution of the zero-filled volume, read at the sparse output sites."""
    stride = layer.stride
    origin = x.coords[:, 1:].amin(0).div(stride, rounding_mode="floor") * stride
    extent = (x.coords[:, 1:].amax(0) - origin + 1).tolist()
    extent = [e + stride for e in extent]
    volume = x.feats.new_zeros(x.batch_size, x.feats.shape[1], *extent)
    b, i, j, k = x.coords.unbind(1)
    index = (b[:, None], torch.arange(x.feats.shape[1])[None],
             (i - origin[0])[:, None], (j - origin[1])[:, None], (k - origin[2])[:, None])
    volume = volume.index_put(index, x.feats)
    after = [max(0, (s - 1)) + k for k, s in zip(layer.kernel_size, [stride] * 3, strict=True)]
    pads = []
    for axis in (2, 1, 0):
        pads += [layer.padding[axis], after[axis] * layer.dilation]
    out = F.conv3d(F.pad(volume, pads), dense_weight(layer), layer.bias, stride,
                   dilation=layer.dilation, groups=layer.groups)
    c = x.sites.downsample(stride).coords
    o = c[:, 1:] - origin // stride
    return out[c[:, 0], :, o[:, 0], o[:, 1], o[:, 2]]


def assert_equal_to_dense(layer, x):
    tolerance = TOLERANCE[x.dtype]
    out, reference = layer(x).feats, dense_reference(layer, x)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    inputs = [x.feats, layer.weight, *([layer.bias] if layer.bias is not None else [])]
    ours = torch.autograd.grad(out, inputs, grad)
    theirs = torch.autograd.grad(reference, inputs, grad)
    for a, b in zip([out, *ours], [reference, *theirs], strict=True):
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        assert float((a - b).detach().abs().max() if a.numel() else 0) <= tolerance * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups, out", [(1, 5), (4, 4), (2, 6), (4, 8)],
                         ids=["full", "depthwise", "grouped", "depthwise x 2"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_equals_dense_convolution(kernel, stride, groups, out, dtype):
    generator = torch.Generator().manual_seed(kernel * 10 + stride)
    x = random_tensor(generator, channels=4, shift=-3, dtype=dtype)
    layer = SparseConv3d(4, out, kernel, stride, groups=groups, generator=generator).to(dtype)
    assert layer.depthwise == (groups == out == 4)
    assert_equal_to_dense(layer, x)


@pytest.mark.parametrize("kernel, padding, dilation", [
    (3, 0, 1), (5, 1, 1), (3, 1, 2), (3, 2, 2), (2, 1, 2), (3, None, 2),
    ((3, 1, 1), (1, 0, 0), 1), ((1, 3, 5), (0, 1, 2), 1),
])  # fmt: skip
def test_padding_dilation_and_uneven_kernels_equal_dense(kernel, padding, dilation):
    generator = torch.Generator().manual_seed(3)
    x = random_tensor(generator)
    layer = SparseConv3d(3, 2, kernel, 1, padding, dilation, generator=generator).double()
    assert_equal_to_dense(layer, x)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 60), extent=st.integers(1, 9),
       shift=st.integers(-50, 50), batch=st.integers(1, 3), stride=st.integers(1, 3),
       kernel=st.integers(1, 5), groups=st.sampled_from([1, 2, 4]))
def test_equals_dense_on_any_geometry(seed, sites, extent, shift, batch, stride, kernel, groups):
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, sites, 4, extent, batch, shift)
    layer = SparseConv3d(4, 4, kernel, stride, groups=groups, generator=generator).double()
    assert_equal_to_dense(layer, x)


def test_single_voxel_meets_the_centre_tap_only():
    layer = SparseConv3d(2, 3, 3, bias=False)
    x = SparseTensor(torch.randn(1, 2), torch.tensor([[0, -7, 0, 9]]))
    torch.testing.assert_close(layer(x).feats, x.feats @ layer.weight[13])


def test_duplicate_points_merge_before_the_convolution():
    once = voxelize([torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1]])], 0.2)
    twice = voxelize([torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1]] * 2)], 0.2)
    layer = SparseConv3d(3, 4, 3)
    torch.testing.assert_close(layer(once).feats, layer(twice).feats)


def test_an_empty_sample_changes_nothing_for_the_others():
    cloud = torch.rand(50, 3)
    layer = SparseConv3d(3, 4, 3, 2)
    alone = layer(voxelize([cloud], 0.2))
    beside = layer(voxelize([torch.zeros(0, 3), cloud, torch.zeros(0, 3)], 0.2))
    assert beside.batch_size == 3
    torch.testing.assert_close(alone.feats, beside.feats)
    assert beside.global_mean()[[0, 2]].eq(0).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_far_coordinates_give_what_near_ones_give(stride):
    """2^20 apart on every axis: too many cells for plain keys, the same neighbours all the same."""
    generator = torch.Generator().manual_seed(0)
    near = random_tensor(generator, 30, 3, 4, 1)
    far = 2**20 * torch.tensor([[0, 1, -1, 1], [0, -1, 1, -1]])
    layer = SparseConv3d(3, 2, 3, stride, generator=generator).double()
    reference = layer(near).feats
    coords = torch.cat([near.coords + shift for shift in far])
    out = layer(SparseTensor(near.feats.repeat(2, 1), coords, 1))
    for shift in far:
        shift = shift.clone()
        shift[1:] //= stride
        rows = [(out.coords == c + shift).all(1).nonzero().item()
                for c in near.sites.downsample(stride).coords]
        torch.testing.assert_close(out.feats[rows], reference)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 1), (3, 2), (2, 2)])
def test_bits_and_sorted_lookup_find_the_same_pairs(monkeypatch, kernel, stride):
    generator = torch.Generator().manual_seed(5)
    x = random_tensor(generator, 80)
    order = torch.randperm(len(x.coords), generator=generator)
    sites = SparseTensor(x.feats[order], x.coords[order]).sites
    sites_out = sites.downsample(stride).coords
    arguments = (sites.coords, sites_out, (kernel,) * 3, stride, ((kernel - 1) // 2,) * 3)
    by_bits = build_kernel_map(*arguments)
    monkeypatch.setattr("i2p_lib.sparse.kernel_map.BIT_CELLS", 0)
    monkeypatch.setattr("i2p_lib.sparse.kernel_map.LOOKUPS", 7)
    by_search = build_kernel_map(*arguments)
    assert by_bits.sizes == by_search.sizes and by_bits.identity == by_search.identity
    assert torch.equal(by_bits.rows_in, by_search.rows_in)
    assert torch.equal(by_bits.rows_out, by_search.rows_out)


@pytest.mark.parametrize("spread", [3, 40, 2**20])
def test_unique_rows_are_those_of_torch(spread):
    rows = torch.randint(-spread, spread, (500, 4), generator=torch.Generator().manual_seed(1))
    expected = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    for found, wanted in zip(unique_rows(rows), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 2), (3, 3)])
def test_transposed_convolution_equals_dense(kernel, stride):
    generator = torch.Generator().manual_seed(kernel)
    fine = random_tensor(generator, extent=6, batch=1)
    coarse = SparseConv3d(3, 4, kernel, stride, generator=generator).double()(fine)
    layer = SparseConvTranspose3d(4, 2, kernel, stride, generator=generator).double()
    out = layer(coarse)
    assert out.sites is fine.sites
    shape = (fine.coords[:, 1:].amax(0) // stride + 2).tolist()
    volume = coarse.feats.new_zeros(1, 4, *shape)
    _, i, j, k = coarse.coords.unbind(1)
    volume[0, :, i, j, k] = coarse.feats.T
    weight = layer.weight.reshape(kernel, kernel, kernel, 4, 2).permute(3, 4, 0, 1, 2)
    dense = F.conv_transpose3d(volume, weight, layer.bias, stride)[0]
    i, j, k = (fine.coords[:, 1:] + torch.tensor(layer.padding)).T
    torch.testing.assert_close(out.feats, dense[:, i, j, k].T, rtol=0, atol=1e-10)


SHAPES = [(1, 3, 64), (1, 64, 64), (1, 7, 37), (1, 130, 100), (4, 6, 5), (16, 1, 1)]


@pytest.mark.parametrize("groups, depth, width", SHAPES, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-12)],
                         ids=str)
def test_register_tiles_equal_gathered_products(groups, depth, width, dtype, tolerance):
    random = torch.Generator().manual_seed(groups + depth)
    cells = torch.randperm(16**3, generator=random)[:2500]  # more than two windows
    coords = torch.stack([cells * 0, cells // 256, cells // 16 % 16, cells % 16], 1)
    kmap = build_kernel_map(coords, coords, (3, 3, 3), 1, (1, 1, 1))
    x = torch.randn(2500, groups * depth, dtype=dtype, generator=random)
    grad = torch.randn(2500, groups * width, dtype=dtype, generator=random)
    weight = torch.randn(27, groups, depth, width, dtype=dtype, generator=random)
    if depth == width == 1:
        weight = weight.flatten(1)
    calls = [("multiply", (x, weight, kmap)), ("weight_gradient", (x, grad, weight, kmap))]
    for name, arguments in calls:
        ours, torchs = (getattr(engine, name)(*arguments) for engine in (cpu, gathered))
        assert (ours - torchs).abs().max() <= tolerance * torchs.abs().max()


@pytest.mark.parametrize("groups", [1, 64], ids=["full", "depthwise"])
def test_any_number_of_threads_gives_the_same_bits(groups):
    def results(threads: int) -> list[torch.Tensor]:
        random = torch.Generator().manual_seed(3)
        x = random_tensor(random, 5000, 64, dtype=torch.float32)
        layer = SparseConv3d(64, 64, 3, groups=groups, generator=random)
        torch.set_num_threads(threads)
        try:
            out = layer(x.replace(x.feats.requires_grad_())).feats
            return [out, *torch.autograd.grad(out.square().sum(), (x.feats, layer.weight))]
        finally:
            torch.set_num_threads(1)

    for one, three in zip(results(1), results(3), strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("shape", [(27, 1, 2, 3), (27, 2), (27, 2, 1, 3)],
                         ids=["full", "depthwise", "grouped"])
def test_gradcheck(shape):
    x = random_tensor(torch.Generator().manual_seed(2), 12, 2, 3)
    kmap = x.sites.kernel_map((3, 3, 3), 2, (1, 1, 1))
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: convolve(a, w, kmap), (x.feats, weight))


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_bfloat16_is_float32_up_to_its_own_rounding(groups):
    x = random_tensor(torch.Generator().manual_seed(2), 200, 16, dtype=torch.float32)
    layer = SparseConv3d(16, 16, 3, groups=groups)
    reference = layer(x).feats
    half = layer(x.to(torch.bfloat16)).feats
    assert half.dtype == torch.bfloat16
    assert float((half - reference).norm() / reference.norm()) < 1e-2


def test_two_equal_runs_give_equal_bits():
    x = random_tensor(torch.Generator().manual_seed(8), 300, 8, dtype=torch.float32)
    layer = SparseConv3d(8, 8, 3)
    results = []
    for _ in range(2):
        out = layer(x).feats
        results.append([out, *torch.autograd.grad(out.square().sum(), [x.feats, layer.weight])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_residual_branches_of_other_kernels_meet_on_the_same_sites():
    """The paper adds a k3 s2 branch to a k2 s2 shortcut."""
    x = random_tensor(torch.Generator().manual_seed(4), dtype=torch.float32)
    a, b = SparseConv3d(3, 4, 3, 2), SparseConv3d(3, 4, 2, 2)
    assert (a(x) + b(x)).sites is x.sites.downsample(2)


def test_unfit_input_is_refused_with_what_was_expected():
    x = random_tensor(torch.Generator(), dtype=torch.float32)
    with pytest.raises(ValueError, match="expected 5 input channels, got 3"):
        SparseConv3d(5, 2, 3)(x)
    with pytest.raises(ValueError, match="dense tensor reaches this sparse layer"):
        SparseConv3d(5, 2, 3)(torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="groups must divide the channels"):
        SparseConv3d(4, 4, 3, groups=3)
    with pytest.raises(ValueError, match="no sites of stride 1"):
        coarse = SparseTensor(torch.zeros(1, 3), torch.zeros(1, 4, dtype=torch.long))
        sites = type(coarse.sites)(coarse.coords, 1, stride=2)
        SparseConvTranspose3d(3, 2, 2, 2)(SparseTensor(coarse.feats, sites))
