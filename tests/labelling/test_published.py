"""A checkpoint that nobody here trained, on a task of one's own whose layout differs from example to example.

`unique_copy` of arXiv 2602.08857 (`unique_copy.py`). Its authors read off its weights that layer 0 looks at the previous
position and layer 1 at the place whose previous token is the own one.
"""

from pathlib import Path

import pytest
from unique_copy import Padded, UniqueCopy

from stackheads import analyze
from stackheads.models import load_gpt2
from stackheads.tables import records

FILE = Path(__file__).parents[3] / "shared" / "published" / "unique-copy-2l1h64d.safetensors"

FOUND = {("L0H0", "key", "previous", None), ("L1H0", "query", "hop", 1), ("L1H0", "value", "hop", 1)}
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the published checkpoint is not here")


@pytest.fixture(scope="module")
def analysis():
    task = UniqueCopy()
    return analyze(load_gpt2(FILE, task, 1), task, examples=256, explain=False, progress=False)


def test_its_two_heads_are_confirmed_in_what_its_authors_found(analysis):
    assert min(analysis.accuracy.values()) > 0.99
    assert confirmed(analysis) == FOUND


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_same_of_examples_with_pads(side):
    """Which the model never sees: its own mask keeps them out."""
    task = Padded(side)
    analysis = analyze(load_gpt2(FILE, task, 1), task, examples=128, explain=False, progress=False)
    assert min(analysis.accuracy.values()) > 0.99
    assert confirmed(analysis) == FOUND


def confirmed(analysis):
    rows = [row for row in records(analysis.labels) if row["status"] == "confirmed"]
    return {(row["head"], row["destination"], row["role"], row["hop"]) for row in rows}


def test_two_roles_explain_it(analysis):
    selected = analysis.selectors(examples=128, progress=False)
    assert selected.hops == {"L0H0 @key": ["previous"], "L1H0 @query": ["hop 1"], "L1H0 @value": ["hop 1"]}
    assert selected.worst > 0.98
