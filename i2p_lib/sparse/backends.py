"""Which engine computes the sparse convolutions, and what it computed; torch is the default.

What an engine lacks stays on torch, layer by layer, so that every network runs whole: depthwise
and grouped layers, number formats and devices that it does not have, maps without a single pair.
`Use` counts what was computed where, and why not on the engine.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.engines import BACKENDS, Backend
from i2p_lib.sparse.kernel_map import KernelMap


@dataclass
class Use:
    """What one block of `use_backend` computed where; `backend` is None for torch alone."""

    backend: Backend | None
    computed: int = 0
    on_torch: Counter[str] = field(default_factory=Counter)

    def description(self) -> str:
        """Return the engine, its number of convolutions, and how many stayed on torch, and why."""
        if self.backend is None:
            return f"torch {torch.__version__}"
        text = f"{self.backend.name} {self.backend.version()}: {self.computed} convolutions"
        if not self.on_torch:
            return text
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.on_torch.most_common())
        return f"{text}; on torch: {reasons}"

    def record(self) -> dict[str, str]:
        """Return what a run keeps of its backend: nothing where it is torch alone."""
        return {} if self.backend is None else {"backend": self.description()}


_IN_USE: ContextVar[Use | None] = ContextVar("backend in use", default=None)


@contextmanager
def use_backend(name: str | None = None) -> Iterator[Use]:
    """Let an engine compute the sparse convolutions that run inside the block.

    name: "torch", "spconv" or "torchsparse"; default: $I2P_BACKEND, else "torch".
    The gradients of a convolution are computed by the engine that computed it, wherever `backward`
    is called.  Blocks may be nested; the inner one counts.
    Raises ValueError for an unknown name, RuntimeError where the engine cannot be used here.

    >>> with use_backend("torch") as use:
    ...     pass  # net(x)
    >>> use.on_torch
    Counter()
    """
    name = name or os.environ.get("I2P_BACKEND") or "torch"
    if name != "torch" and name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known are torch, {', '.join(BACKENDS)}")
    backend = BACKENDS.get(name)
    if backend is not None and (problem := backend.problem()):
        raise RuntimeError(f"the backend {name} cannot be used here: {problem}; or use torch")
    use = Use(backend)
    token = _IN_USE.set(use)
    try:
        yield use
    finally:
        _IN_USE.reset(token)


def convolve(ours: Callable[[Tensor, Tensor, KernelMap], Tensor], feats: Tensor, weight: Tensor,
             kmap: KernelMap) -> Tensor:  # fmt: skip
    """Compute a convolution by the backend in use, or by `ours` where it lacks it.

    `feats` [n_in, C_in], contiguous; `weight` [K, G, C_in / G, C_out / G], or [K, C] depthwise.
    """
    use = _IN_USE.get()
    if use is None or use.backend is None:
        return ours(feats, weight, kmap)
    if reason := use.backend.lacks(feats, weight, kmap):
        use.on_torch[reason] += 1
        return ours(feats, weight, kmap)
    use.computed += 1
    return _Engine.apply(feats, weight[:, 0], kmap, use.backend)


class _Engine(torch.autograd.Function):
    """A backend's convolution; its matrix products keep the format that they are given."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kmap: KernelMap, backend: Backend) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.kmap, ctx.backend = kmap, backend
        with torch.autocast(x.device.type, enabled=False):
            return backend.forward(x, weight, kmap)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grads = ctx.backend.backward(x, weight, grad.contiguous(), ctx.kmap)
        return *grads, None, None
