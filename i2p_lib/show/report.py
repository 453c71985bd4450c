"""Names that chapters 5 to 8 still use; what they name is in collapse and comparison."""

from i2p_lib.show.collapse import (  # noqa: F401
    COLLAPSE_TITLES,
    collapse_lines,
    collapse_rows,
    collapse_summary,
    collapse_titles,
    final_cdnv,
    test_features,
)
from i2p_lib.show.comparison import versus_paper  # noqa: F401
from i2p_lib.show.text import html_list


def collapse_sentences(probes, runs):
    return html_list(collapse_lines(probes, runs))


def collapse_by_shots(probes):
    return collapse_summary(probes, by=("shots", "method", "split"))


def card_facts(card):
    from i2p_lib.show.classification import card_facts as facts

    return html_list(facts(card))
