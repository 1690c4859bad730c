"""Condition heads: what is found in the trained checkpoint, checked by hand, and what is refused for want of a program."""

import io

import pytest
import torch

from stackheads import Analysis, analyze, load
from stackheads.models import build
from stackheads.report.terminal import print_analysis, print_trial
from stackheads.tables import records
from stackheads.types import Role


@pytest.fixture(scope="module")
def analysis(checkpoints):
    return analyze(checkpoints / "conditional-d2-l4", examples=128, progress=False)


def test_condition_heads_are_confirmed_beside_hop_heads(analysis):
    """Layer 0: the slot of a kind learns whose it is and what it chooses, by where it stands; layer 2 looks that up; layer 3
    goes one hop on.
    """
    assert analysis.accuracy == {1: 1.0, 2: 1.0}
    assert analysis.conditions == {1: ["L2H1"]}
    assert analysis.hops == {1: ["L0H1 when place of own kind 1, 3..4", "L3H1"]}
    assert analysis.confirmed("previous") == ["L0H0"]
    assert "condition 1: L2H1 @query, L2H1 @value" in analysis.verdict
    assert "hop 1: L0H1 @condition" in analysis.verdict


def test_the_write_of_a_condition_head_is_that_of_a_plain_patch(analysis, checkpoints):
    """Flip the kind of the query, move L2H1's value vector of that one slot into the clean run, and see how far answers go."""
    checkpoint = load(checkpoints / "conditional-d2-l4")
    model, task = checkpoint.model, checkpoint.task
    generator = torch.Generator().manual_seed(7)
    batch = task.sample(512, generator)
    other = task.counterfactual(batch, 1, generator, operand="condition")
    source = batch.operands[:, task.operands.index(Role("condition", 1)), -1]
    clean, clean_cache = model.run_with_cache(batch.tokens)
    changed, changed_cache = model.run_with_cache(other.tokens)
    row = torch.arange(512)
    pattern = clean_cache["blocks.2.attn.hook_pattern"][row, 1, -1, source]
    v, v_other = (cache["blocks.2.attn.hook_v"][row, source, 1] for cache in (clean_cache, changed_cache))

    def patched(z, hook):
        z[:, -1, 1] += pattern[:, None] * (v_other - v)
        return z

    moved = model.run_with_hooks(batch.tokens, fwd_hooks=[("blocks.2.attn.hook_z", patched)])

    def towards(logits):
        answers = logits[:, -1, : task.symbols]  # hop 1
        return (answers[row, other.targets[:, -1, 0]] - answers[row, batch.targets[:, -1, 0]]).sum().item()

    share = (towards(moved) - towards(clean)) / (towards(changed) - towards(clean))
    cell = next(cell for cell in records(analysis.labels) if (cell["head"], cell["destination"]) == ("L2H1", "query"))
    assert "from the counterfactual at the condition of hop 1 moves hop 1 @query" in cell["reason"]
    assert share == pytest.approx(cell["write"], abs=0.12)


def test_an_untrained_model_gets_no_label(checkpoints):
    checkpoint = load(checkpoints / "conditional-d2-l4")
    labels = analyze(build(checkpoint.config, checkpoint.task), checkpoint.task, 1024, progress=False, explain=False).labels
    assert set(labels["status"]) <= {"none", "pattern-only"}
    assert set(labels["destination"]) == {"query", "value", "key", "condition"}


def test_programs_have_no_words_for_conditions_and_say_so(analysis, tmp_path):
    assert analysis.mechanism == "other"
    assert "condition heads are not part of programs" in analysis.mechanism_reason
    assert "layer 2: condition 1 @query, condition 1 @value" in analysis.program
    assert "not compiled" in analysis.program
    analysis.save(tmp_path / "a")
    loaded = Analysis.load(tmp_path / "a")
    assert loaded.to_json() == analysis.to_json()
    assert loaded.to_dict()["conditions"] == {"1": ["L2H1"]}
    assert loaded.to_dict()["program_agreement"] is None
    text = io.StringIO()
    print_analysis(analysis, text)
    assert any(
        line.split()[:6] == ["L2H1", "query", "condition", "1", "●", "confirmed"] for line in text.getvalue().splitlines()
    )


def test_a_trial_predicts_nothing_where_nothing_is_compiled(analysis):
    trial = analysis.trial(examples=64)
    assert trial.redirection.empty
    assert trial.redirected is None
    assert set(trial.recovered()) == {1, 2}
    assert trial.necessity["needs"].isna().all()
    assert ("condition", 1) in {(row["role"], row["hop"]) for row in records(trial.necessity)}
    text = io.StringIO()
    print_trial(trial, text)
    assert "no program could be compiled" in text.getvalue()
    assert "condition 1: 1: " in text.getvalue()
