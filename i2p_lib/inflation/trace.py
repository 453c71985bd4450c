"""Following a network without changing it: its leaf layers in order, and a trial on a cloud."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils.module_tracker import ModuleTracker

from i2p_lib.inflation.layers import IMAGE_NORMS
from i2p_lib.inflation.regimes import NORMS
from i2p_lib.sparse import Sites, SparseTensor

IMAGE = 224  # side of the image on which models are traced that do not say what they expect
ATTENTION = frozenset({
    torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
    nn.functional.scaled_dot_product_attention, nn.functional.multi_head_attention_forward,
    torch._native_multi_head_attention,
})  # fmt: skip
"""Functions that multiply activations with activations."""


class InflationError(ValueError):
    """A layer has no sparse 3D twin; the message names the layer and the reason."""


WRAPPED = "it wraps or compiles a network: inflate the network itself, such as "
OPAQUE = {nn.DataParallel: "its .module", nn.parallel.DistributedDataParallel: "its .module",
          torch.jit.ScriptModule: "the Python module that was compiled"}  # fmt: skip


def copied(model: nn.Module) -> nn.Module:
    """A copy of an image model.

    Raises InflationError where layers hide in a wrapper, or compute their weights from others.
    """
    for name, layer in model.named_modules():
        where = f"{name or 'the model'}: {type(layer).__name__}"
        inside = [what for kind, what in OPAQUE.items() if isinstance(layer, kind)]
        if inside := inside or ["its ._orig_mod"] * hasattr(layer, "_orig_mod"):
            raise InflationError(f"{where}: {WRAPPED}{inside[0]}")
        if is_parametrized(layer) or any(isinstance(vars(layer).get(key), Tensor)
                                         for key in ("weight", "bias")):  # fmt: skip
            raise InflationError(f"{where}: its weights are computed from others (weight_norm, "
                                 "spectral_norm, pruning): make them plain parameters first, by "
                                 "remove_parametrizations, remove_weight_norm or prune.remove")
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InflationError(f"the model cannot be copied: {error}") from error


@dataclass(frozen=True)
class Step:
    """One leaf layer as the image model runs it, and its total strides; 0 behind the pooling."""

    name: str
    layer: nn.Module
    stride_in: int
    stride_out: int
    shape: tuple[int, ...]  # of the output; () where it is no tensor


def trace(model: nn.Module) -> list[Step]:
    """Run the image model once, image and weights without data, and note its leaf layers in order.

    The image has three channels, or those of the first convolution where it refuses three.
    Raises InflationError where the model uses attention, or fails.
    """
    channels = [layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not channels:
        raise InflationError("the model needs a convolution first")
    try:
        return _traced(model, 3)
    except InflationError as error:
        if channels[0] == 3 or not isinstance(error.__cause__, RuntimeError):
            raise
        return _traced(model, channels[0])


def _traced(model: nn.Module, channels: int) -> list[Step]:
    steps: list[Step] = []
    configured = (getattr(part, "pretrained_cfg", None) for part in model.modules())
    expected = next(filter(None, configured), {})  # of timm's models
    side = expected.get("input_size", (3, IMAGE, IMAGE))[-1]

    layers = dict(model.named_modules())  # each layer once, tied ones as well

    def note(name: str, image: object, output: object) -> None:
        layer, shape = layers[name], tuple(output.shape) if isinstance(output, Tensor) else ()
        before, after = (_total_stride(what, side) for what in (image, output))
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, *IMAGE_NORMS)):
            steps.append(Step(name, layer, before, after, shape))
        elif isinstance(layer, nn.Linear) or next(layer.children(), None) is None:
            steps.append(Step(name, layer, 0, 0, shape))

    tensors = [named for name, layer in layers.items()
               for named in (*layer.named_parameters(name, False, False),
                             *layer.named_buffers(name, False, False))]  # fmt: skip
    image = torch.empty(1, channels, side, side, device="meta",
                        dtype=next(model.parameters()).dtype)  # fmt: skip
    with (evaluated(model), ModuleTracker() as running, _NoAttention(running), _naming(running),
          watched(model, layers, note)):  # fmt: skip
        empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
        torch.func.functional_call(model, empty, (image,), tie_weights=False)
    return steps


def try_out(net: nn.Module, stem: str) -> None:
    """Run an inflated network on two tiny clouds, in evaluation mode and as in training.

    Norms keep their statistics. Raises InflationError where a function between the layers has no
    meaning on sparse sites.
    """
    if next(net.parameters()).is_meta:
        return
    cloud = tiny_clouds(net, net.get_submodule(stem).in_channels)
    devices = [cloud.device] if cloud.device.type == "cuda" else []
    for training in (False, True):
        with (evaluated(net, training), torch.random.fork_rng(devices), ModuleTracker() as running,
              _naming(running)):  # fmt: skip
            net(cloud)


@contextmanager
def _naming(running: ModuleTracker) -> Iterator[None]:
    """Turn an error of the network that runs into an InflationError that names its layer."""
    try:
        yield
    except InflationError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise InflationError(f"{_innermost(running)}: {error}") from error


def tiny_clouds(net: nn.Module, channels: int, stride: int = 1) -> SparseTensor:
    """Two samples of four sites each on a level of that stride, to try a network on."""
    line = torch.arange(4)[:, None] * torch.tensor([[0, 1, 2, 3]])
    coords, weight = torch.cat([line, line + torch.tensor([1, 0, 0, 0])]), next(net.parameters())
    sites = Sites(coords.to(weight.device), 2, stride)
    return SparseTensor(weight.new_ones(len(coords), channels), sites)


def _innermost(running: ModuleTracker) -> str:
    """The name of the layer that is running."""
    return max(running.parents, key=len).partition(".")[2] or "the model"


def _total_stride(image, side: int) -> int:
    """The power of two that an image was scaled down by from its side; 0 for what is no image."""
    if not isinstance(image, Tensor) or image.ndim != 4 or not 1 < image.shape[-1] <= side:
        return 0
    return 2 ** round(math.log2(side / image.shape[-1]))


class _NoAttention(TorchFunctionMode):
    """Refuses functions that let every place of an image look at every other."""

    def __init__(self, running: ModuleTracker):
        super().__init__()
        self.running = running

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ATTENTION:
            raise InflationError(f"{_innermost(self.running)}: attention ({func.__name__}) "
                                 "over a raster of patches; sparse sites are no such raster, and "
                                 "only convolutions can be inflated")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(net: nn.Module, names: Iterable[str],
            see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Call see(name, input, output) of the named layers in every forward pass in the block."""
    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(net.get_submodule(name).register_forward_hook(
                lambda _, inputs, output, name=name: see(name, inputs[0], output)))
        yield


@contextmanager
def evaluated(net: nn.Module, training: bool = False) -> Iterator[None]:
    """Keep a network in evaluation mode, without gradients; each layer's own mode comes back.

    training: whether all but the norms train, whose statistics stay in either mode.
    """
    modes = {layer: layer.training for layer in net.modules()}
    net.train(training)
    for layer in modes:
        layer.training = layer.training and not isinstance(layer, NORMS)
    try:
        with torch.inference_mode():
            yield
    finally:
        for layer, training in modes.items():
            layer.training = training
