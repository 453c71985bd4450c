"""The paper: its items and printed values, our numbers beside them, and the verdicts."""

from i2p_lib.paper.comparison import compare, tolerance, verdict
from i2p_lib.paper.items import (
    COMPARISON_COLUMNS,
    DIFFERS,
    ITEMS,
    NOT_IN_PAPER,
    NOT_RUN,
    OTHER_SETTING,
    REPRODUCED,
    Item,
    paper_values,
)
from i2p_lib.paper.pages import comparison_html
from i2p_lib.paper.record import Recorded, attach, attached, verdict_counts
from i2p_lib.paper.rows import PAPER_RECIPE, method_name, rows_of_runs

__all__ = [
    "COMPARISON_COLUMNS", "DIFFERS", "ITEMS", "Item", "NOT_IN_PAPER", "NOT_RUN", "OTHER_SETTING",
    "PAPER_RECIPE", "REPRODUCED", "Recorded", "attach", "attached", "compare", "comparison_html",
    "method_name", "paper_values", "rows_of_runs", "tolerance", "verdict", "verdict_counts",
]  # fmt: skip
