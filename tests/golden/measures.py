"""06c: the mean IoU."""

from __future__ import annotations

import numpy as np

from i2p_lib.analysis.segmentation import class_iou, confusion_of, mean_iou
from i2p_lib.data.scenes import IGNORED
from tests.golden.items import item
from tests.golden.original import apart, golden

FILE = "06c_mean_iou"
ROUNDING = 1e-14


def confusion(predicted: np.ndarray, labels: np.ndarray, ignored: int, classes: int) -> np.ndarray:
    """Our counts, where the original's number of no class is ours."""
    return confusion_of(predicted, np.where(labels == ignored, IGNORED, labels), classes)


for _name, _ignored in (("miou", 255), ("miou_ign1", 1)):

    @item(f"06c mean IoU, class {_ignored} ignored", ROUNDING)
    def mean(name: str = _name, ignored: int = _ignored) -> float:
        """IoU of each class and their mean, where an absent class counts as 1."""
        data = golden(FILE)
        labels = data["miou_tgt"].copy()
        labels[(labels == 255) & (ignored != 255)] = 5  # a class that is not in its mean
        counts = confusion(data["miou_out"], labels, ignored, 6)
        classes = np.nan_to_num(class_iou(counts), nan=1.0)[:5]
        mean = mean_iou(counts[:5, :5], "perfect") if ignored == 255 else classes.mean()
        return max(apart(classes, data[f"{name}_ious"]), apart(mean, data[name]))


@item("06c counts of points", unit="points")
def counted() -> float:
    """Points of each class: labelled, right, and predicted."""
    data = golden(FILE)
    counts = confusion(data["miou_out"], data["miou_tgt"], 255, 5)
    return float(sum(np.abs(ours - data[f"miou_{name}"]).sum() for name, ours in (
        ("seen", counts.sum(1)), ("correct", np.diag(counts)), ("positive", counts.sum(0)))))
