"""How the order of emergence is told: pairs in opposite orders, and when one order counts as shown."""

import re
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
    reverse, pairs = script.opposite(one, other)
    assert (reverse, pairs) == by_hand(one, other)
    tau = tau_b(one, other)
    if tau is not None:
        assert (tau > 0, tau < 0) == (2 * reverse < pairs, 2 * reverse > pairs)


@given(RUN, RUN)
def test_opposite_pairs_are_the_same_from_either_side(one, other):
    assert script.opposite(one, other) == script.opposite(other, one)


FORWARDS, BACKWARDS = {"a": 1, "b": 2}, {"a": 2, "b": 1}
ALIKE = r"\(all alike; up to 49% of runs may differ\)"


@pytest.mark.parametrize(
    ("runs", "tau", "opposite"),
    [
        # one run of four is the other way round: drawn k times it is in k (4 - k) of the pairs of different runs
        ([FORWARDS] * 3 + [BACKWARDS], r"0\.00 \[-1\.00, 1\.00\]", r"of 6 pairs .* 50% \[0%, 100%\]"),
        ([FORWARDS] * 4, rf"1\.00 {ALIKE}", rf"of 6 pairs .* 0% {ALIKE}"),
        ([FORWARDS] * 2 + [BACKWARDS], r"-0\.33 \(no interval of 3 runs\)", r"of 3 pairs .* 67% \(no interval of 3 runs\)"),
        ([FORWARDS] * 2, r"1\.00 \(no interval of 2 runs\)", r"of 1 pairs .* 0% \(no interval of 2 runs\)"),
        ([{"a": 1, "b": 1}] * 3, "no two runs can be compared", "no order"),
    ],
)
def test_agreement_is_told_with_an_interval_over_runs_where_there_is_one(runs, tau, opposite):
    assert re.search(tau, script.sentence(agreement(runs)))
    assert re.search(opposite, script.against(runs))


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}] * 8, "shown"),
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}, {"hop 1": 3, "hop 2": 2, "hop 3": 1}] * 8, "contradicted"),
        ([{"hop 1": 1, "hop 2": 2, "hop 3": 3}, {"hop 1": 1, "hop 2": 2, "hop 3": 2}] * 8, "not shown"),
        ([{"hop 1": None}, {"hop 1": 2}], "not shown"),
        ([{"hop 1": 1, "hop 2": 2}, {"hop 1": 2, "hop 2": 1}], "not shown"),  # of two runs nothing is
        ([{"hop 1": 1, "hop 2": 2}] * 3, "not shown"),  # of three neither
    ],
)
def test_one_order_is_shown_where_all_runs_agree(runs, verdict):
    assert script.verdict(agreement(runs)) == verdict
