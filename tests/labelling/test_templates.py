"""The shipped model of templates: heads of its first layer make pairs, each for some values; the second looks at all pairs."""

import pytest

from stackheads import analyze, load
from stackheads.tables import records
from stackheads.types import Gate, Status


@pytest.fixture(scope="module")
def labels(checkpoints):
    return records(analyze(checkpoints / "templates-l2", examples=512, progress=False, explain=False).labels)


def confirmed(labels, destination, role):
    return [row for row in labels if (row["destination"], row["role"], row["status"]) == (destination, role, Status.CONFIRMED)]


def test_each_value_has_a_head_that_looks_at_its_key(labels, checkpoints):
    task = load(checkpoints / "templates-l2").task
    found = [value for row in confirmed(labels, "value", "previous") for value in Gate.parse(row["gate"]).values]
    assert sorted(found) == [task.symbols + value for value in range(task.values)]
    assert {row["layer"] for row in confirmed(labels, "value", "previous")} == {0}


def test_the_query_looks_at_all_pairs_in_the_second_layer(labels):
    assert [row["head"] for row in confirmed(labels, "query", "hop")] == ["L1H0", "L1H1"]


def test_it_is_small_and_right(checkpoints):
    assert sum(file.stat().st_size for file in (checkpoints / "templates-l2").iterdir()) <= 2**20
    assert load(checkpoints / "templates-l2").metrics["accuracy"]["1"] > 0.999
