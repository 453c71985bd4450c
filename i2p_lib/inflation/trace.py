"""Following a network without changing it: its leaf layers in order, and a trial on a cloud."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from i2p_lib.sparse import SparseTensor

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

    def note(name, layer, inputs, output):
        before, after = (_total_stride(image, side) for image in (inputs[0], output))
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.BatchNorm2d):
            steps.append(Step(name, layer, before, after))
        elif isinstance(layer, nn.Linear) or next(layer.children(), None) is None:
            steps.append(Step(name, layer, 0, 0))

    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    image = torch.empty(1, 3, side, side, device="meta", dtype=next(model.parameters()).dtype)
    with _watched(model, note) as entered, _NoAttention(entered):
        torch.func.functional_call(model, empty, (image,))
    return steps


def try_out(net: nn.Module, stem: str) -> None:
    """Run an inflated network once on two tiny clouds, in evaluation mode.

    Raises InflationError where a function between the layers has no meaning on sparse sites.
    """
    weight = next(net.parameters())
    if weight.is_meta:
        return
    line = torch.arange(4)[:, None] * torch.tensor([[0, 1, 2, 3]])
    coords = torch.cat([line, line + torch.tensor([1, 0, 0, 0])]).to(weight.device)
    feats = weight.new_ones(len(coords), net.get_submodule(stem).in_channels)
    with _watched(net) as entered:
        try:
            net(SparseTensor(feats, coords))
        except (TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            raise InflationError(f"{entered[-1] or 'the model'}: {error}") from error


def _total_stride(image, side: int) -> int:
    """The power of two that an image was scaled down by from its side; 0 for what is no image."""
    if not isinstance(image, Tensor) or image.ndim != 4 or not 1 < image.shape[-1] <= side:
        return 0
    return 2 ** round(math.log2(side / image.shape[-1]))


class _NoAttention(TorchFunctionMode):
    """Refuses functions that let every place of an image look at every other."""

    def __init__(self, entered: list[str]):
        super().__init__()
        self.entered = entered

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ATTENTION:
            raise InflationError(f"{self.entered[-1] or 'the model'}: attention ({func.__name__}) "
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


@contextmanager
def _watched(model: nn.Module, after: Callable | None = None) -> Iterator[list[str]]:
    """Evaluation in which the names of the layers that are running are known, outermost first.

    ``after`` sees each layer's name, input and output when it is done.
    """
    entered: list[str] = []
    names = {layer: name for name, layer in model.named_modules()}

    def leave(layer, inputs, output):
        name = entered.pop()
        if after is not None:
            after(name, layer, inputs, output)

    with ExitStack() as hooks, evaluated(model):
        for layer in names:
            hooks.enter_context(layer.register_forward_pre_hook(
                lambda layer, inputs: entered.append(names[layer])))
            hooks.enter_context(layer.register_forward_hook(leave))
        yield entered
