"""Neural collapse: how far the features of a network have gathered around their class means."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class ClassMoments:
    """Features of C classes, and their first and second moments, in float64.

    values [N, d], the features; codes [N], the row of each one's class in what follows;
    means [C, d]; variances [C], the mean squared distance to the own class mean;
    classes [C], the label values in rising order.
    """

    values: Tensor
    codes: Tensor
    means: Tensor
    variances: Tensor
    classes: Tensor


def class_moments(features: Array, labels: Array) -> ClassMoments:
    """Return the moments of each class of features [N, d] with integer labels [N].

    Raises ValueError for other shapes, a value that is not finite, fewer than two classes, or a
    class with fewer than two samples (its variance would be zero and look like collapse).
    """
    values = _tensor(features, "features")
    marks = torch.as_tensor(labels).to(values.device)
    if values.ndim != 2 or marks.shape != values.shape[:1]:
        raise ValueError(f"expected features [N, d] and labels [N], got {tuple(values.shape)} and "
                         f"{tuple(marks.shape)}")
    if marks.is_floating_point() or marks.dtype == torch.bool:
        raise ValueError(f"expected integer labels, got {marks.dtype}")
    classes, codes, counts = torch.unique(marks, return_inverse=True, return_counts=True)
    if len(classes) < 2 or int(counts.min()) < 2:
        raise ValueError("expected at least two classes of at least two samples each, got sample "
                         f"counts {dict(zip(classes.tolist(), counts.tolist(), strict=True))}; "
                         "leave small classes out")
    means = values.new_zeros(len(classes), values.shape[1]).index_add_(0, codes, values)
    means /= counts[:, None]
    squares = (values - means[codes]).square().sum(1)
    sums = values.new_zeros(len(classes)).index_add_(0, codes, squares)
    return ClassMoments(values, codes, means, sums / counts, classes)


def cdnv(features: Array, labels: Array) -> float:
    """Return the class-distance normalised variance, averaged over ordered pairs of classes.

    (Var_i + Var_j) / (2 |mu_i - mu_j|^2), Galanti, Gyorgy and Hutter, "On the role of neural
    collapse in transfer learning", ICLR 2022 (arXiv 2112.15121), or one-sided, as in their arXiv
    2212.12532: Var_i / |mu_i - mu_j|^2.  Averaged over ordered pairs both are the same number.
    Var is the mean squared distance to the class mean.
    0 is full collapse; infinite where two class means coincide.
    """
    return float(_pairs(class_moments(features, labels)).mean())


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


def collapse_report(features: Array, labels: Array, weight: Array | None = None,
                    logits: Array | None = None) -> dict[str, float]:
    """Return all collapse measures of features [N, d] with labels [N] as plain numbers.

    Always: cdnv, cdnv_one_sided_max (the worst ordered pair), nc1, nc2_equinorm, nc2_equiangle,
    nc2_max_angle, nearest_centre_accuracy, classes, samples.
    nc3           with weight [K, d], the linear classifier's; its rows of the classes present
    nc4           with logits [N, K]: share of samples whose nearest class mean is another class
                  than the classifier's answer (0 is full collapse), as in Papyan et al. 2020

    Everything is computed in float64 on the device of the features.  NC2 and NC3 are NaN where a
    centred mean, all of them, or the classifier has no length.  Raises ValueError as
    `class_moments` does, and where a shape does not fit.
    """
    moments = class_moments(features, labels)
    values, classes = moments.values, moments.classes
    pairs = _pairs(moments)
    nearest = _distances(values, moments.means).argmin(1)
    report = {"cdnv": float(pairs.mean()),
              "cdnv_one_sided_max": float(pairs.max()),
              "nc1": _nc1(moments),
              **_nc2(moments.means),
              "nearest_centre_accuracy": float((nearest == moments.codes).double().mean()),
              "classes": len(classes),
              "samples": len(values)}
    if weight is not None:
        rows, last = _tensor(weight, "weight"), int(classes.max())
        if rows.ndim != 2 or int(classes.min()) < 0 or last >= len(rows):
            raise ValueError(f"expected weight [K, d] with a row for each label up to {last}, "
                             f"got {tuple(rows.shape)}")
        report["nc3"] = _nc3(moments.means, rows[classes.to(rows.device)])
    if logits is not None:
        answers = _tensor(logits, "logits").to(values.device)
        if answers.ndim != 2 or len(answers) != len(values):
            raise ValueError(f"expected logits [{len(values)}, K], got {tuple(answers.shape)}")
        report["nc4"] = float((answers.argmax(1) != classes[nearest]).double().mean())
    return report


def layer_reports(layers: Mapping[str, Array], labels: Array, weight: Array | None = None,
                  logits: Array | None = None) -> pd.DataFrame:
    """Return `collapse_report` of every layer: one row per layer and metric, with its value.

    layers {name: features [N, d]}; weight and logits, both or none, are the classifier's, which
    sees the last of them.  Classes with a single sample have no variance and are left out; no rows
    where fewer than two others remain.
    """
    labels, rows = torch.as_tensor(labels), []
    _, codes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[codes] > 1
    for name, values in layers.items() if int((counts > 1).sum()) > 1 else ():
        known = {}
        if weight is not None and name == list(layers)[-1]:
            known = {"weight": weight, "logits": torch.as_tensor(logits)[kept]}
        report = collapse_report(torch.as_tensor(values)[kept], labels[kept], **known)
        rows += [(name, metric, value) for metric, value in report.items()]
    return pd.DataFrame(rows, columns=["layer", "metric", "value"])


def _tensor(array: Array, name: str) -> Tensor:
    values = torch.as_tensor(array).detach().double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold values that are not finite; the run may have diverged")
    return values


def _pairs(moments: ClassMoments) -> Tensor:
    """Return the one-sided CDNV of all ordered pairs of classes, [C (C - 1)]."""
    pairs = moments.variances[:, None] / _distances(moments.means, moments.means).square()
    others = ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    return pairs[others].nan_to_num(nan=torch.inf, posinf=torch.inf)


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return Euclidean distances without the x^2 - 2xy + y^2 shortcut, which loses digits."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def _nc1(moments: ClassMoments) -> float:
    """Return tr(Sigma_W pinv(Sigma_B)) / C (Papyan, Han and Donoho, PNAS 2020).

    Sigma_W averages over all samples, Sigma_B over the class means, both [d, d]; neither is
    formed: the pseudo-inverse lives in the span of the centred class means, which has at most
    C - 1 dimensions.  Infinite where all class means coincide.
    """
    centred, count = moments.means - moments.means.mean(0), len(moments.means)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    scale = max(float(moments.means.abs().max()), float(singular[0])) * max(centred.shape)
    kept = singular > torch.finfo(torch.float64).eps * scale
    if not bool(kept.any()):
        return float("inf")
    residuals = moments.values - moments.means[moments.codes]
    within = (residuals @ axes[kept].T).square().mean(0)
    return float((within / (singular[kept].square() / count)).sum() / count)


def _nc2(means: Tensor) -> dict[str, float]:
    """Return how far class means [C, d] are from a simplex ETF (PNAS 2020, figures 2 to 4).

    equinorm      std / mean of the lengths of the centred means
    equiangle     std of the cosines of all pairs
    max_angle     mean of |cosine + 1 / (C - 1)| over all pairs
    """
    centred, count = means - means.mean(0), len(means)
    lengths = centred.norm(dim=1)
    unit = centred / lengths[:, None]
    row, column = torch.triu_indices(count, count, offset=1, device=centred.device)
    cosines = (unit @ unit.T)[row, column]
    return {"nc2_equinorm": float(lengths.std(correction=0) / lengths.mean()),
            "nc2_equiangle": float(cosines.std(correction=0)),
            "nc2_max_angle": float((cosines + 1 / (count - 1)).abs().mean())}


def _nc3(means: Tensor, weight: Tensor) -> float:
    """Return ||W / ||W||_F - M / ||M||_F||_F of centred class means M and a classifier W, [C, d].

    0 is full collapse, 2 the largest value (PNAS 2020, figure 5).
    """
    sides = weight.to(means.device), means - means.mean(0)
    ours, theirs = (side / side.norm() for side in sides)
    return float((ours - theirs).norm())
