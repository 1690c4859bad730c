"""One nearest neighbour: labels find the head that looks at the nearest key, and it alone explains the answers."""

import pytest
import torch

from stackheads import analyze, load


@pytest.fixture(scope="module")
def labelled(checkpoints):
    return analyze(checkpoints / "nearest-pairs-l1", examples=512, progress=False, explain=False)


def test_the_head_that_looks_at_the_nearest_is_found(labelled):
    assert labelled.hops == {1: ["L0H0"]}
    confirmed = labelled.labels.query("status == 'confirmed'")
    rows = confirmed[["head", "destination", "role", "hop"]].itertuples(index=False)
    assert list(map(tuple, rows)) == [("L0H0", "query", "hop", 1)]


def test_its_labels_recover_its_answers(labelled):
    assert labelled.trial().recovered()[1] >= 0.9


def test_it_looks_at_the_key_that_is_the_fewest_steps_away(checkpoints):
    """Counted out in a loop over the tokens, which are codes and values as the task says."""
    checkpoint = load(checkpoints / "nearest-pairs-l1")
    task = checkpoint.task
    tokens = task.sample(256, torch.Generator().manual_seed(3)).tokens
    looked_at = checkpoint.model.run_with_cache(tokens)[1]["blocks.0.attn.hook_pattern"][:, 0, -1].argmax(dim=-1)
    hits = []
    for example, (*pairs, query) in enumerate(tokens.tolist()):
        steps = [abs(pair // task.values - (query - task.symbols * task.values)) for pair in pairs]
        steps = [min(each, task.symbols - each) for each in steps]
        hits.append(steps.index(min(steps)) == int(looked_at[example]))
    assert sum(hits) / len(hits) > 0.95


def test_it_is_small(checkpoints):
    assert sum(file.stat().st_size for file in (checkpoints / "nearest-pairs-l1").iterdir()) <= 2**20
