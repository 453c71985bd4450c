"""Batch normalisation over the sites of a batch, with the activation behind it in one pass."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from i2p_lib.sparse.functions import means
from i2p_lib.sparse.tensor import SparseTensor

_UNLIMITED = (-math.inf, math.inf)
_RANGES = {nn.Identity: _UNLIMITED, nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}


class _Eps(float):
    """A norm's eps that knows the activation: ``nn.SyncBatchNorm`` takes over no more of a norm."""

    activation = nn.Identity()


class SparseBatchNorm(nn.BatchNorm1d):
    """BatchNorm of each channel over all sites; the 2D layer's weights and statistics fit as is.

    While ``frozen_stats`` is set, the stored mean and variance are used in training too.
    ``activation`` is the activation that some image models keep inside their norm layer; ``label``
    is what an error calls the layer.
    """

    frozen_stats, label = False, ""

    def __init__(self, *args, activation: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = nn.Identity() if activation is None else activation
        self.eps = _Eps(self.eps)
        self.eps.activation = self.activation

    def forward(self, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """Normalise the features [N, C] over N, then apply the activation.

        A dense tensor [B, C] or [B, C, 1, 1] (squeeze-and-excitation layers) is normalised over B.
        ValueError in training for less than two rows.
        """
        batch = self.training and not self.frozen_stats
        sparse = isinstance(x, SparseTensor)
        rows = x.feats if sparse else x
        measured = batch or self.running_mean is None
        if measured and rows.numel() < 2 * self.num_features:
            got = f"{len(rows)} sites at stride {x.stride}" if sparse else f"{len(rows)} samples"
            raise ValueError(f"{self.label or 'a batch norm'} ({self.num_features} channels): the "
                             "statistics of a batch in training need at least 2 sites or samples, "
                             f"got {got}: use smaller voxels, more points or more clouds in a "
                             "batch, or stored statistics (net.eval())")
        if batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if sparse and self._fusible(rows):
            return x.replace(self._fused(rows, batch))
        momentum = self.momentum
        if momentum is None:  # the mean over all batches, as torch has it
            momentum = 1 / max(1, int(self.num_batches_tracked or 0))
        feats = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias,
                             measured, momentum, self.eps)
        return self.activation(x.replace(feats) if sparse else feats)

    def _fusible(self, feats: Tensor) -> bool:
        ordinary = self.affine and self.running_mean is not None and self.momentum is not None
        plain = feats.device.type == "cpu" and feats.dtype == torch.float32
        return ordinary and plain and len(feats) > 1 and type(self.activation) in _RANGES

    def _fused(self, feats: Tensor, batch: bool) -> Tensor:
        from i2p_lib.sparse import loops  # compiles, so that importing the package stays quick

        feats = feats.contiguous()
        if not batch:
            mean, var = self.running_mean, self.running_var
        else:
            mean, var = (torch.from_numpy(a) for a in loops.moments(feats.detach().numpy()))
            with torch.no_grad():
                unbiased = var * (len(feats) / (len(feats) - 1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        scale = torch.rsqrt(var + self.eps)
        limits = _RANGES[type(self.activation)]
        return _NormActivation.apply(feats, self.weight, self.bias, mean, scale, batch, limits)


class _NormActivation(torch.autograd.Function):
    """clamp((x - mean) * scale * weight + bias), the clamp undone on the way back.

    A frozen norm with stored statistics keeps its output for the way back, which the next layer may
    keep too, and not its input.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, scale, batch, limits):
        from i2p_lib.sparse import loops

        mean, scale, out = mean.clone(), scale.clone(), torch.empty_like(x)
        loops.normalise(*_arrays(x, weight, bias, mean, scale), *limits, out.numpy())
        ctx.frozen = not (batch or ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        if ctx.frozen:
            ctx.save_for_backward(weight, scale, *([] if limits == _UNLIMITED else [out]))
        else:
            ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.batch, ctx.limits = batch, limits
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from i2p_lib.sparse import loops

        grad = grad.contiguous()
        grad_x = torch.empty_like(grad)
        saved = ctx.saved_tensors  # once: checkpointing hands them out a single time
        if ctx.frozen:  # the slope, and nothing where the clamp held
            weight, scale, *out = saved
            if not out:
                return grad * (weight * scale), *[None] * 6
            loops.backward_frozen(*_arrays(*out, weight * scale, grad), *ctx.limits, grad_x.numpy())
            return grad_x, *[None] * 6
        grad_weight, grad_bias = (torch.empty_like(saved[1]) for _ in range(2))
        loops.backward(*_arrays(*saved, grad), *ctx.limits, ctx.batch,
                       *_arrays(grad_x, grad_weight, grad_bias))  # fmt: skip
        return grad_x, grad_weight, grad_bias, *[None] * 4


@means(F.batch_norm)
def _converted(x: SparseTensor, running_mean, running_var, weight=None, bias=None,
               training=False, momentum=0.1, eps=1e-5) -> SparseTensor:  # fmt: skip
    """What a SyncBatchNorm computes that ``convert_sync_batchnorm`` made of a SparseBatchNorm."""
    feats = F.batch_norm(
        x.feats, running_mean, running_var, weight, bias, training, momentum, eps)
    return getattr(eps, "activation", nn.Identity())(x.replace(feats))


def _arrays(*tensors: Tensor) -> list:
    return [tensor.detach().numpy() for tensor in tensors]
