"""Collapse measured from few samples of a class, without what their small number adds to it."""

from __future__ import annotations

import torch

from i2p_lib.analysis.collapse import Array, class_moments


def unbiased_cdnv(features: Array, labels: Array) -> float:
    """Return the CDNV in which few samples a class do not look like collapse.

    Variances divide by n - 1, and from the squared distance of two means goes what their own errors
    add, Var_i / n_i + Var_j / n_j.  It is the ratio of the averages over pairs, since
    single corrected distances may be below zero; infinite where their sum is.
    """
    one = class_moments(features, labels)
    counts, classes = torch.bincount(one.codes).double(), len(one.means)
    error = one.variances / (counts - 1)
    between = float((one.means - one.means.mean(0)).square().sum()) / (classes - 1)
    between -= float(error.mean())
    return float((error * counts).mean()) / (2 * between) if between > 0 else float("inf")
