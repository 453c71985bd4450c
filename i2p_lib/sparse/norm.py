"""Batch normalisation over the sites of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from i2p_lib.sparse.tensor import SparseTensor


class SparseBatchNorm(nn.BatchNorm1d):
    """BatchNorm of each channel over all sites; the 2D layer's weights and statistics fit as is.

    While ``frozen_stats`` is set, the stored mean and variance are used in training too.
    ``activation`` is the activation that some image models keep inside their norm layer.
    """

    frozen_stats = False

    def __init__(self, *args, activation: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise the features [N, C] over N."""
        batch = self.training and not self.frozen_stats
        if batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        feats = F.batch_norm(
            x.feats, self.running_mean, self.running_var, self.weight, self.bias,
            batch or self.running_mean is None, self.momentum, self.eps,
        )  # fmt: skip
        return self.activation(x.replace(feats))
