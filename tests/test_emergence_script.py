"""How the order of emergence is told: pairs in opposite orders, and when one order counts as shown."""

import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "analyses"))

import emergence as script

from stackheads.timeline.orders import agreement, tau_b

NAMES = ("hop 1", "hop 2", "hop 3", "layer 0 @value previous")
STEPS = st.one_of(st.none(), st.integers(1, 4))
RUN = st.dictionaries(st.sampled_from(NAMES), STEPS)


def by_hand(one, other):
    """Kendall's concordant and discordant pairs, counted from both sides."""
    late = [{what: 99 if step is None else step for what, step in run.items()} for run in (one, other)]
    shared = sorted(one.keys() & other.keys())
    products = [(late[0][a] - late[0][b]) * (late[1][a] - late[1][b]) for a, b in product(shared, shared)]
    return sum(each < 0 for each in products) // 2, sum(each != 0 for each in products) // 2


@given(RUN, RUN)
def test_opposite_pairs_are_the_discordant_ones(one, other):
    reverse, pairs = script.opposite([one, other])
    assert (reverse, pairs) == by_hand(one, other)
    tau = tau_b(one, other)
    if tau is not None:
        assert (tau > 0, tau < 0) == (2 * reverse < pairs, 2 * reverse > pairs)


@given(st.lists(RUN, min_size=2, max_size=4))
def test_opposite_pairs_add_up_over_pairs_of_runs_in_any_order(runs):
    found = [script.opposite([runs[one], runs[other]]) for one in range(len(runs)) for other in range(one)]
    assert script.opposite(runs) == tuple(map(sum, zip(*found, strict=True))) == script.opposite(runs[::-1])


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}] * 8, "shown"),
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}, {"hop 1": 3, "hop 2": 2, "hop 3": 1}] * 8, "contradicted"),
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}, {"hop 1": 1, "hop 2": 2, "hop 3": 2}] * 8, "not shown"),
        ([{"hop 1": None}, {"hop 1": 2}], "not shown"),
    ],
)
def test_one_order_is_shown_where_all_runs_agree(runs, verdict):
    assert script.verdict(agreement(runs)) == verdict
