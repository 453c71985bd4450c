"""Which engine computes the sparse convolutions, and what it computed; torch is the default.

What an engine lacks stays on torch, layer by layer, so that every network runs whole.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.engines import BACKENDS, Backend, Torch
from i2p_lib.sparse.kernel_map import KernelMap

TORCH = Torch()


@dataclass
class Use:
    """What one block of `use_backend` computed where; `backend` is None for torch alone."""

    backend: Backend | None
    computed: int = 0
    on_torch: Counter[str] = field(default_factory=Counter)

    def engine(self, x: Tensor, weight: Tensor, kmap: KernelMap) -> Torch:
        """Return and count the engine that computes a convolution."""
        if self.backend is None:
            return TORCH
        if reason := self.backend.lacks(x, weight, kmap):
            self.on_torch[reason] += 1
            return TORCH
        self.computed += 1
        return self.backend

    def record(self) -> dict[str, str]:
        """Return what a run keeps: the engine, its convolutions, what stayed on torch and why."""
        if self.backend is None:
            return {}
        text = f"{self.backend.name} {self.backend.version()}: {self.computed} convolutions"
        reasons = [f"{count} {reason}" for reason, count in self.on_torch.most_common()]
        return {"backend": text + ("; on torch: " + ", ".join(reasons) if reasons else "")}

ALONE = Use(None)
_IN_USE: ContextVar[Use] = ContextVar("backend in use")


@contextmanager
def use_backend(name: str | None = None) -> Iterator[Use]:
    """Let an engine compute the sparse convolutions that run inside the block.

    name: "torch", "spconv" or "torchsparse"; default: $I2P_BACKEND, else "torch".
    The engine that computed a convolution also computes its gradients.  The innermost block counts.
    Raises ValueError for an unknown name, RuntimeError where the engine cannot be used here.

    >>> with use_backend("torch") as use:
    ...     pass  # net(x)
    >>> use.on_torch
    Counter()
    """
    name, known = name or os.environ.get("I2P_BACKEND") or "torch", {"torch": None} | BACKENDS
    if name not in known:
        raise ValueError(f"unknown backend {name!r}; known are {', '.join(known)}")
    backend = known[name]
    if backend is not None and (problem := backend.problem()):
        raise RuntimeError(f"the backend {name} cannot be used here: {problem}; or use torch")
    use = Use(backend)
    token = _IN_USE.set(use)
    try:
        yield use
    finally:
        _IN_USE.reset(token)


def convolve(feats: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """Compute a convolution by the backend in use, or on torch where it lacks it.

    `feats` [n_in, C_in], contiguous; `weight` [K, G, C_in / G, C_out / G], or [K, C] depthwise.
    """
    return Convolution.apply(feats, weight, kmap, _IN_USE.get(ALONE).engine(feats, weight, kmap))


class Convolution(torch.autograd.Function):
    """out[o] = sum over taps k and pairs (i, o) of k: x[i] times weight[k], existing pairs only.

    The products keep the format that they are given.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kmap: KernelMap, engine: Torch) -> Tensor:
        """See the class."""
        ctx.save_for_backward(x, weight)
        ctx.kmap, ctx.engine = kmap, engine
        with torch.autocast(x.device.type, enabled=False):
            return engine.forward(x, weight, kmap)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x` and `weight`, by the engine that computed the output."""
        x, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grads = ctx.engine.backward(
                x, weight, grad.contiguous(), ctx.kmap, ctx.needs_input_grad[:2])
        return *grads, None, None
