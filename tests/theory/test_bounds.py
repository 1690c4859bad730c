"""The closed forms: recursions, logarithms, and what earlier work found."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.theory import layers_around, layers_needed, log2_bound, log3_bound, paper_bound, radius
from stackheads.types import Destination


@pytest.mark.parametrize(("direction", "radii"), [("bidirectional", [0, 1, 4, 13, 40]), ("causal", [0, 1, 3, 7, 15, 31])])
def test_the_radius_triples_or_doubles(direction, radii):
    assert [radius(layers, direction) for layers in range(len(radii))] == radii
    factor = 3 if direction == "bidirectional" else 2
    assert all(after == factor * before + 1 for before, after in pairwise(radii))


@pytest.mark.parametrize(
    ("hop", "direction", "layers"),
    [
        (1, "bidirectional", 2), (1, "causal", 2), (2, "bidirectional", 2), (2, "causal", 3),
        (4, "bidirectional", 3), (8, "bidirectional", 4), (4, "causal", 4), (7, "causal", 4), (8, "causal", 5),
    ],
)  # fmt: skip
def test_known_depths(hop, direction, layers):
    assert layers_needed(hop, direction) == layers
    assert layers_needed(hop, direction, Destination.VALUE) == layers


@given(st.integers(1, 10_000))
def test_the_logarithms_rounded_up_are_the_closed_forms_and_the_papers_bound_is_below(hop):
    """An integer logarithm may come out a hair above itself in floating point: hop 2 is log3(9)."""
    for direction, bound in (("bidirectional", log3_bound(hop)), ("causal", log2_bound(hop))):
        assert layers_needed(hop, direction) == math.ceil(bound - 1e-9)
    assert paper_bound(hop) < log3_bound(hop) < log2_bound(hop)


def test_round_a_cycle_the_last_hops_are_near_again():
    """On a cycle of 10 hop 8 is hop -2, four edges back: two layers, where ten edges of chain take three."""
    assert [layers_around(hop, Destination.QUERY, 10) for hop in range(1, 10)] == [2, 2, 3, 3, 3, 3, 3, 2, 2]
    assert layers_needed(8, "bidirectional", period=10) == 3
    assert layers_needed(8, "bidirectional") == 4
    assert layers_around(9, Destination.VALUE, 10) == 1  # a value's own key


def test_where_attention_is_causal_the_query_alone_sees_a_cycle_close():
    """On a cycle of 10 nothing is further than ten edges from the query, which stands last; a value slot sees no ring."""
    assert layers_needed(8, "causal", period=10) == 4
    assert layers_needed(8, "causal") == layers_needed(8, "causal", Destination.VALUE, period=10) == 5


def test_hop_zero_is_refused():
    with pytest.raises(ConfigError, match="hop 1 or more, got 0"):
        layers_needed(0, "causal")
