"""Questions in words: right by an independent reader, equal in number of choices, and not to be guessed without the links."""

import importlib.util
import random
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.reader import links, query, solve, statements

from stackheads.errors import ConfigError
from stackheads.labelling.statistics import wilson
from stackheads.tasks import prompts as prompts_module
from stackheads.tasks.prompts import CHAINS, FORMULATIONS, MAX_HOPS, Prompts

TRIED = [(formulation, hops) for formulation in FORMULATIONS for hops in (1, 2, 3)]
N = 500
cells = st.builds(Prompts, formulation=st.sampled_from(FORMULATIONS), hops=st.integers(1, MAX_HOPS))


def draw(prompts, n, seed=0):
    return prompts.sample(n, torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(cells, st.integers(0, 2**31))
def test_the_answer_is_d_steps_from_the_query(prompts, seed):
    for question in draw(prompts, 2, seed):
        assert solve(question) == (question.answer, prompts.hops)
        found = links(question)
        for one, other in zip(question.chain, question.chain[1:], strict=False):
            assert found[one] == other
        assert (question.chain[0], question.chain[-1]) == (query(question), question.answer)


@settings(max_examples=25)
@given(cells, st.integers(0, 2**31))
def test_the_choices_are_the_ends_of_all_chains(prompts, seed):
    for question in draw(prompts, 2, seed):
        found = links(question)
        ends = set(found.values()) - set(found)
        assert len(ends) == CHAINS
        assert len(found) == CHAINS * prompts.hops
        assert set(question.choices) == (ends if prompts.closed else set())
        starts = set(found) - set(found.values())
        assert query(question) in starts
        assert len(starts) == CHAINS


@settings(max_examples=25)
@given(cells, st.integers(0, 2**31))
def test_mentions_say_where_the_words_stand(prompts, seed):
    for question in draw(prompts, 2, seed):
        for mention in question.mentions:
            assert question.text[mention.start : mention.end] == mention.word
        for mention in question.lead_mentions:
            assert question.lead[mention.start : mention.end] == mention.word == query(question)
        found, read = links(question), statements(question)
        by_statement: dict = {}
        for mention in question.mentions:
            by_statement.setdefault(mention.statement, []).append(mention)
        assert [mention.word for mention in by_statement.pop(None)] == [query(question)]
        assert list(by_statement) == list(range(len(read)))
        for index, words in enumerate(read):
            roles = {mention.role: mention.word for mention in by_statement[index]}
            assert found[roles["key"]] == roles["value"]
            assert set(roles.values()) <= set(words)
            expected = {"key", "value", "condition", "unchosen"} if prompts.formulation == "relatives" else {"key", "value"}
            assert set(roles) == expected


class Seen:
    """What a guesser sees of a question: its statements' words, whose the query's is, and the ends where they stand."""

    def __init__(self, question):
        self.question, self.query = question, query(question)
        self.links, self.statements = links(question), statements(question)
        self.keys = [words[0] for words in self.statements]
        self.at = self.keys.index(self.query)
        known = set(self.links.values()) - set(self.links)
        self.ends = [(place, word) for place, words in enumerate(self.statements) for word in words[1:] if word in known]

    def nearest(self, at, rng):
        return min(self.ends, key=lambda found: (abs(found[0] - at), rng.random()))[1]


def last(seen, rng):
    return seen.ends[-1][1]


def first(seen, rng):
    return seen.ends[0][1]


def most_frequent(seen, rng):
    counts = {word: len(re.findall(rf"\b{word}\b", seen.question.text)) for _, word in seen.ends}
    return rng.choice([word for word, count in counts.items() if count == max(counts.values())])


def nearest(seen, rng):
    return seen.nearest(seen.at, rng)


def next_after_query(seen, rng):
    after = [word for place, word in seen.ends if place >= seen.at]
    return after[0] if after else last(seen, rng)


def last_before_query(seen, rng):
    before = [word for place, word in seen.ends if place < seen.at]
    return before[-1] if before else first(seen, rng)


def in_the_statement_of_the_query(seen, rng):
    """Right at D = 1, where the ends are in this statement."""
    words = [word for place, word in seen.ends if place == seen.at]
    return rng.choice(words or [word for _, word in seen.ends])


def near_one_step_less(seen, rng):
    """Follows all links but the last two, then takes the end nearest to the statement that it has reached."""
    key = seen.query
    for _ in range(max(0, len(seen.question.chain) - 3)):
        key = seen.links[key]
    return seen.nearest(seen.keys.index(key), rng)


def same_rank(seen, rng):
    """The end that is as far up among ends as the query's statement is among statements that begin chains."""
    referred = set(seen.links.values())
    starts = [key for key in seen.keys if key not in referred]
    return list(dict.fromkeys(word for _, word in seen.ends))[starts.index(seen.query)]


GUESSERS = [
    last,
    first,
    most_frequent,
    nearest,
    next_after_query,
    last_before_query,
    in_the_statement_of_the_query,
    near_one_step_less,
    same_rank,
]


@pytest.fixture(scope="module")
def many():
    """Thousands of questions, by the same code without type checks, which would take a hundred times as long."""
    spec = importlib.util.spec_from_file_location("unchecked_prompts", prompts_module.__file__)
    unchecked = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = unchecked
    spec.loader.exec_module(unchecked)
    found = {}
    for seed, (formulation, hops) in enumerate(TRIED):
        prompts = unchecked.Prompts(formulation=formulation, hops=hops)
        found[formulation, hops] = [Seen(question) for question in draw(prompts, N, seed)]
    return found


def bounds(guess, seen, rng):
    """99.99 %: 9 rules × 10 cells are tried."""
    right = sum(guess(one, rng) == one.question.answer for one in seen)
    return wilson(right, len(seen), 0.9999)


@pytest.mark.parametrize("guess", GUESSERS)
def test_no_rule_but_the_links_beats_chance(guess, many):
    rng = random.Random(0)
    for (formulation, hops), seen in many.items():
        if hops > 1:
            low, high = bounds(guess, seen, rng)
            assert low <= 1 / CHAINS <= high, (formulation, hops)


def test_at_one_hop_the_statement_of_the_query_has_the_answer(many):
    rng = random.Random(0)
    for formulation in FORMULATIONS:
        low, high = bounds(in_the_statement_of_the_query, many[formulation, 1], rng)
        assert low < 0.5 < high if formulation == "relatives" else high > 0.999


@pytest.mark.parametrize("choose", [lambda pair, rng: rng.choice(pair), lambda pair, rng: pair[0], lambda pair, rng: pair[1]])
def test_parents_without_kinds_are_worth_half_a_step_and_nothing_beyond(choose, many):
    def guess(seen, rng):
        parents = {words[0]: (words[8], words[13]) for words in seen.statements}
        at = seen.query
        while at in parents:
            at = choose(parents[at], rng)
        return at

    rng = random.Random(0)
    for hops in (1, 2, 3):
        low, high = bounds(guess, many["relatives", hops], rng)
        assert low <= (0.5 if hops == 1 else 0.25) <= high, hops


def test_the_same_state_gives_the_same_questions_and_more_begin_with_fewer():
    for formulation in FORMULATIONS:
        prompts = Prompts(formulation=formulation, hops=3)
        assert draw(prompts, 5) == draw(prompts, 8)[:5]
        assert draw(prompts, 5) != draw(prompts, 5, seed=1)


@pytest.mark.parametrize("wrong", [{"hops": 0}, {"hops": MAX_HOPS + 1}, {"formulation": "riddle"}, {"chains": 3}])
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"prompts setting (hops|formulation|chains): .*, got .*: correct the setting"):
        Prompts(**{"formulation": "code", "hops": 1, **wrong})
