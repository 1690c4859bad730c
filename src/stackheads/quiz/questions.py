"""A language model's answer to a question in words (`tasks/prompts.py`).

The prompt. With a chat template each solved example is a user's turn, the question's text, and the assistant's turn, "LEAD
ANSWER."; the text of the question is the last user's turn, and its lead begins the assistant's. No system message is given (a
template may add its own). Without a template (or `chat=False`) it is plain text: "TEXT⏎LEAD ANSWER.⏎⏎" for each example,
then "TEXT⏎LEAD". Choices are not listed: they are words of the text.

The answer. Where a question has choices, it is the one whose continuation " CHOICE" has the largest log probability after the
prompt, summed over its tokens, with no other correction: the ends of all chains are drawn from the same words, so a model's
liking for a word lowers the accuracy, but can't raise that of guessing. Otherwise it is the first word of what the model
writes greedily in `OPEN_TOKENS` tokens.

Tokens. Prompt and continuation are cut where the tokens of the prompt with each continuation begin to differ, so a tokenizer
that joins the prompt's end with the continuation is served right. What all prompts of a call have in common (the examples, the
template's head) is computed once and its keys and values are used by every batch; shorter rows are padded on the left.
"""

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.models.outside.language import LanguageModel
from stackheads.tasks.prompts import Mention, Question

OPEN_TOKENS = 6
"""Tokens of a freely written answer; its first word is what counts."""

Tokens = list[int]


@dataclass(frozen=True)
class Prompt:
    """A question as the model gets it, and where its words stand: `mentions` of text and lead, by characters of `text`."""

    text: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Answer:
    """The word that was given; with choices, the log probability of each, in the question's order."""

    word: str
    log_probabilities: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Cut:
    """The tokens all continuations of a prompt share, and those of each continuation."""

    context: Tokens
    continuations: tuple[Tokens, ...]


def compose(tokenizer: Any, question: Question, shots: Sequence[Question] = (), chat: bool = True) -> Prompt:
    """The prompt of a question after solved examples (see the module's docstring), up to and with the lead."""
    if chat:
        turns = []
        for shot in shots:
            turns.append({"role": "user", "content": shot.text})
            turns.append({"role": "assistant", "content": f"{shot.lead} {shot.answer}."})
        turns.append({"role": "user", "content": question.text})
        before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    else:
        solved = "".join(f"{shot.text}\n{shot.lead} {shot.answer}.\n\n" for shot in shots)
        before = f"{solved}{question.text}\n"
    at = before.rindex(question.text)
    moved = [*_moved(question.mentions, at), *_moved(question.lead_mentions, len(before))]
    return Prompt(before + question.lead, tuple(moved))


def _moved(mentions: Sequence[Mention], by: int) -> Iterator[Mention]:
    for mention in mentions:
        yield replace(mention, start=mention.start + by, end=mention.end + by)


def ask(
    language: LanguageModel,
    questions: Sequence[Question],
    shots: Sequence[Question] = (),
    chat: bool = True,
    batch: int = 16,
    done: Callable[[int], object] = lambda n: None,
) -> list[Answer]:
    """The model's answers; `done` is called with the number of answers after each batch.

    All questions have choices or none has. Cost: one pass over what the prompts share, one over the rest of each prompt – or of
    each choice, where a choice has several tokens –, and up to OPEN_TOKENS more for a free answer.
    """
    cuts = [_cut(language, compose(language.tokenizer, question, shots, chat).text, question, chat) for question in questions]
    shared = len(_beginning([cut.context for cut in cuts]))
    shared = min(shared, min(len(cut.context) for cut in cuts) - 1)
    reader = Reader(language, cuts[0].context[:shared])
    answers: list[Answer] = []
    for start in range(0, len(questions), batch):
        some, asked = cuts[start : start + batch], questions[start : start + batch]
        contexts = [cut.context[shared:] for cut in some]
        if asked[0].choices:
            answers += _chosen(reader, contexts, some, asked)
        else:
            answers += [Answer(_first_word(language.tokenizer.decode(row))) for row in reader.write(contexts, OPEN_TOKENS)]
        done(len(asked))
    return answers


def _cut(language: LanguageModel, prompt: str, question: Question, chat: bool) -> _Cut:
    def encode(text: str) -> Tokens:
        return language.tokenizer(text, add_special_tokens=not chat)["input_ids"]

    whole = [encode(f"{prompt} {choice}") for choice in question.choices]
    context = _beginning([encode(prompt), *whole])
    return _Cut(context, tuple(tokens[len(context) :] for tokens in whole))


def _beginning(rows: Sequence[Tokens]) -> Tokens:
    """What all rows begin with."""
    shared = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in shared]


def _first_word(text: str) -> str:
    found = re.search(r"\w+", text)
    return found[0] if found else ""


def _chosen(reader: "Reader", contexts: list[Tokens], cuts: Sequence[_Cut], questions: Sequence[Question]) -> Iterator[Answer]:
    """The likeliest choices: one row a question where all continuations are one token, else one row a choice."""
    if all(len(tokens) == 1 for cut in cuts for tokens in cut.continuations):
        last = reader.log_probabilities(contexts, 1)[:, -1]
        scores = [[last[row, tokens[0]].item() for tokens in cut.continuations] for row, cut in enumerate(cuts)]
    else:
        scores = [reader.scores(context, cut.continuations) for context, cut in zip(contexts, cuts, strict=True)]
    for row, question in zip(scores, questions, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        yield Answer(question.choices[best], tuple(row))


class Reader:
    """Passes of one language model over rows of tokens that follow the same beginning, whose keys and values are kept."""

    def __init__(self, language: LanguageModel, beginning: Tokens) -> None:
        self.model, self.device, self.shared = language.model, language.device, len(beginning)
        self.kept = None
        if beginning:
            with torch.inference_mode():
                ids = torch.tensor([beginning], device=self.device)
                self.kept = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def log_probabilities(self, rows: Sequence[Tokens], last: int) -> Float[Tensor, "row last d_vocab"]:
        """Of the next token after each of the last positions of the rows."""
        return self._pass(rows, last)[0].float().log_softmax(-1)

    def scores(self, context: Tokens, continuations: Sequence[Tokens]) -> list[float]:
        """The log probability of each continuation, summed over its tokens."""
        found = []
        for tokens in continuations:
            steps = self.log_probabilities([context + tokens[:-1]], len(tokens))[0]
            found.append(sum(steps[place, token].item() for place, token in enumerate(tokens)))
        return found

    def write(self, rows: Sequence[Tokens], n: int) -> list[Tokens]:
        """The n likeliest next tokens of each row, one after the other."""
        logits, cache, mask = self._pass(rows, 1)
        written = [logits[:, -1].argmax(-1)]
        while len(written) < n:
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            with torch.inference_mode():
                out = self.model(
                    input_ids=written[-1][:, None],
                    attention_mask=mask,
                    position_ids=mask.sum(1, keepdim=True) - 1,
                    past_key_values=cache,
                    logits_to_keep=1,
                )
            written.append(out.logits[:, -1].argmax(-1))
        return torch.stack(written, 1).tolist()

    def _pass(self, rows: Sequence[Tokens], last: int) -> tuple[Float[Tensor, "row last d_vocab"], Any, Int[Tensor, "row pos"]]:
        """Logits of the last positions, the keys and values of all, and the mask of what is no padding."""
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=self.device)
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        mask = torch.cat([real.new_ones(len(rows), self.shared), real], 1)
        cache = copy.deepcopy(self.kept)
        if cache is not None:
            cache.batch_repeat_interleave(len(rows))
        with torch.inference_mode():
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, self.shared :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=last,
            )
        return out.logits, out.past_key_values, mask
