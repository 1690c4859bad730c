"""Random sets beside the heads of a role: distinct, of other cells where there are any, and no p below what they allow."""

import pytest
import torch

from stackheads import analyze
from stackheads.labelling.bench import Label
from stackheads.trial.necessity import RANDOM_SETS, _random_sets
from stackheads.types import Destination, HeadId
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen

CELLS = [Label(HeadId(layer, index), place, None, "none") for layer in range(3) for index in range(4) for place in Destination]


def sets_beside(like, labels=CELLS):
    return _random_sets(labels, like, torch.Generator().manual_seed(0))


def at(place, number):
    return [label for label in CELLS if label.destination == place][:number]


@pytest.mark.parametrize(("number", "sets"), [(1, 11), (2, 45), (3, 84), (4, 70), (5, 21), (11, 11), (12, 1)])
def test_no_set_comes_twice_and_few_are_all(number, sets):
    like = at(Destination.QUERY, number)
    found = sets_beside(like)
    assert len(found) == len({frozenset(one) for one in found}) == sets
    assert all(len(one) == len(set(one)) == number for one in found)
    others = min(number, 12 - number)
    assert all(len(set(one) - set(like)) == others for one in found)
    assert {label.destination for one in found for label in one} == {Destination.QUERY}


def test_each_destination_has_as_many_cells():
    like = [*at(Destination.QUERY, 2), *at(Destination.VALUE, 1)]
    found = sets_beside(like)
    assert len({frozenset(one) for one in found}) == RANDOM_SETS
    for one in found:
        assert sorted(label.destination for label in one) == sorted(label.destination for label in like)
        assert not set(one) & set(like)


def test_p_is_never_below_what_the_sets_allow():
    made = specimen("tripling", SMALL["tripling"](), Guise(seed=5, idle=1))
    rows = analyze(made.model, made.task, examples=64, progress=False, explain=False).trial(examples=64).necessity
    least = 1 / (1 + rows["sets"])
    assert (rows["p"] >= least - 1e-12).all()
    assert (rows["p"] == least).any()
    assert (rows["sets"] < RANDOM_SETS).any()
