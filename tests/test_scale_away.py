"""Looking at all keys but some: found in a circuit that is known to answer so, and what it rests on is told apart."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from eliminating import TASK, by_elimination

sys.path.append(str(Path(__file__).parent.parent / "analyses"))

import scale_away

from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import doubling_over_keys
from stackheads.programs.program import lower
from stackheads.tasks import Cycle, with_keys


def test_a_circuit_that_answers_by_elimination_is_found_and_rests_on_its_gap():
    found = scale_away.found_looking(by_elimination(), TASK)
    assert [found[name] for name in ("cells", "at_query", "over_values", "looks")] == [1, 1, 0, "L1H0 @query but 0"]
    assert found["largest"] == "0.14", "one of seven"
    assert found["again"] == 10
    assert found["ideal"] == pytest.approx(1.0, abs=0.02)
    assert abs(found["even"]) < 0.1
    assert found["moved"] < found["even"]
    assert scale_away.rests_on_looking_away(pd.DataFrame([found])).tolist() == [True]
    assert found["program"] == 1.0
    assert found["program_moved"] < 0.5


def test_heads_that_look_at_one_key_look_away_from_none():
    task = with_keys(Cycle(symbols=8, max_hops=3, supervision="chain"))
    model, _ = compile_layers(lower(doubling_over_keys(3), task.same_offset), task)
    found = scale_away.found_looking(model, task)
    assert found == {"cells": 0, "at_query": 0, "over_values": 0, "looks": "", "largest": ""}


@pytest.mark.parametrize(
    ("ideal", "even", "moved", "shown"),
    [(0.9, 0.1, -0.2, True), (0.4, 0.1, 0.1, False), (0.9, 0.6, 0.1, False), (0.9, 0.1, 0.6, False)],
)
def test_it_is_shown_where_the_gaps_and_nothing_else_keep_the_answer(ideal, even, moved, shown):
    runs = pd.DataFrame([{"ideal": ideal, "even": even, "moved": moved}, {"ideal": None, "even": None, "moved": None}])
    assert scale_away.rests_on_looking_away(runs).tolist() == [shown, False]


def test_runs_without_such_heads_are_told_too():
    """None solved, and none with such heads: dashes and no crash."""
    names = {"sweep": "scale-curriculum-cycle-chain", "cell": "seed-0", "seed": 0}
    looks = {"mechanism": "doubling", "cells": 0, "at_query": 0, "over_values": 0, "looks": "", "largest": ""}
    for row in (names | {"solved": False}, names | {"solved": True} | looks):
        table = scale_away.as_table([row])
        assert list(table) == scale_away.COLUMNS
        if row["solved"]:
            assert "| any other | 1 | 0 | 0 | – | – | – | 0 |" in scale_away.tell({"scale-away": table})
