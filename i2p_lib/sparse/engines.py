"""Engines for the sparse convolutions behind one small interface: torch and compiled loops, others.

An engine is given our own kernel map, so the output sites and the order of the taps are ours
whichever engine computes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import FunctionType, ModuleType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from i2p_lib.sparse import gathered
from i2p_lib.sparse.kernel_map import KernelMap, once

Gradients = tuple[Tensor | None, Tensor | None]
CHANNELS_16_BIT = 8  # 16-bit kernels on a GPU read so many channels at a time


class Backend:
    """An engine: convolutions, and their gradients for input and weight.

    ``weight`` is [K, G, C_in / G, C_out / G], or [K, C] for a depthwise layer.
    """

    name: str
    install: str
    formats: tuple[torch.dtype, ...] = (torch.float32, torch.float16)

    def version(self) -> str:
        """Return the engine's version; raise ImportError with the reason where it is unusable."""

    def devices(self) -> tuple[str, ...]:
        """Return the types of device that this build of the engine computes on."""

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        """Return [n_out, C_out] of `x` [n_in, C_in] and `weight`."""

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        """Return the gradients of `x` and `weight` for `grad` [n_out, C_out], those it `needs`."""

    def problem(self) -> str | None:
        """Return why the engine cannot be used here and what helps, or None where it can."""
        try:
            self.version()
        except (ImportError, AssertionError, RuntimeError, OSError, AttributeError) as error:
            return f"{str(error)[:200] or type(error).__name__} ({self.install})"
        return None

    def lacks(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> str | None:
        """Return why a convolution stays on torch, or None where the engine computes it."""
        if weight.ndim == 2 or weight.shape[1] > 1:
            return "depthwise" if weight.ndim == 2 else "grouped"
        if x.device.type not in self.devices():
            return f"on {x.device.type}"
        if x.dtype not in self.formats:
            return str(x.dtype).removeprefix("torch.")
        uneven = any(channels % CHANNELS_16_BIT for channels in weight.shape[-2:])
        if x.is_cuda and x.dtype == torch.float16 and uneven:
            return f"channels no multiple of {CHANNELS_16_BIT} in float16"
        return None if any(kmap.sizes) else "no pairs"


class Torch(Backend):
    """The default, which lacks nothing: compiled loops on a CPU, torch's operations elsewhere.

    A CPU computes 16-bit formats in float32, which is faster there than the products of torch.
    """

    name = "torch"

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        engine, wide = _for_device(x)
        return engine.multiply(x.to(wide), weight.to(wide), kmap).to(x.dtype)

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        grad_x = grad_weight = None
        if needs[0]:
            turned = weight if weight.ndim == 2 else weight.mT
            grad_x = self.forward(grad, turned, kmap.transposed())
        if needs[1]:
            engine, wide = _for_device(x)
            made = engine.weight_gradient(x.to(wide), grad.to(wide), weight, kmap)
            grad_weight = made.to(weight.dtype)
        return grad_x, grad_weight


def _for_device(x: Tensor) -> tuple[ModuleType, torch.dtype]:
    """The functions for the device of `x`, and the number format that they work in."""
    if x.device.type == "cpu":
        from i2p_lib.sparse import cpu  # compiles, so that importing the package stays quick

        return cpu, torch.promote_types(x.dtype, torch.float32)
    return gathered, x.dtype


class Spconv(Backend):
    """spconv 2.3 (CPU or CUDA) or spconv-triton (CUDA), by their lists of pairs per tap.

    Their weights are [C_out, K, C_in], their pairs int32 [2, K, longest tap], filled up with -1.
    """

    name = "spconv"
    install = "pip install spconv on a CPU; spconv-cu126 or spconv-triton on a GPU"

    def version(self) -> str:
        package = _spconv()
        if package.__name__ == "spconv" and not package.__version__.startswith("2.3"):
            raise ImportError(f"expected spconv 2.3, got {package.__version__}")
        if self.devices() == ("cuda",) and not torch.cuda.is_available():
            raise ImportError(f"{package.__name__} needs a CUDA device")
        return package.__version__

    def devices(self) -> tuple[str, ...]:
        if _spconv().__name__ == "spconv_triton":
            return ("cuda",)
        return ("cpu",) if _spconv(".cppconstants").CPU_ONLY_BUILD else ("cpu", "cuda")

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        filters = weight[:, 0].permute(2, 0, 1).contiguous()
        pairs, counts, submanifold = once(kmap.lists, "spconv", lambda: _padded_pairs(kmap))
        convolve = _spconv(".pytorch.ops").indice_conv
        return convolve(x, filters, pairs, counts, kmap.n_out, False, submanifold)

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        filters = weight[:, 0].permute(2, 0, 1).contiguous()
        pairs, counts, submanifold = once(kmap.lists, "spconv", lambda: _padded_pairs(kmap))
        function = _spconv_backward(x.is_cuda)
        grad_x, grad_filters = function(x, filters, grad, pairs, counts, False, submanifold)
        return grad_x, grad_filters.permute(1, 2, 0)[:, None]


@cache
def _spconv(inside: str = "") -> ModuleType:
    for name in ("spconv", "spconv_triton"):
        if find_spec(name):
            return importlib.import_module(name + inside)
    raise ImportError("not installed")


@cache
def _spconv_backward(on_cuda: bool) -> Callable:
    """spconv's backward, which asks for a CUDA stream even on the CPU: there a copy that sees 0.

    The copy has its own global names, so that spconv itself stays as it is.
    """
    original = _spconv(".pytorch.ops").indice_conv_backward
    if on_cuda:
        return original
    names = original.__globals__ | {"get_current_stream": lambda: 0}
    return FunctionType(original.__code__, names, original.__name__, original.__defaults__)


def _padded_pairs(kmap: KernelMap) -> tuple[Tensor, Tensor, bool]:
    """spconv's form of a map: pairs, pairs per tap (on the CPU), and whether it is submanifold.

    In a submanifold map the middle tap is the identity and the taps are mirrored about it.
    """
    rows = (rows.split(kmap.sizes) for rows in (kmap.rows_in, kmap.rows_out))
    pairs = torch.stack([pad_sequence(r, batch_first=True, padding_value=-1) for r in rows])
    counts = torch.tensor(kmap.sizes, dtype=torch.int32)
    return pairs.int(), counts, kmap.identity == len(kmap.sizes) // 2


class TorchSparse(Backend):
    """torchsparse 2.1 by its gather-scatter kernels: int32 [P, 2] pairs, tap after tap, on CUDA."""

    name = "torchsparse"
    install = "build mit-han-lab/torchsparse v2.1.0 from source, on a machine with CUDA"

    def version(self) -> str:
        if find_spec("torchsparse") is None:
            raise ImportError("not installed")
        if not torch.cuda.is_available():
            raise ImportError("needs a CUDA device")  # its import would fail without saying so
        version = importlib.import_module("torchsparse").__version__
        if not version.startswith("2.1"):
            raise ImportError(f"expected torchsparse 2.1, got {version}")
        return version

    def devices(self) -> tuple[str, ...]:
        return ("cuda",)

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        pairs, counts = once(kmap.lists, "torchsparse", lambda: _listed_pairs(kmap))
        unused = x.new_empty(0)
        # It takes the middle of an odd number of taps for the identity wherever there are as many
        # outputs as inputs. Where that is wrong, a spare output row keeps the two numbers apart.
        odd = len(weight) % 2 == 1 and kmap.n_in == kmap.n_out
        spare = int(odd and (kmap.identity != len(weight) // 2 or len(weight) == 1))
        out = importlib.import_module("torchsparse.backend").conv_forward_gather_scatter_cuda(
            x, weight[:, 0].contiguous(), pairs, counts, unused, unused, kmap.n_out + spare,
            0.0, 0, 0, False, unused)  # fmt: skip
        return out[: kmap.n_out]

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        pairs, counts = once(kmap.lists, "torchsparse", lambda: _listed_pairs(kmap))
        weight = weight[:, 0].contiguous()
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        importlib.import_module("torchsparse.backend").conv_backward_gather_scatter_cuda(
            x, grad_x, grad, weight, grad_weight, pairs, counts, False)  # fmt: skip
        return grad_x, grad_weight[:, None]


def _listed_pairs(kmap: KernelMap) -> tuple[Tensor, Tensor]:
    """torchsparse's form of a map: (input row, output row) pairs, and pairs per tap on the CPU."""
    pairs = torch.stack([kmap.rows_in, kmap.rows_out], 1).int()
    return pairs, torch.tensor(kmap.sizes, dtype=torch.int32)


BACKENDS: dict[str, Backend] = {engine.name: engine for engine in (Spconv(), TorchSparse())}
