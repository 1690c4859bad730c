"""Orders of emergence compared, against tau-b written out and cases by hand."""

import math
import random
from itertools import combinations

import pytest
from constructed import write_run
from hypothesis import given
from hypothesis import strategies as st

from stackheads import emergence, orders_agree
from stackheads.errors import ConfigError
from stackheads.labelling.statistics import wilson
from stackheads.timeline.orders import agreement, has_width, in_order, may_differ, role_steps, tau_b

STEPS = st.fixed_dictionaries({what: st.one_of(st.none(), st.integers(1, 3)) for what in "abcd"})


def tau_by_definition(one, other):
    """(concordant - discordant) / sqrt(pairs not tied in one · pairs not tied in the other), never as infinity."""
    x, y = ([math.inf if run[what] is None else run[what] for what in sorted(one)] for run in (one, other))
    sign = [((a > b) - (a < b), (c > d) - (c < d)) for (a, c), (b, d) in combinations(zip(x, y, strict=True), 2)]
    size = math.sqrt(sum(s != 0 for s, _ in sign) * sum(t != 0 for _, t in sign))
    return sum(s * t for s, t in sign) / size if size else None


@given(STEPS, STEPS)
def test_tau_is_kendalls_tau_b_with_never_tied_last(one, other):
    expected = tau_by_definition(one, other)
    assert tau_b(one, other) == (None if expected is None else pytest.approx(expected))


def test_only_what_both_runs_know_is_compared():
    assert tau_b({"a": 1, "b": 2, "c": 9}, {"b": 2, "a": 1, "d": 0}) == pytest.approx(1)
    assert tau_b({"a": 1, "b": 2}, {"a": 2, "c": 1}) is None


def test_equal_orders_agree_and_a_reversed_one_does_not():
    run, reverse = {"hop 1": 200, "hop 2": 400, "hop 3": 400}, {"hop 1": 400, "hop 2": 200, "hop 3": 200}
    all_equal = agreement([run, {name: step + 50 for name, step in run.items()}, run])
    assert all_equal.tau == pytest.approx(1)
    assert all_equal.modal == (("hop 1",), ("hop 2", "hop 3"))
    assert (all_equal.share, all_equal.share_high) == (1, 1)
    assert all_equal.share_low == pytest.approx(0.438, abs=1e-3)  # 3 of 3 by Wilson: 3 / (3 + 1.96²)
    mixed = agreement([run, run, run, reverse])
    assert mixed.tau == pytest.approx((3 * 1 + 3 * -1) / 6)
    assert mixed.tau_low < mixed.tau < mixed.tau_high
    assert (mixed.share, mixed.modal, mixed.pairs, mixed.undefined) == (0.75, all_equal.modal, 6, 0)


def test_runs_that_order_nothing_are_counted_apart():
    run, nothing = {"hop 1": 200, "hop 2": 400}, {"hop 1": None, "hop 2": None}
    found = agreement([run, run, nothing])
    assert (found.pairs, found.undefined, found.tau) == (1, 2, pytest.approx(1))
    nowhere = agreement([nothing, nothing])
    assert (nowhere.tau, nowhere.tau_low, nowhere.modal, nowhere.share) == (None, None, (), 1)
    with pytest.raises(ConfigError, match="at least 2 runs, got 1"):
        agreement([run])


NOTHING = {"a": None, "b": None, "c": None}


@pytest.mark.parametrize("others", [0, 5])
@pytest.mark.parametrize("runs", [2, 3, 4, 6])
def test_there_is_an_interval_from_four_runs_on_that_can_be_compared(runs, others):
    """However many order nothing. It holds the mean of random orders, 0, as often as it says."""
    generator, held = random.Random(0), 0
    for _ in range(100):
        drawn = [dict(zip("abc", generator.sample(range(3), 3), strict=True)) for _ in range(runs)]
        found = agreement([*drawn, *[NOTHING] * others])
        assert found.compared == runs
        if runs < 4:
            assert (found.tau_low, found.tau_high) == (None, None)
        else:
            held += found.tau_low - 1e-9 <= 0 <= found.tau_high + 1e-9
    assert runs < 4 or held >= 90


@pytest.mark.parametrize("runs", [4, 8, 32])
def test_an_interval_of_runs_that_agree_has_no_width_and_is_no_certainty(runs):
    """Were as many unlike them as may be, one would have been seen."""
    found = agreement([{"a": 1, "b": 2, "c": 3}] * runs)
    assert not has_width(found.tau_low, found.tau_high)
    assert 1 - found.share_low == may_differ(found.compared) > 0
    assert (1 - may_differ(runs)) ** runs < 0.1


def test_heads_are_matched_by_layer_destination_and_role_not_by_number():
    def head(name, step, hop=None):
        role = "previous" if hop is None else "hop"
        where = {"kind": "head", "layer": int(name[1]), "destination": "value", "role": role, "hop": hop}
        return {"what": name, "head": name, "step": step, **where}

    one = [head("L0H0", 300), head("L0H1", 100), head("L1H0", 200, 1), head("L1H1", None, 2)]
    other = [head("L0H1", 300), head("L0H0", 100), head("L1H1", 200, 1)]
    assert role_steps(one) == role_steps(other) == {"layer 0 @value previous": 100, "layer 1 @value hop 1": 200}


def test_runs_as_a_whole(tmp_path):
    runs = [
        emergence(write_run(tmp_path / "a", "untrained", "first", "whole"), 64, progress=False),
        emergence(write_run(tmp_path / "b", "first", "whole"), 64, progress=False),
    ]
    found = orders_agree(runs)
    assert found["hops"].modal == (("hop 1",), ("hop 2",))
    assert found["roles"].modal[-1] == ("layer 2 @query hop 2",)
    assert [found[kind].tau for kind in ("hops", "roles")] == pytest.approx([1, 1])
    assert (found["roles"].shared, found["roles"].share) == (4, 1)


def test_order_groups_what_emerges_together():
    assert in_order({"a": 2, "b": 1, "c": 2, "d": None}) == [{"b"}, {"a", "c"}]


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_solve_its_equation(case):
    """The bounds are where |share - p| = z sqrt(p (1 - p) / n), unless they are cut at 0 or 1."""
    successes, n = case
    share, z = successes / n, 1.959964
    bounds = wilson(successes, n, 0.95)
    assert bounds[0] - 1e-12 <= share <= bounds[1] + 1e-12
    for p in bounds:
        if 1e-9 < p < 1 - 1e-9:
            assert abs(share - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-6)
    assert wilson(0, 0, 0.95) == (0, 1)
