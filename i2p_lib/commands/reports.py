"""What the commands say of a run, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2p_lib.analysis.answers import Answers
    from i2p_lib.runs import RunResult


def report(answers: Answers, spec: Any, split: str) -> str:
    """Return accuracy, classes and confusions as text."""
    lines = [f"{split}: {share_text(answers.accuracy())}", ""]
    for row in answers.per_class().itertuples():
        low, high = 100 * row.low, 100 * row.high
        share = f"{100 * row.accuracy:5.1f} % ({low:.0f} to {high:.0f})" if row.clouds else "-"
        other = f", else mostly {row.taken_for}" if row.taken_for else ""
        lines.append(f"  {row[1]:<20} {row.right:>4} of {row.clouds:<4} {share}{other}")
    if len(answers.class_names) <= 20:
        counts = answers.confusion()
        short = [name[:10] for name in answers.class_names]
        lines += ["", "labels in rows, answers in columns:",
                  counts.set_axis(short, axis=1).to_string()]  # fmt: skip
    return "\n".join(lines)


def scene_report(result: RunResult) -> str:
    """Return mIoU, accuracy and the IoU of each class as text."""
    import numpy as np

    counts = result.confusion().to_numpy()
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    metrics = result.metrics
    lines = [f"test: mIoU {100 * metrics['miou']:.1f} %, points named rightly "
             f"{100 * metrics['accuracy']:.1f} %, on {metrics['n_test']} scenes"]  # fmt: skip
    for name, hit, either in zip(result.class_names, np.diag(counts), union, strict=False):
        share = f"{100 * hit / either:5.1f} %" if either else "      -"
        lines.append(f"  {name:<20} IoU {share}")
    return "\n".join(lines)


def share_text(share: Any) -> str:
    """Return a share of clouds with its interval."""
    return (f"{100 * share.value:.1f} % of clouds named rightly ({100 * share.low:.1f} to "
            f"{100 * share.high:.1f}, 95 %)")  # fmt: skip
