"""Templates in two layers: new strings are answered, a head of the first layer looks at equal symbols, and selectors say so."""

import pytest
import torch

from stackheads import analyze, load
from stackheads.training.trainer import accuracy


@pytest.fixture(scope="module")
def checkpoint(checkpoints):
    return load(checkpoints / "cases-template-l2")


def test_strings_that_were_never_shown_are_answered(checkpoint):
    unseen = checkpoint.task.model_copy(update={"part": "unseen"})
    assert accuracy(checkpoint.model, unseen, 1024)[1] >= 0.95


def test_the_query_looks_at_an_equal_symbol_or_at_itself(checkpoint):
    """Counted out in a loop over the tokens."""
    tokens = checkpoint.task.sample(512, torch.Generator().manual_seed(3)).tokens
    looked_at = checkpoint.model.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"][:, 1, -1].argmax(dim=-1)
    hits = []
    for string, place in zip(tokens.tolist(), looked_at.tolist(), strict=True):
        *before, last = string
        equal = [at for at, symbol in enumerate(before) if symbol == last]
        hits.append(place in (equal or [len(before)]))
    assert sum(hits) / len(hits) > 0.95


def test_its_selectors_recover_its_answers(checkpoint):
    selectors = analyze(checkpoint, examples=512, progress=False, explain=False).selectors(examples=512, progress=False)
    assert selectors.worst >= 0.9
    first = selectors.table.query("head == 'L0H1' and destination == 'query'")
    assert first.loc[first["effect"].idxmax(), "what"] == "duplicate"


def test_it_is_small(checkpoints):
    assert sum(file.stat().st_size for file in (checkpoints / "cases-template-l2").iterdir()) <= 2**20
