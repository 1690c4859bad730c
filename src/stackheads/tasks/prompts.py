"""The retrieval problem in natural language: questions whose answer is D references away, and where each word stands.

Chains. `CHAINS` chains of D links each, all words different: key D refers to key D − 1 … key 1 has a value. The question names
key D of one chain; the answer is the value at this chain's end. The chains differ in nothing but their words, which are drawn
at random, and in the places of their statements, which are shuffled independently of the chains. So what does not follow the
links from the query can't tell the values apart: any rule on positions, neighbours or counts is right in one of `CHAINS` for
D ≥ 2 (the tests try several; at D = 1 the statement that names the query has the answer).

Relatives. D + 1 generations of two women and two men. The two of a generation's couples have two daughters, or two sons, who
marry the other couple's; of siblings one is a wizard and one a giant; "wizards live with their mothers, giants with their
fathers", or the other way around. The answer is the one of the oldest generation in whose house the query lives. A step needs
two facts, the kind and the parent, and the rule. Each of the oldest is a candidate twice and chosen once. Who reads the parents
but not the kinds is right in one of two at D = 1, and in one of four from D = 2 on.

Every random choice is a `torch.Generator`'s: the same state gives the same questions.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar, get_args

import torch
from pydantic import Field

from stackheads.settings import Settings
from stackheads.tasks.formulations import CHAINED, KINDS, MEN, RELATIVES, WOMEN, Formulation, FormulationName, Relatives

CHAINS = 4
"""Ends to choose from, for every D: chance is one in CHAINS."""
MAX_HOPS = 5
FORMULATIONS: tuple[FormulationName, ...] = get_args(FormulationName)

Item = TypeVar("Item")
MentionRole = Literal["key", "value", "query", "condition", "unchosen"]


@dataclass(frozen=True)
class Mention:
    """A word of the question and where it stands: characters `start` to `end` (exclusive) of the text it belongs to.

    `role`       `key`: whom a statement is about; `value`: what it leads to, another key or a chain's end; `query`: the key
                 asked about; for relatives also `condition`: what somebody is, and `unchosen`: the parent that it does not
                 choose.
    `statement`  which statement it is in, counted from 0 in the order of the text; None for a query.
    """

    start: int
    end: int
    word: str
    role: MentionRole
    statement: int | None


@dataclass(frozen=True)
class Question:
    """One question.

    `text`      statements and question in plain words.
    `lead`      the words with which the answer begins; a space and the answer follow.
    `answer`    the right word.
    `choices`   the ends of all chains, in random order; empty where the answer is written freely.
    `chain`     the words from the query to the answer, D + 1 of them.
    `mentions`, `lead_mentions`   the words of interest, by their characters in `text` and in `lead`.
    """

    formulation: FormulationName
    hops: int
    text: str
    lead: str
    answer: str
    choices: tuple[str, ...]
    chain: tuple[str, ...]
    mentions: tuple[Mention, ...]
    lead_mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class _Statement:
    """A template with the words of its fields."""

    template: str
    words: dict[str, str]


class Prompts(Settings):
    """Questions of one formulation that need `hops` steps, 1 to MAX_HOPS."""

    called = "prompts"

    formulation: FormulationName
    hops: int = Field(ge=1, le=MAX_HOPS)

    @property
    def closed(self) -> bool:
        """Whether the answer is chosen from `choices`."""
        return self.formulation == "relatives" or CHAINED[self.formulation].closed

    @property
    def chance(self) -> float:
        """Share of right answers of who picks one of the chains' ends at random. Freely written answers may do worse."""
        return 1 / CHAINS

    def sample(self, n: int, generator: torch.Generator) -> tuple[Question, ...]:
        """Draw n questions, one after the other: a larger n begins with the same ones."""
        draw = _relatives if self.formulation == "relatives" else _chained
        return tuple(draw(self, generator) for _ in range(n))


def _chained(prompts: Prompts, generator: torch.Generator) -> Question:
    form: Formulation = CHAINED[prompts.formulation]  # type: ignore[index]
    keys = _shuffled(form.keys, generator)
    ends = _shuffled(form.values, generator)[:CHAINS]
    levels = [ends, *(keys[CHAINS * level : CHAINS * (level + 1)] for level in range(prompts.hops))]
    statements = [
        [
            _Statement(form.link if level else form.end, {"key": key, "value": value})
            for key, value in zip(above, below, strict=True)
        ]
        for level, (below, above) in enumerate(pairwise(levels))
    ]
    if form.levels:
        order = [statement for level in statements for statement in _shuffled(level, generator)]
    else:
        order = _shuffled([statement for level in statements for statement in level], generator)
    chain = tuple(level[0] for level in reversed(levels))
    choices = tuple(_shuffled(ends, generator)) if form.closed else ()
    return _question(prompts, form, form.before, order, chain, choices)


def _relatives(prompts: Prompts, generator: torch.Generator) -> Question:
    women, men = _shuffled(WOMEN, generator), _shuffled(MEN, generator)
    couples = list(zip(women, men, strict=True))
    rule = dict(zip(KINDS, _shuffled(("mothers", "fathers"), generator), strict=True))
    chosen: dict[str, str] = {}
    statements = []
    for generation in range(1, prompts.hops + 1):
        parents = _shuffled(couples[2 * generation - 2 : 2 * generation], generator)
        sisters, brothers = women[2 * generation : 2 * generation + 2], men[2 * generation : 2 * generation + 2]
        for siblings, (mother, father) in zip((sisters, brothers), parents, strict=True):
            for child, kind in zip(siblings, _shuffled(KINDS, generator), strict=True):
                by_mother = rule[kind] == "mothers"
                chosen[child], other = (mother, father) if by_mother else (father, mother)
                template = RELATIVES.mother_chosen if by_mother else RELATIVES.father_chosen
                words = {"key": child, "condition": kind, "value": chosen[child], "unchosen": other}
                statements.append(_Statement(template, words))
    youngest, oldest = (women[2 * at : 2 * at + 2] + men[2 * at : 2 * at + 2] for at in (prompts.hops, 0))
    chain = [_shuffled(youngest, generator)[0]]
    while chain[-1] in chosen:
        chain.append(chosen[chain[-1]])
    before = RELATIVES.rule.format(wizards=rule["wizard"], giants=rule["giant"]) + " "
    order, choices = _shuffled(statements, generator), tuple(_shuffled(oldest, generator))
    return _question(prompts, RELATIVES, before, order, tuple(chain), choices)


def _question(
    prompts: Prompts,
    form: Formulation | Relatives,
    before: str,
    statements: list[_Statement],
    chain: tuple[str, ...],
    choices: tuple[str, ...],
) -> Question:
    text, mentions = before, []
    for index, statement in enumerate(statements):
        text, found = _written(text if index == 0 else text + form.between, statement, index)
        mentions += found
    query = {"query": chain[0]}
    text, asked = _written(text, _Statement(form.ask, query), None)
    begun, led = _written("", _Statement(form.lead, query), None)
    marks = ((*mentions, *asked), tuple(led))
    return Question(prompts.formulation, prompts.hops, text, begun, chain[-1], choices, chain, *marks)


def _written(text: str, statement: _Statement, index: int | None) -> tuple[str, list[Mention]]:
    """The text with the statement after it, and where the statement's words stand."""
    mentions = []
    for literal, role, _, _ in string.Formatter().parse(statement.template):
        text += literal
        if role is not None:
            word = statement.words[role]
            mentions.append(Mention(len(text), len(text) + len(word), word, role, index))  # type: ignore[arg-type]
            text += word
    return text, mentions


def _shuffled(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]
