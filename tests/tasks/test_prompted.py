"""Prompts as a task: consistent by `tasks.check`, and true to the questions, whose chains are followed here word by word."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stackheads.errors import ConfigError
from stackheads.tasks import Prompted, check
from stackheads.tasks.prompts import Prompts
from stackheads.tasks.scoring import correct, margins
from stackheads.types import Role, Slot

sys.path.append(str(Path(__file__).parents[2] / "analyses"))

from architectures import word_tokenizer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


words = cache(word_tokenizer)


def make(formulation="assignments", hops=2, **more):
    prompts = Prompts(formulation=formulation, hops=hops)
    return Prompted(prompts, words(prompts), **more)


@pytest.mark.parametrize("formulation", ["assignments", "places"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_task_is_consistent(formulation, hops):
    check(make(formulation, hops), examples=64)


def test_find_maps_follow_the_chain_of_the_question():
    task = make(hops=3)
    questions = task.prompts.sample(32, generator())
    batch = task.batch(task.tokens(questions))
    for example, question in enumerate(questions):
        words = [task.tokenizer.decode([token]) for token in batch.tokens[example]]
        assert [words[place] for place in batch.find[example, :, -1]] == list(question.chain[1:])
        keys = batch.operands[example, [task.operands.index(Role("key", hop)) for hop in (1, 2, 3)], -1]
        assert [words[place] for place in keys] == list(question.chain[:-1])
        assert words[batch.operands[example, 0, -1]] == question.chain[0]
        assert task.answers[int(batch.targets[example, -1])] == task.tokenizer.convert_tokens_to_ids(question.answer)


def test_each_value_knows_its_own_key():
    task = make()
    batch = task.sample(8, generator())
    own = batch.operands[:, task.operands.index(Role("key", 0))]
    for example in range(8):
        values = (batch.slots[example] == Slot.VALUE).nonzero().flatten()
        assert torch.equal(own[example, values], values - 2)  # "B = A"


def test_shots_and_chat_change_what_stands_before_but_not_what_is_asked():
    task = make(hops=1)
    task.tokenizer.chat_template = "{% for m in messages %}? {{ m['content'] }}\n{% endfor %}"
    plain, others = task.sample(8, generator()), [make(hops=1, shots=2), Prompted(task.prompts, task.tokenizer, style="chat")]
    assert others[0].n_ctx > others[1].n_ctx > task.n_ctx
    for other in others:
        check(other, examples=16)
        batch = other.sample(8, generator())
        assert torch.equal(batch.targets[:, -1], plain.targets[:, -1])
        assert torch.equal(batch.tokens[batch.slots == Slot.VALUE], plain.tokens[plain.slots == Slot.VALUE])


def test_margins_are_those_among_the_ends_of_the_examples_own_chains():
    """Up to one factor, the same for all; words that end no chain neither win nor count."""
    task = make()
    batch = task.sample(16, generator())
    logits = torch.randn(16, task.n_ctx, task.d_vocab_out, generator=generator(1), dtype=torch.double)
    read = task.readout(logits, batch)
    found, right = margins(read, batch.targets)[:, -1, 0], correct(read, batch.targets)[:, -1, 0]
    expected = []
    for example in range(16):
        ends = [n for n, token in enumerate(task.answers) if token in batch.tokens[example, batch.slots[example] == Slot.VALUE]]
        assert len(ends) == 4
        mine = int(batch.targets[example, -1])
        values = logits[example, -1]
        others = torch.stack([values[end] for end in ends if end != mine])
        expected.append(values[mine] - others.mean())
        assert bool(right[example]) == bool(values[mine] > others.max())
    ratio = found / torch.stack(expected)
    torch.testing.assert_close(ratio, ratio[:1].expand(16))
    assert ratio[0] > 0


def test_a_counterfactual_leads_into_another_chain():
    task = make(hops=3)
    questions = task.prompts.sample(32, generator())
    batch = task.batch(task.tokens(questions))
    for hop in (1, 2, 3):
        other = task.counterfactual(batch, hop, generator(hop))
        changed = (other.tokens != batch.tokens).nonzero()
        assert torch.equal(changed[:, 1], batch.find[:, hop - 1, -1])
        assert bool((other.targets[:, -1] != batch.targets[:, -1]).all())
        for example, question in enumerate(questions):
            assert task.tokenizer.decode([int(other.tokens[example, changed[example, 1]])]) not in question.chain


@pytest.mark.parametrize("formulation", ["relatives", "share"])
def test_formulations_that_do_not_fit_are_refused(formulation):
    """Two facts a step; statements of two forms, so that slots differ between prompts."""
    with pytest.raises(ConfigError, match=r"steps of one fact|one layout"):
        make(formulation).sample(32, generator())


def test_words_of_several_tokens_are_refused():
    letters = Tokenizer(
        models.WordLevel({letter: number for number, letter in enumerate("?abcdefghijklmnopqrstuvwxyz")}, unk_token="?")
    )
    letters.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    task = Prompted(Prompts(formulation="places", hops=1), PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?"))
    with pytest.raises(ConfigError, match="one token"):
        task.sample(1, generator())
    with pytest.raises(ConfigError, match="one token"):
        _ = task.answers
