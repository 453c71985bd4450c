"""The paper: its items and printed values, our numbers beside them, and the verdicts."""

from i2p_lib.paper.comparison import compare, verdict
from i2p_lib.paper.items import COMPARISON_COLUMNS, Item, Verdict, paper_items, paper_values
from i2p_lib.paper.pages import comparison_html
from i2p_lib.paper.record import Recorded, attach, attached, verdict_counts
from i2p_lib.paper.rows import PAPER_RECIPE, rows_of_runs
