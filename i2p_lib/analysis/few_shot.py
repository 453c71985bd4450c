"""Nearest class centres from a few samples: their error, and the bound that collapse gives it."""

from __future__ import annotations

import math

import numpy as np

from i2p_lib.analysis import collapse


def few_shot_error(
    features: np.ndarray, labels: np.ndarray, shots: float, episodes: int, rng: np.random.Generator
) -> float:
    """Return the error of nearest centres, each the mean of a few samples of its class.

    features [N, d], labels int [N]; every episode draws `shots` samples of each class with
    replacement, and all samples are then named; the mean over classes and episodes, in 0..1.
    With infinitely many shots the centres are the class means, and all episodes are alike.
    Raises ValueError as `collapse.class_moments` does, or for fewer than one shot or episode.
    """
    if shots < 1 or episodes < 1:
        raise ValueError(f"expected 1 shot and 1 episode or more, got {shots} and {episodes}")
    means = collapse.class_moments(features, labels).means.cpu().numpy()
    values = np.asarray(features, dtype=np.float64)
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows = [np.flatnonzero(codes == c) for c in range(len(classes))]
    errors = []
    for _ in range(episodes):
        centres = means
        if shots < math.inf:
            centres = np.stack([values[rng.choice(mine, shots)].mean(0) for mine in rows])
        wrong = collapse.nearest_centre(values, centres) != codes
        errors.append((np.bincount(codes, wrong) / counts).mean())
    return float(np.mean(errors))


def few_shot_bound(features: np.ndarray, labels: np.ndarray, shots: float = math.inf) -> float:
    """Return a bound on the expected error of nearest centres of so many samples, mean of classes.

    Let a sample of class i lie at a distance a from its mean, the centres of i and j at e_i and
    e_j from theirs, and the means at d from one another.  The sample is named i and not j where
    2 a + e_i + e_j < d.  Otherwise Markov's inequality on the square, with Minkowski's for the
    root mean squares s_i of a and s_i / sqrt(n) of e_i, gives a probability of at most
    ((2 + 1 / sqrt(n)) s_i + s_j / sqrt(n))^2 / d^2, summed over j.  It holds for any distribution
    whose shots are drawn independently; with infinitely many it is 4 (C - 1) times the CDNV, the
    first term of the bounds of Galanti et al. (2022) but for its constant.  A bound of 1 or more
    says nothing.  Raises ValueError as `collapse.class_moments` does, or for no shots.
    """
    if not shots >= 1:
        raise ValueError(f"expected 1 shot or more, got {shots}")
    moments = collapse.class_moments(features, labels)
    spread = moments.variances.sqrt().cpu().numpy()
    means = moments.means.cpu().numpy()
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)
    rough = 1 / math.sqrt(shots)
    reach = (2 + rough) * spread[:, None] + rough * spread[None]
    others = ~np.eye(len(means), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = np.square(reach[others] / gaps[others])
    return float(np.nan_to_num(pairs, nan=np.inf, posinf=np.inf).sum() / len(means))
