"""Batch normalisation over the sites of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from i2p_lib.sparse.tensor import SparseTensor


class SparseBatchNorm(nn.BatchNorm1d):
    """BatchNorm of each channel over all sites; the 2D layer's weights and statistics fit as is.

    While ``frozen_stats`` is set, the stored mean and variance are used in training too.
    """

    frozen_stats = False

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise the features [N, C] over N."""
        batch = self.training and not self.frozen_stats
        if batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return x.replace(
            F.batch_norm(
                x.feats, self.running_mean, self.running_var, self.weight, self.bias,
                batch or self.running_mean is None, self.momentum, self.eps,
            )
        )  # fmt: skip
