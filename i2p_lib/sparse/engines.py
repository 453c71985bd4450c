"""Engines for the sparse convolutions behind one small interface: torch and compiled loops, others.

An engine is given our own kernel map, so the output sites and the order of the taps are ours
whichever engine computes.
"""

import importlib
from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from types import FunctionType, ModuleType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from i2p_lib.sparse import gathered
from i2p_lib.sparse.kernel_map import KernelMap, once

Gradients = tuple[Tensor | None, Tensor | None]
CHANNELS_16_BIT = 8  # 16-bit kernels on a GPU read so many channels at a time


class Torch:
    """The default engine: compiled loops on a CPU, torch's operations elsewhere.

    ``weight`` is [K, G, C_in / G, C_out / G], or [K, C] for a depthwise layer.
    A CPU computes 16-bit formats in float32, which is faster there than the products of torch.
    """

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        """Return [n_out, C_out] of `x` [n_in, C_in] and `weight`."""
        engine, wide = _for_device(x)
        return engine.multiply(x.to(wide), weight.to(wide), kmap).to(x.dtype)

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        """Return the gradients of `x` and `weight` for `grad` [n_out, C_out], those it `needs`."""
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


class Backend(Torch):
    """Another engine, from a package that may be installed, and what it lacks."""

    name: str
    install: str
    packages: dict[str, str]  # the first that is installed computes; what its version begins with
    formats: tuple[torch.dtype, ...] = (torch.float32, torch.float16)

    @cached_property
    def package(self) -> str:
        """The name of the package that is installed; ImportError where none is."""
        for name in filter(find_spec, self.packages):
            return name
        raise ImportError("not installed")

    def module(self, inside: str = "") -> ModuleType:
        """Import the package, or a module inside it that begins with a dot."""
        return importlib.import_module(self.package + inside)

    def version(self) -> str:
        """Return the engine's version; raise ImportError with the reason where it is unusable."""
        wanted = self.packages[self.package]
        if self.devices() == ("cuda",) and not torch.cuda.is_available():
            raise ImportError(f"{self.package} needs a CUDA device")  # importing it would only fail
        version = self.module().__version__
        if not version.startswith(wanted):
            raise ImportError(f"expected {self.package} {wanted}, got {version}")
        return version

    def devices(self) -> tuple[str, ...]:
        """Return the types of device that this build of the engine computes on."""

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


class Spconv(Backend):
    """spconv 2.3 (CPU or CUDA) or spconv-triton (CUDA), by their lists of pairs per tap.

    Their weights are [C_out, K, C_in], their pairs int32 [2, K, longest tap], filled up with -1.
    """

    name = "spconv"
    packages = {"spconv": "2.3", "spconv_triton": ""}
    install = "pip install spconv on a CPU; spconv-cu126 or spconv-triton on a GPU"

    def devices(self) -> tuple[str, ...]:
        if self.package == "spconv_triton":
            return ("cuda",)
        return ("cpu",) if self.module(".cppconstants").CPU_ONLY_BUILD else ("cpu", "cuda")

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        filters, pairs, counts, submanifold = self._own(weight, kmap)
        return self.module(".pytorch.ops").indice_conv(
            x, filters, pairs, counts, kmap.n_out, False, submanifold)  # fmt: skip

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        filters, *lists, submanifold = self._own(weight, kmap)
        original = self.module(".pytorch.ops").indice_conv_backward
        function = original if x.is_cuda else _without_stream(original)
        grad_x, grad_filters = function(x, filters, grad, *lists, False, submanifold)
        return grad_x, grad_filters.permute(1, 2, 0)[:, None]

    def _own(self, weight: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Weights, pairs, pairs per tap (on the CPU), and whether the map is submanifold.

        In a submanifold map the middle tap is the identity and the taps are mirrored about it.
        """

        def padded() -> tuple[Tensor, Tensor]:
            rows = (rows.split(kmap.sizes) for rows in (kmap.rows_in, kmap.rows_out))
            pairs = [pad_sequence(r, batch_first=True, padding_value=-1) for r in rows]
            return torch.stack(pairs).int(), torch.tensor(kmap.sizes, dtype=torch.int32)

        filters = weight[:, 0].permute(2, 0, 1).contiguous()
        return filters, *once(kmap.lists, self.name, padded), kmap.identity == len(weight) // 2


@cache
def _without_stream(function: Callable) -> Callable:
    """A copy of a function of spconv that sees 0 for a CUDA stream, which it asks for on CPUs too.

    The copy has its own global names, so that spconv itself stays as it is.
    """
    names = function.__globals__ | {"get_current_stream": lambda: 0}
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


class TorchSparse(Backend):
    """torchsparse 2.1 by its gather-scatter kernels: int32 [P, 2] pairs, tap after tap, on CUDA."""

    name = "torchsparse"
    packages = {"torchsparse": "2.1"}
    install = "build mit-han-lab/torchsparse v2.1.0 from source, on a machine with CUDA"

    def devices(self) -> tuple[str, ...]:
        return ("cuda",)

    def forward(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        weight, pairs, counts = self._own(weight, kmap)
        unused = x.new_empty(0)
        # It takes the middle of an odd number of taps for the identity wherever there are as many
        # outputs as inputs. Where that is wrong, a spare output row keeps the two numbers apart.
        odd = len(weight) % 2 == 1 and kmap.n_in == kmap.n_out
        spare = int(odd and (kmap.identity != len(weight) // 2 or len(weight) == 1))
        out = self.module(".backend").conv_forward_gather_scatter_cuda(
            x, weight, pairs, counts, unused, unused, kmap.n_out + spare, 0.0, 0, 0, False, unused)
        return out[: kmap.n_out]

    def backward(self, x: Tensor, weight: Tensor, grad: Tensor, kmap: KernelMap,
                 needs: tuple[bool, bool]) -> Gradients:  # fmt: skip
        weight, pairs, counts = self._own(weight, kmap)
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        self.module(".backend").conv_backward_gather_scatter_cuda(
            x, grad_x, grad, weight, grad_weight, pairs, counts, False)  # fmt: skip
        return grad_x, grad_weight[:, None]

    def _own(self, weight: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [K, C_in, C_out], (input row, output row) pairs, pairs per tap on the CPU."""
        pairs, counts = once(kmap.lists, self.name, lambda: (
            torch.stack([kmap.rows_in, kmap.rows_out], 1).int(),
            torch.tensor(kmap.sizes, dtype=torch.int32)))  # fmt: skip
        return weight[:, 0].contiguous(), pairs, counts


BACKENDS: dict[str, Backend] = {engine.name: engine for engine in (Spconv(), TorchSparse())}
