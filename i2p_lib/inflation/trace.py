"""Following a network without changing it: its leaf layers in order, and a trial on a cloud."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.module_tracker import ModuleTracker

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


@dataclass(frozen=True)
class Step:
    """One leaf layer as the image model runs it, and its total strides; 0 behind the pooling."""

    name: str
    layer: nn.Module
    stride_in: int
    stride_out: int


def trace(model: nn.Module) -> list[Step]:
    """Run the image model once, image and weights without data, and note its leaf layers in order.

    Raises InflationError where the model uses attention.
    """
    steps: list[Step] = []
    expected = getattr(model, "pretrained_cfg", None) or {}  # of timm's models
    side = expected.get("input_size", (3, IMAGE, IMAGE))[-1]

    def note(name: str, layer: nn.Module, inputs: tuple, output: object) -> None:
        before, after = (_total_stride(image, side) for image in (inputs[0], output))
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.BatchNorm2d):
            steps.append(Step(name, layer, before, after))
        elif isinstance(layer, nn.Linear) or next(layer.children(), None) is None:
            steps.append(Step(name, layer, 0, 0))

    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    image = torch.empty(1, 3, side, side, device="meta", dtype=next(model.parameters()).dtype)
    with evaluated(model), ModuleTracker() as running, _NoAttention(running), ExitStack() as hooks:
        for name, layer in model.named_modules():
            hooks.enter_context(layer.register_forward_hook(partial(note, name)))
        torch.func.functional_call(model, empty, (image,))
    return steps


def try_out(net: nn.Module, stem: str) -> None:
    """Run an inflated network once on two tiny clouds, in evaluation mode.

    Raises InflationError where a function between the layers has no meaning on sparse sites.
    """
    if next(net.parameters()).is_meta:
        return
    cloud = tiny_clouds(net, net.get_submodule(stem).in_channels)
    with evaluated(net), ModuleTracker() as running:
        try:
            net(cloud)
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
def evaluated(net: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode, without gradients; each layer's own mode comes back."""
    modes = {layer: layer.training for layer in net.modules()}
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for layer, training in modes.items():
            layer.training = training
