"""The flip-flop: its labels find the head that looks at the last symbol that decides, and they explain its answers."""

import pytest
import torch

from stackheads import analyze, load


@pytest.fixture(scope="module")
def labelled(checkpoints):
    return analyze(checkpoints / "automaton-flip-flop-l2", examples=512, progress=False, explain=False)


def test_the_last_deciding_symbol_is_found(labelled):
    labels = labelled.labels.query("status == 'confirmed' and role == 'hop'")
    assert {"query", "value"} <= set(labels["destination"])
    assert labelled.hops == {1: ["L0H0 when own symbol 2", "L0H1"]}


def test_it_looks_at_the_last_symbol_that_is_no_2(checkpoints):
    """Counted out in a loop over the tokens."""
    checkpoint = load(checkpoints / "automaton-flip-flop-l2")
    tokens = checkpoint.task.sample(32, torch.Generator().manual_seed(3)).tokens
    looked_at = checkpoint.model.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"][:, 1].argmax(dim=-1)
    hits = []
    for example, string in enumerate(tokens.tolist()):
        for place in range(1, len(string)):
            deciding = [before for before in range(1, place + 1) if string[before] != 2]
            if deciding:
                hits.append(int(looked_at[example, place]) == deciding[-1])
    assert sum(hits) / len(hits) > 0.98


def test_its_labels_recover_its_answers(labelled):
    trial = labelled.trial()
    assert trial.recovered()[1] >= 0.9
    assert trial.recovered(destination="value")[1] >= 0.9


def test_it_is_small(checkpoints):
    assert sum(file.stat().st_size for file in (checkpoints / "automaton-flip-flop-l2").iterdir()) <= 2**20
