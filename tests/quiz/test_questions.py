"""Answers of a tiny random Llama: what plain passes over whole prompts give, one at a time."""

import re

import pytest
import torch
from tiny_llama import language

from stackheads.quiz.questions import OPEN_TOKENS, ask, compose
from stackheads.tasks.prompts import FORMULATIONS, Prompts

FEW, MANY = 300, 3000
"""Sizes of vocabularies: most words are several tokens, all are one."""


def drawn(formulation, hops=2, n=5, shots=0, seed=0):
    prompts = Prompts(formulation=formulation, hops=hops)
    return tuple(prompts.sample(size, torch.Generator().manual_seed(seed + size)) for size in (n, shots))


def tokens(made, text, chat):
    return made.tokenizer(text, add_special_tokens=not chat)["input_ids"]


def by_hand(made, question, shots, chat):
    """The log probability of each choice from one pass over the whole text."""
    prompt, scores = compose(made.tokenizer, question, shots, chat).text, []
    before = len(tokens(made, prompt, chat))
    for choice in question.choices:
        ids = torch.tensor([tokens(made, f"{prompt} {choice}", chat)])
        with torch.no_grad():
            steps = made.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        scores.append(steps[before - 1 :].sum().item())
    return scores


@pytest.mark.parametrize(
    ("formulation", "shots", "chat", "vocabulary"),
    [
        ("assignments", 0, True, FEW),
        ("assignments", 2, True, MANY),
        ("places", 2, False, FEW),
        ("share", 0, False, MANY),
        ("share", 2, True, FEW),
        ("relatives", 0, True, FEW),
        ("relatives", 2, False, MANY),
    ],
)
def test_kept_keys_and_padding_change_no_log_probability(formulation, shots, chat, vocabulary):
    made = language(vocabulary)
    questions, solved = drawn(formulation, hops=1 if formulation == "relatives" else 2, n=5, shots=shots)
    sizes = {len(tokens(made, f" {choice}", True)) for question in questions for choice in question.choices}
    assert (sizes == {1}) == (vocabulary == MANY)
    answers = ask(made, questions, solved, chat, batch=3)
    assert len(answers) == len(questions)
    for question, answer in zip(questions, answers, strict=True):
        expected = by_hand(made, question, solved, chat)
        assert answer.log_probabilities == pytest.approx(expected, abs=1e-3)
        assert answer.word == question.choices[expected.index(max(expected))]


@pytest.mark.parametrize("shots", [0, 2])
def test_a_free_answer_is_the_first_word_that_is_written_greedily(shots):
    made = language(FEW, seed=3)
    questions, solved = drawn("code", shots=shots)
    for question, answer in zip(questions, ask(made, questions, solved, batch=4), strict=True):
        ids = torch.tensor([tokens(made, compose(made.tokenizer, question, solved).text, True)])
        for _ in range(OPEN_TOKENS):
            with torch.no_grad():
                ids = torch.cat([ids, made.model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        words = re.findall(r"\w+", made.tokenizer.decode(ids[0, -OPEN_TOKENS:]))
        assert answer.word == (words[0] if words else "")
        assert answer.log_probabilities == ()


def test_rows_of_different_length_are_padded_without_effect():
    made = language(FEW)
    questions = [*drawn("share", hops=1, n=3)[0], *drawn("share", hops=3, n=3)[0]]
    assert len({len(tokens(made, question.text, True)) for question in questions}) > 1
    together = ask(made, questions, batch=6)
    for question, answer in zip(questions, together, strict=True):
        assert answer.log_probabilities == pytest.approx(ask(made, [question])[0].log_probabilities, abs=1e-3)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_mentions_stay_on_their_words_in_a_prompt(formulation, chat):
    (question,), solved = drawn(formulation, n=1, shots=3)
    prompt = compose(language().tokenizer, question, solved, chat)
    assert prompt.text.endswith(question.lead)
    assert prompt.text.count(question.text) == 1
    assert all(f"{shot.lead} {shot.answer}." in prompt.text for shot in solved)
    before = (*question.mentions, *question.lead_mentions)
    for mention, original in zip(prompt.mentions, before, strict=True):
        assert prompt.text[mention.start : mention.end] == mention.word == original.word
        assert (mention.role, mention.statement) == (original.role, original.statement)
    first = prompt.text.index(question.text)
    assert all(mention.start >= first for mention in prompt.mentions)


def test_progress_counts_every_question():
    seen: list[int] = []
    ask(language(), drawn("code", hops=1, n=7)[0], batch=3, done=seen.append)
    assert seen == [3, 3, 1]
