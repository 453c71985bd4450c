"""What a classifier answered about clouds: accuracy with its interval, confusions, errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import binomtest

from i2p_lib.analysis.bootstrap import LEVEL, Estimate, paired_difference
from i2p_lib.analysis.segmentation import confusion_of


@dataclass(frozen=True)
class Answers:
    """The logits [N, C] of N clouds, their labels [N], the classes' names and the clouds' names."""

    logits: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    clouds: tuple[str, ...] = ()

    @property
    def named(self) -> np.ndarray:
        """The class that each cloud is taken for, [N]."""
        return self.logits.argmax(1)

    @property
    def hits(self) -> np.ndarray:
        """Which clouds are named rightly: bool [N]."""
        return self.named == self.labels

    def accuracy(self) -> Estimate:
        """Return the share of clouds that are named rightly, with Wilson's 95 % interval."""
        return _share(int(self.hits.sum()), len(self.hits))

    def per_class(self) -> pd.DataFrame:
        """Return a row per class: clouds, right, accuracy, low, high (fractions), taken_for.

        taken_for: the other class that its clouds are most often taken for.
        """
        rows = []
        for label, name in enumerate(self.class_names):
            mine = self.labels == label
            count, right = int(mine.sum()), int((self.hits & mine).sum())
            others = np.bincount(self.named[mine & ~self.hits], minlength=len(self.class_names))
            share = _share(right, count)
            rows.append({"class": name, "clouds": count, "right": right, "accuracy": share.value,
                         "low": share.low, "high": share.high,
                         "taken_for": self.class_names[others.argmax()] if others.any() else ""})
        return pd.DataFrame(rows)

    def confusion(self) -> pd.DataFrame:
        """Return counts of clouds: a row per label, a column per answer."""
        names = list(self.class_names)
        return pd.DataFrame(confusion_of(self.named, self.labels, len(names)), names, names)

    def errors(self) -> pd.DataFrame:
        """Return the clouds that are named wrongly, the surest first.

        Columns: cloud (its name, else its number), label, answer, probability (of the answer).
        """
        wrong, sure = np.flatnonzero(~self.hits), softmax(self.logits, axis=1).max(1)
        wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
        names = np.array(self.class_names, object)
        return pd.DataFrame({"cloud": [self.clouds[i] if self.clouds else int(i) for i in wrong],
                             "label": names[self.labels[wrong]], "answer": names[self.named[wrong]],
                             "probability": sure[wrong]})

    def record(self) -> dict[str, Any]:
        """Return all of it as what JSON can write; accuracies are fractions."""
        share = self.accuracy()
        return {"clouds": len(self.labels), "right": int(self.hits.sum()), "accuracy": share.value,
                "low": share.low, "high": share.high,
                "per_class": self.per_class().to_dict("records"),
                "confusion": self.confusion().to_numpy().tolist(),
                "classes": list(self.class_names), "errors": self.errors().to_dict("records")}


def _share(right: int, count: int) -> Estimate:
    if not count:
        return Estimate(np.nan, np.nan, np.nan)
    low, high = binomtest(right, count).proportion_ci(LEVEL, "wilson")
    return Estimate(right / count, float(low), float(high))


class Answered:
    """What has `answers`: a run that is finished, or what `fit` returns."""

    answers: Answers

    def confusion(self) -> pd.DataFrame:
        """Return counts of test clouds: a row per label, a column per answer."""
        return self.answers.confusion()

    def errors(self) -> pd.DataFrame:
        """Return the test clouds that are named wrongly, the surest first, see `Answers`."""
        return self.answers.errors()


def compared(one: Answers, other: Answers) -> tuple[Estimate, float, np.ndarray]:
    """Return how much more often `one` is right than `other` on the same clouds.

    The gap with its 95 % interval over clouds; McNemar's exact p value; and the counts
    [[both right, one alone], [other alone, neither]].  One network a side says nothing of other
    seeds.  Raises ValueError where the labels differ, so that the clouds cannot be the same.
    """
    if not np.array_equal(one.labels, other.labels) or one.class_names != other.class_names:
        raise ValueError(f"expected answers about the same clouds, got {len(one.labels)} of "
                         f"{len(one.class_names)} classes and {len(other.labels)} of "
                         f"{len(other.class_names)}, or in another order")  # fmt: skip
    gap = paired_difference([one.hits], [other.hits], np.random.default_rng(0))
    a, b = one.hits, other.hits
    table = np.array([[(a & b).sum(), (a & ~b).sum()], [(b & ~a).sum(), (~a & ~b).sum()]])
    apart = int(table[0, 1] + table[1, 0])
    return gap, float(binomtest(int(table[0, 1]), apart).pvalue) if apart else 1.0, table
