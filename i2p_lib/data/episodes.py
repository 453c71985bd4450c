"""Draws that are fixed by numbers alone: few-shot episodes and the order they rest on."""

import hashlib
from typing import Literal

import numpy as np


def few_shot_episode(labels: np.ndarray, shots: int, episode: int,
                     draws: Literal["generator", "numpy"] = "generator") -> np.ndarray:
    """Return the sorted indices [classes * shots] int64 of one few-shot training set.

    `labels` [N] are the classes of the whole training set.  The draw depends on nothing but the
    arguments: every process and machine gets the same one.  Of one episode, fewer shots are a
    subset of more shots.  Every class that `labels` holds gives `shots` clouds; ValueError where
    one has fewer.

    draws: "numpy" repeats the original (core/datasets/modelnet.py, load_data), class by class and
    unsorted, from numpy's generator seeded with `episode` (the original's seed of the process).
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected [N] integers, got {list(labels.shape)} {labels.dtype}")
    if shots < 1 or episode < 0:
        raise ValueError(f"expected shots >= 1 and episode >= 0, got {shots} and {episode}")
    found, counts = np.unique(labels, return_counts=True)
    if counts.min() < shots:
        poor = {int(k): int(n) for k, n in zip(found, counts, strict=True) if n < shots}
        raise ValueError(f"{shots} shots asked, but these labels have fewer clouds (label: count): "
                         f"{poor}; ask for at most {counts.min()}")
    clouds = {label: np.flatnonzero(labels == label) for label in found}
    if draws == "numpy":
        state = np.random.RandomState(episode)
        return np.concatenate([state.choice(one, shots, replace=False) for one in clouds.values()])
    orders = [fixed_order(one, f"episode {episode} label {k}") for k, one in clouds.items()]
    return np.sort(np.concatenate([order[:shots] for order in orders]))


def fixed_order(indices: np.ndarray, salt: str) -> np.ndarray:
    """Return `indices` [N] as int64 in an order that looks random and is fixed by `salt`.

    It sorts by SHA-256, because numpy and torch may change their random streams.
    """
    def key(index: int) -> bytes:
        return hashlib.sha256(f"{salt} index {index}".encode()).digest()

    return np.array(sorted(map(int, indices), key=key), dtype=np.int64)
