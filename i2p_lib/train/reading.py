"""What a trained network makes of files: the clouds read as those of its set, and its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from i2p_lib.analysis.answers import Answers
from i2p_lib.data.cloud_files import FORMATS, BadCloud, CloudFile, checked, columns_of, read_cloud
from i2p_lib.data.registry import DatasetCard
from i2p_lib.train.clouds import Split, evaluate
from i2p_lib.train.settings import ClassifySettings


@dataclass(frozen=True)
class Reads:
    """How a trained network reads clouds and what its answers are called; `net.i2p_reads`.

    card: of the set that it was trained on; None where it was trained on tensors.
    points: the first so many of each prepared cloud.
    """

    card: DatasetCard | None
    settings: ClassifySettings
    class_names: tuple[str, ...]
    points: int

    def prepared(self, cloud: CloudFile, seed: int) -> np.ndarray:
        """Return a cloud as the network was trained on them; see `DatasetCard.prepared`."""
        if self.card is None:
            raise ValueError("this network was trained on tensors, so how a file becomes such a "
                             "cloud is not known: train it on a set, see PointClouds.from_folder")
        return self.card.prepared(cloud, seed)[: self.points]

    def answers(self, net: nn.Module, split: Split, clouds: Sequence[str] = ()) -> Answers:
        """Return what a network answers about clouds of a split, on the device of both."""
        logits = evaluate(net, split.points, self.settings).numpy()
        named = tuple(clouds) if len(clouds) == len(split) else ()
        return Answers(logits, split.labels.numpy(), self.class_names, named)


def predict(
    net: nn.Module, clouds: str | Path | np.ndarray | Iterable[str | Path | np.ndarray], *,
    seed: int = 0, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Return what a trained network takes clouds for: one row each, the likeliest class first.

    Args:
        net: from `fit`, or the `net` of a run; it knows how its clouds were read.
        clouds: files (see `PointClouds.from_folder`), arrays [N, 3 + F] in the unit and the
            orientation of the files that it was trained on, or one of either.
        seed: draws the points of each cloud.

    Columns: cloud (file or number), answer, probability, and a probability for each class.
    Raises ValueError for a network that was not trained here, and with all files that cannot be
    used; FileNotFoundError for a file that is not there.

    >>> i2p.predict(result.net, "chair.ply")  # doctest: +SKIP
    """
    reads = getattr(net, "i2p_reads", None)
    if not isinstance(reads, Reads):
        raise ValueError("expected a network from fit(...) or of a run, which knows its classes "
                         f"and how clouds were read, got {type(net).__name__}")
    one = isinstance(clouds, str | Path) or (hasattr(clouds, "ndim") and clouds.ndim == 2)
    given = [clouds] if one else list(clouds)
    found, faults = {}, []
    for number, cloud in enumerate(tqdm(given, desc="read clouds", disable=not progress)):
        name = str(cloud) if isinstance(cloud, str | Path) else f"cloud {number}"
        try:
            found[name] = torch.from_numpy(reads.prepared(_read(cloud), seed))
        except BadCloud as error:
            faults.append(f"  {name}: {error}")
    if faults or not found:
        raise ValueError("\n".join(["expected clouds, got files that cannot be used:", *faults])
                         if faults else "expected at least one cloud, got none")  # fmt: skip
    points = torch.stack(list(found.values())).to(next(net.parameters()).device)
    shares = evaluate(net, points, reads.settings).softmax(1).numpy()
    table = pd.DataFrame(shares, columns=list(reads.class_names))
    best = shares.argmax(1)
    table.insert(0, "cloud", list(found))
    table.insert(1, "answer", [reads.class_names[i] for i in best])
    table.insert(2, "probability", shares.max(1))
    return table


def _read(cloud: str | Path | np.ndarray) -> CloudFile:
    if not isinstance(cloud, str | Path):
        return checked(columns_of(np.asarray(cloud)))
    path = Path(cloud).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of a cloud, got none")
    if path.suffix.lower() not in FORMATS:
        raise BadCloud(f"expected one of {' '.join(FORMATS)}")
    return read_cloud(path)
