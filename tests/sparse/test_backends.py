"""Every engine gives what conv3d and torch give, forward and backward; the rest stays on torch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conv import dense_reference, random_tensor

from i2p_lib import cli
from i2p_lib.inflation import inflate
from i2p_lib.runs import RunSpec, run
from i2p_lib.runs.store import Entry
from i2p_lib.sparse import Sites, SparseConv3d, SparseConvTranspose3d, SparseTensor, use_backend
from i2p_lib.sparse.backends import BACKENDS
from i2p_lib.weights import image_model

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
IN, OUT = 8, 16  # multiples of 8, which 16-bit kernels on a GPU want


def require(engine, device):
    """Skip, and say why, where an engine or a device is missing."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if engine == "torch":
        return
    backend = BACKENDS[engine]
    if problem := backend.problem():
        pytest.skip(f"{engine}: {problem}")
    if device not in backend.devices():
        pytest.skip(f"{engine} {backend.version()} does not compute on {device}")


def named(*point):
    name = "-".join(str(part).removeprefix("torch.") for part in point)
    return pytest.param(point, id=name, marks=[pytest.mark.gpu] if "cuda" in point else [])


ENGINES = [("torch", "cpu"), ("torch", "cuda"), ("spconv", "cpu"), ("spconv", "cuda"),
           ("torchsparse", "cuda")]
PLACES = [
    (engine, device, dtype)
    for engine, device in ENGINES
    for dtype in (TOLERANCE if engine == "torch" else BACKENDS[engine].formats)
]


@pytest.fixture(scope="module", params=[named(*place) for place in PLACES])
def place(request):
    """(engine, device, dtype)."""
    require(*request.param[:2])
    return request.param


@pytest.fixture(scope="module", params=[named(*engine) for engine in ENGINES])
def engine(request):
    """(engine, device)."""
    require(*request.param)
    return request.param


def moved(x, device, dtype):
    """A leaf with the same sites and rounded features."""
    return SparseTensor(
        x.feats.detach().to(device, dtype).requires_grad_(), x.coords.to(device), x.batch_size
    )


def gradients(out, x, layer):
    """Output, dX and dW for a fixed gradient of the output, in float64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator).to(torch.bfloat16)  # exact in all formats
    found = torch.autograd.grad(out, [x.feats, layer.weight], grad.to(out))
    return [tensor.detach().double().cpu() for tensor in (out, *found)]


def assert_close(ours, exact, dtype):
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        assert float((a - b).abs().max() if a.numel() else 0) <= TOLERANCE[dtype] * scale


def assert_equals_dense(layer, x, place):
    """The gradients are asked for outside the block: the engine of the forward pass gives them."""
    engine, device, dtype = place
    layer, x = layer.to(device, dtype), moved(x, device, dtype)
    with use_backend(engine) as use:
        out = layer(x).feats
    if engine != "torch":
        kmap = x.sites.kernel_map(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        pairs = any(kmap.sizes)
        assert use.computed == int(pairs), use.record()
        assert use.on_torch == ({} if pairs else {"no pairs": 1})
    exact, y = copy.deepcopy(layer).cpu().double(), moved(x, "cpu", torch.float64)
    reference = gradients(dense_reference(exact, y), y, exact)
    assert_close(gradients(out, x, layer), reference, dtype)


@pytest.mark.parametrize("kernel, stride, padding, dilation", [
    (3, 1, None, 1), (5, 1, None, 1), (2, 1, None, 1), (3, 2, None, 1), (2, 2, None, 1),
    (3, 3, None, 1), (1, 2, None, 1), (3, 1, 0, 1), (3, 1, 1, 2), ((1, 3, 5), 1, (0, 1, 2), 1),
])  # fmt: skip
def test_equals_dense_convolution(place, kernel, stride, padding, dilation):
    generator = torch.Generator().manual_seed(stride)
    x = random_tensor(generator, 60, IN, shift=-3)
    layer = SparseConv3d(IN, OUT, kernel, stride, padding, dilation, generator=generator)
    assert_equals_dense(layer, x, place)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), sites=st.integers(1, 60), extent=st.integers(1, 9),
       shift=st.integers(-50, 50), batch=st.integers(1, 3), stride=st.integers(1, 3),
       kernel=st.integers(2, 5))
def test_equals_dense_on_any_geometry(
    place, seed, sites, extent, shift, batch, stride, kernel
):
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, sites, IN, extent, batch, shift)
    layer = SparseConv3d(IN, OUT, kernel, stride, generator=generator)
    assert_equals_dense(layer, x, place)


@pytest.mark.parametrize("coords, batch", [
    ([[0, -7, 0, 9]], 1), ([[1, 2, 2, 2]], 3), ([[0, 0, 0, 0], [0, 9, 9, 9], [2, 3, 5, 7]], 4),
], ids=["one voxel", "one voxel between empty samples", "far apart, as many outputs as inputs"])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (2, 2), (5, 2)])
def test_few_voxels_and_empty_samples_equal_dense(place, kernel, stride, coords, batch):
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(len(coords), IN, generator=generator)
    x = SparseTensor(feats, torch.tensor(coords), batch)
    layer = SparseConv3d(IN, OUT, kernel, stride, generator=generator)
    assert_equals_dense(layer, x, place)


def test_no_voxel_at_all_gives_no_row(place):
    engine, device, dtype = place
    x = SparseTensor(torch.zeros(0, IN), torch.zeros(0, 4, dtype=torch.long), 2)
    layer, x = SparseConv3d(IN, OUT, 3).to(device, dtype), moved(x, device, dtype)
    with use_backend(engine):
        assert layer(x).feats.shape == (0, OUT)


@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 2), (3, 3)])
def test_transposed_convolution_gives_what_torch_gives_in_float64(place, kernel, stride):
    engine, device, dtype = place
    generator = torch.Generator().manual_seed(kernel)
    fine = random_tensor(generator, channels=IN)
    layer = SparseConvTranspose3d(IN, OUT, kernel, stride, generator=generator).to(device, dtype)
    exact = copy.deepcopy(layer).cpu().double()
    rows = []
    for module, where in ((layer, (device, dtype)), (exact, ("cpu", torch.float64))):
        sites = Sites(fine.coords.to(where[0]), fine.batch_size)
        coarse = sites.downsample(stride)
        feats = torch.randn(len(coarse), IN, generator=torch.Generator().manual_seed(5))
        feats = feats.to(torch.bfloat16).to(*where).requires_grad_()
        x = SparseTensor(feats, coarse)
        with use_backend(engine if module is layer else "torch") as use:
            out = module(x)
        assert out.sites is sites
        assert use.computed == int(module is layer and engine != "torch")
        rows.append(gradients(out.feats, x, module))
    assert_close(*rows, dtype)


def test_an_extruded_volume_gives_what_torch_gives_in_float64(place):
    """All taps along the constant axis meet the same site: a map without an identity tap."""
    engine, device, dtype = place
    x = random_tensor(torch.Generator().manual_seed(3), 40, IN, batch=1)
    flat = x.coords[x.coords[:, 3] == 0]
    feats = x.feats.detach()[: len(flat)].to(torch.bfloat16)
    layer = SparseConv3d(IN, OUT, 3, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    exact = copy.deepcopy(layer).cpu().double()
    rows = []
    for module, where in ((layer, (device, dtype)), (exact, ("cpu", torch.float64))):
        sites = Sites(flat.to(where[0]), 1, extruded=2)
        y = SparseTensor(feats.to(*where).requires_grad_(), sites)
        with use_backend(engine if module is layer else "torch"):
            rows.append(gradients(module(y).feats, y, module))
    assert_close(*rows, dtype)


def test_a_whole_network_gives_what_torch_gives(engine):
    """Inflated ResNet-18, one training step: logits and every gradient."""
    name, device = engine
    model = image_model("resnet18", weights="random", seed=0)
    net = inflate(model, 3, 5, recipe="paper", generator=torch.Generator().manual_seed(0))
    x = random_tensor(torch.Generator().manual_seed(0), 300, 3, 10, 3)
    net, x = net.double().to(device), moved(x, device, torch.float64)
    exact = step(copy.deepcopy(net), x, "torch")[0]
    ours, use = step(net.float(), moved(x, device, torch.float32), name)
    expected = 0 if name == "torch" else 20
    assert use.computed == expected and not use.on_torch, use.record()
    for a, b in zip(ours, exact, strict=True):
        assert float((a - b).norm()) <= 1e-4 * max(float(b.norm()), 1.0)


def step(net, x, name):
    with use_backend(name) as use:
        logits = net.train()(x)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(3, device=logits.device))
        loss.backward()
    found = [logits.detach(), *(p.grad for p in net.parameters())]
    return [tensor.double() for tensor in found], use


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_known_maps_never_waits_for_the_gpu():
    """The maps are built in a first pass; after that the host only queues work."""
    net = inflate(image_model("resnet18", weights="random", seed=0), 3, 5, recipe="paper").cuda()
    x = moved(random_tensor(torch.Generator().manual_seed(0), 300, 3, 10, 3), "cuda", torch.float32)
    labels = torch.arange(3, device="cuda")
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()

    step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        counts = Sites(x.coords, 3).counts
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert counts.sum() == len(x.coords)
    assert x.to("cuda").sites is x.sites  # and with them their maps


def test_under_autocast_an_engine_keeps_the_format_of_the_features(engine):
    name, device = engine
    x = moved(random_tensor(torch.Generator().manual_seed(0), channels=IN), device, torch.float32)
    layer = SparseConv3d(IN, OUT, 3).to(device)
    with use_backend("torch"):
        expected = layer(x).feats
    with use_backend(name), torch.autocast(device, torch.bfloat16):
        found = layer(x).feats
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_an_engine_lacks_stays_on_torch_and_is_counted(engine):
    name, device = engine
    if name == "torch":
        pytest.skip("torch lacks nothing")
    x = moved(random_tensor(torch.Generator().manual_seed(0), channels=IN), device, torch.float32)
    layers = [SparseConv3d(IN, IN, 3, groups=groups).to(device) for groups in (IN, 2, 1)]
    with use_backend(name) as use:
        found = [layer(x).feats for layer in layers]
        layers[2].double()(moved(x, device, torch.float64))
    layers[2].float()
    expected = [layer(x).feats for layer in layers]
    torch.testing.assert_close(found, expected)
    assert use.computed == 1
    assert use.on_torch == {"depthwise": 1, "grouped": 1, "float64": 1}
    version = BACKENDS[name].version()
    assert use.record()["backend"] == (
        f"{name} {version}: 1 convolutions; on torch: 1 depthwise, 1 grouped, 1 float64"
    )


def test_blocks_nest_and_nothing_is_left_behind(engine):
    name, device = engine
    x = moved(random_tensor(torch.Generator().manual_seed(0), channels=IN), device, torch.float32)
    layer = SparseConv3d(IN, OUT, 3).to(device)
    with use_backend(name) as outer:
        with use_backend("torch"):
            layer(x)
        layer(x)
    layer(x)
    assert outer.computed == int(name != "torch")


def test_an_unknown_or_unusable_backend_is_refused_before_anything_runs(monkeypatch):
    with pytest.raises(ValueError, match="unknown backend 'spconf'; known are torch, spconv"):
        use_backend("spconf").__enter__()
    monkeypatch.setenv("I2P_BACKEND", "spconf")
    with pytest.raises(ValueError, match="unknown backend 'spconf'"):
        use_backend().__enter__()
    for name, backend in BACKENDS.items():
        if problem := backend.problem():
            with pytest.raises(RuntimeError, match=f"the backend {name} cannot") as refusal:
                use_backend(name).__enter__()
            assert problem in str(refusal.value) and "or use torch" in str(refusal.value)


def test_spconv_itself_is_left_as_it_is():
    """Its CPU backward needs another stream function; other users of spconv must not see ours."""
    require("spconv", "cpu")
    from spconv.pytorch import cppcore, ops
    x = moved(random_tensor(torch.Generator().manual_seed(0), channels=IN), "cpu", torch.float32)
    layer = SparseConv3d(IN, OUT, 3)
    with use_backend("spconv"):
        layer(x).feats.sum().backward()
    assert layer.weight.grad is not None
    assert ops.get_current_stream is cppcore.get_current_stream


def test_the_doctor_says_of_each_backend_whether_it_is_usable(capsys):
    assert cli.main(["doctor"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    for name, backend in BACKENDS.items():
        problem = backend.problem()
        assert lines[name].split()[0] == ("note" if problem else "ok")
        assert (problem or f"usable on {' and '.join(backend.devices())}") in lines[name]


def test_a_run_keeps_which_backend_computed_it(tmp_path, monkeypatch):
    spec = RunSpec(points=64, epochs=1, batch_size=8, train_limit=16, test_limit=16)
    key = Entry.of(spec, tmp_path).key
    run(spec, tmp_path / "plain", progress=False)
    assert "backend" not in Entry.of(spec, tmp_path / "plain").state()
    require("spconv", "cpu")
    monkeypatch.setenv("I2P_BACKEND", "spconv")
    run(spec, tmp_path / "other", progress=False)
    entry = Entry.of(spec, tmp_path / "other")
    assert entry.key == key
    assert entry.state()["backend"].startswith(f"spconv {BACKENDS['spconv'].version()}: ")
    assert "depthwise" in entry.state()["backend"]
