"""Case studies of depth against a plain-Python resolver, and what is memorised, held out and drawn."""

from itertools import product
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import DepthCases, check, from_config
from stackheads.tasks.depth_cases import SIZES, held_out, memorised, template_of, templates
from stackheads.types import IGNORE, Slot

from .cases_resolver import CasesExample, sorted_templates

seeds = st.integers(0, 2**31)
CASES = list(SIZES)
TEMPLATES = ["template", "template-in-context"]


@st.composite
def tasks(draw, cases=CASES):
    case = draw(st.sampled_from(cases))
    length = 1 if case == "reasoning" else draw(st.integers(2, 4))
    most = {1: 4, 2: 2, 3: 5, 4: 5}[length]  # templates of two symbols are two
    pairs = 0 if case in ("memory", "template") else draw(st.integers(1, most))
    symbols = draw(st.integers(4, 9)) if case not in TEMPLATES else length * (pairs + 1) + draw(st.integers(0, 3))
    return DepthCases(
        case=case,
        symbols=symbols,
        length=length,
        pairs=pairs,
        labels=4 if case == "template" else draw(st.integers(2, 6)),
        strings=2 * draw(st.integers(1, symbols**length // 8)) if case == "memory" else 0,
        part=draw(st.sampled_from(["seen", "unseen"])) if case in TEMPLATES else "seen",
        case_seed=0 if case == "reasoning" else draw(st.integers(0, 1000)),
        supervision=draw(st.sampled_from(["final", "dense"] if pairs else ["final"])),
    )


def strings_of(task):
    """All strings there could be, in the order of their numbers: the first place counts least."""
    return [string[::-1] for string in product(range(task.symbols), repeat=task.length)]


def known_labels(task):
    """The labels of memorised strings."""
    table = memorised(task.symbols, task.length, task.strings, task.labels, task.case_seed).tolist()
    return {string: label for string, label in zip(strings_of(task), table, strict=True) if label != IGNORE}


def read(task, tokens, labels=None):
    return CasesExample(tokens, task.symbols, task.length, task.case in TEMPLATES, labels)


def drawn(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off the tokens."""
    places, last = range(task.n_ctx), task.n_ctx - 1
    labels = known_labels(task) if task.case == "memory" else None
    for row, tokens in enumerate(batch.tokens.tolist()):
        example = read(task, tokens, labels)
        for i in places:
            label = example.place(i) == task.length
            assert batch.slots[row, i] == (Slot.QUERY if i == last else Slot.VALUE if label else Slot.KEY)
            assert (tokens[i] >= task.symbols) == label
            assert batch.gates["place in string"][row, i] == example.place(i)
            assert batch.gates["own symbol"][row, i] == tokens[i]
            assert batch.find[row, 0, i] == example.find(i)
            answer = example.answer(i)
            targets, hops = [IGNORE if answer is None else answer], [int(answer is not None)]
            if task.supervision == "dense" and task.pairs:  # the class is no hop
                targets.append(example.number(i) if example.ends(i) else IGNORE)
                hops.append(0)
            assert batch.targets[row, i].tolist() == targets
            assert batch.target_hop[row, i].tolist() == hops
            named = {role: set() for role in task.operands}
            for role, source in zip(task.operands, batch.operands[row, :, i].tolist(), strict=True):
                named[role] |= {source} - {-1}
            assert len(example.cases(i)) == (1 if task.pairs and i == last else 0)
            assert all(sources == {example.key(i, role.hop)} - {-1} for role, sources in named.items())


@settings(max_examples=80, deadline=None)
@given(tasks(), seeds)
def test_maps_and_answers_are_what_the_tokens_say(task, seed):
    batch = drawn(task, 3, seed)
    check_against_resolver(task, batch)
    assert (batch.targets[:, -1] >= 0).all()
    assert task.readout(torch.zeros(3, task.n_ctx, task.d_vocab_out), batch).shape[:3] == batch.targets.shape


@settings(max_examples=60, deadline=None)
@given(tasks(), seeds)
def test_words_for_places_leave_out_no_place(task, seed):
    """Each symbol behind, of the own string, is a key, `previous` or the `start`."""
    batch = drawn(task, 1, seed)
    keys = batch.operands[0, [role.name == "key" for role in task.operands]]
    for i in range(task.n_ctx):
        own = range(i - i % (task.length + 1), i)
        assert set(own) <= {*keys[:, i].tolist(), i - 1, 0}


@settings(max_examples=80, deadline=None)
@given(tasks(), seeds)
def test_strings_are_of_their_part_and_share_no_symbol_with_templates(task, seed):
    held = held_out(task.symbols, task.length, task.case_seed).tolist() if task.case in TEMPLATES else []
    hidden = {string for string, out in zip(strings_of(task), held, strict=False) if out}
    for tokens in drawn(task, 4, seed).tokens.tolist():
        *before, last = read(task, tokens).strings
        if task.case in TEMPLATES:
            assert not hidden & {*before}
            assert (last in hidden) == (task.part == "unseen")
            assert sum(len(set(string)) for string in [*before, last]) == len(set().union(*before, last))


@settings(max_examples=80, deadline=None)
@given(tasks(), seeds)
def test_classes_in_context_are_different_and_the_last_is_one_of_them(task, seed):
    for tokens in drawn(task, 4, seed).tokens.tolist():
        example = read(task, tokens)
        *context, last = map(example.class_of, example.strings)
        assert len({*context}) == task.pairs
        assert not task.pairs or last in context


@settings(max_examples=80, deadline=None)
@given(tasks(), seeds)
def test_a_counterfactual_changes_one_token_and_the_answer_wherever_one_can(task, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    other = task.counterfactual(batch, 1, generator)
    check_against_resolver(task, other)
    labels = known_labels(task) if task.case == "memory" else None
    for before, after in zip(batch.tokens.tolist(), other.tokens.tolist(), strict=True):
        last, example = task.n_ctx - 1, read(task, before, labels)
        changed = [i for i in range(task.n_ctx) if before[i] != after[i]]
        if task.pairs:
            assert changed == example.cases(last)
        else:
            instead = [[*before[:i], symbol, *before[i + 1 :]] for i in range(task.n_ctx) for symbol in range(task.symbols)]
            part = [tokens for tokens in instead if in_part(task, tokens)]
            fitting = [tokens for tokens in part if read(task, tokens, labels).answer(last) not in (None, example.answer(last))]
            assert after in fitting if fitting else after == before
        if changed:
            assert len(changed) == 1
            assert read(task, after, labels).answer(last) not in (None, example.answer(last))


def in_part(task, tokens):
    if task.case == "memory":
        return True
    number = sum(symbol * task.symbols**place for place, symbol in enumerate(tokens))
    return int(held_out(task.symbols, task.length, task.case_seed)[number]) == (task.part == "unseen")


@settings(max_examples=40, deadline=None)
@given(tasks(["reasoning", "template-in-context"]), seeds, st.randoms(use_true_random=False))
def test_names_of_symbols_and_labels_mean_nothing_in_context(task, seed, random):
    batch = drawn(task, 4, seed)
    symbols, labels = list(range(task.symbols)), list(range(task.labels))
    random.shuffle(symbols)
    random.shuffle(labels)
    name, label = torch.tensor([*symbols, *(task.symbols + each for each in labels)]), torch.tensor(labels)
    other = task.batch(name[batch.tokens])
    assert torch.equal(other.find, batch.find)
    assert torch.equal(other.operands, batch.operands)
    assert torch.equal(other.targets[:, -1, 0], label[batch.targets[:, -1, 0]])
    if task.case == "template-in-context":
        assert torch.equal(other.targets[:, :, 1:], batch.targets[:, :, 1:])


@pytest.mark.parametrize("length", range(1, 6))
def test_templates_are_all_there_are_in_alphabetical_order(length):
    """As many as Bell's numbers."""
    words = ["".join("abcdefgh"[letter] for letter in each) for each in templates(length)]
    assert words == sorted_templates(length)
    assert len(words) == {1: 1, 2: 2, 3: 5, 4: 15, 5: 52}[length]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.permutations(range(6)))
def test_a_template_is_what_renaming_symbols_leaves(string, renamed):
    one, other = (int(template_of(torch.tensor(each))) for each in (string, [renamed[symbol] for symbol in string]))
    assert one == other
    letters = templates(len(string))[one]
    assert all((string[i] == string[j]) == (letters[i] == letters[j]) for i in range(len(string)) for j in range(len(string)))


@settings(max_examples=40, deadline=None)
@given(tasks(["memory"]))
def test_each_memorised_string_has_a_neighbour_with_another_label(task):
    labels = known_labels(task)
    assert len(labels) == task.strings
    assert set(labels.values()) <= set(range(task.labels))
    for string, label in labels.items():
        neighbours = {(*string[:i], symbol, *string[i + 1 :]) for i in range(task.length) for symbol in range(task.symbols)}
        assert {labels[other] for other in neighbours & labels.keys()} - {label}


@settings(max_examples=40, deadline=None)
@given(tasks(TEMPLATES))
def test_one_in_eight_strings_of_each_template_is_held_out(task):
    held = held_out(task.symbols, task.length, task.case_seed).tolist()
    of = {word: [] for word in sorted_templates(task.length)}
    for string, out in zip(strings_of(task), held, strict=True):
        of[read(task, list(string)).class_of(string)].append(out)
    assert all(sum(out) == ceil(len(out) / 8) for out in of.values())


@pytest.mark.parametrize("case", CASES)
def test_answers_and_strings_are_even(case):
    """Five standard deviations of a share p in 3,000 draws are 5 sqrt(p (1 - p) / 3,000)."""
    task = DepthCases(case=case, **SIZES[case])
    batch = drawn(task, 3000, 0)
    shares = batch.targets[:, -1, 0].bincount() / 3000
    p = torch.full_like(shares, task.chance(1))
    if case == "memory":
        p = torch.tensor(list(known_labels(task).values())).bincount(minlength=task.labels) / task.strings
        _, counts = batch.tokens.unique(dim=0, return_counts=True)
        assert len(counts) == task.strings
        q = 1 / task.strings
        assert (counts / 3000 - q).abs().max() < 5 * (q * (1 - q) / 3000) ** 0.5
    assert ((shares - p).abs() < 5 * (p * (1 - p) / 3000).sqrt()).all()


@pytest.mark.parametrize("part", ["seen", "unseen"])
@pytest.mark.parametrize(("symbols", "length"), [(9, 2), (4, 4), (16, 4)])
def test_chance_is_the_share_of_the_commonest_template(symbols, length, part):
    """Of small templates more is held out. Five standard deviations, as above; the most of many shares lies above each."""
    task = DepthCases(case="template", symbols=symbols, length=length, part=part)
    most = drawn(task, 3000, 0).targets[:, -1, 0].bincount().max() / 3000
    p = task.chance(1)
    assert 1 / len(sorted_templates(length)) <= p + 1e-12
    assert abs(most - p) < 5 * (p * (1 - p) / 3000) ** 0.5


@pytest.mark.parametrize("case", CASES)
def test_tables_differ_by_seed_and_not_by_what_else_is_drawn(case):
    task = DepthCases(case=case, **SIZES[case])
    other = task.model_copy(update={"case_seed": 1})
    again = DepthCases(**task.model_dump() | ({"part": "unseen"} if case in TEMPLATES else {"supervision": task.supervision}))
    assert torch.equal(task._table, again._table)
    assert torch.equal(task._table, other._table) == (case == "reasoning")


@pytest.mark.parametrize(
    ("case", "supervision"), [*((case, "final") for case in CASES), ("reasoning", "dense"), ("template-in-context", "dense")]
)
def test_it_passes_the_checker(case, supervision):
    task = DepthCases(case=case, **SIZES[case], supervision=supervision)
    check(task)
    if case in TEMPLATES:
        check(task.model_copy(update={"part": "unseen"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_hops": 2}, "one hop, got max_hops 2"),
        ({"attention_dir": "bidirectional"}, "got attention_dir bidirectional"),
        ({"symbols": 1}, "2 symbols and 2 labels, got 1 and 4"),
        ({"labels": 1}, "2 symbols and 2 labels, got 8 and 1"),
        ({"length": 1}, "at least 2 for memory, got 1"),
        ({"case": "reasoning", "pairs": 2}, "1 for reasoning, got 3"),
        ({"case": "reasoning", "length": 1, "strings": 0}, "at least 1 for reasoning, got 0"),
        ({"pairs": 2}, "pairs must be 0 for memory, got 2"),
        ({"case": "template-in-context", "pairs": 2, "strings": 0}, "at least 9 symbols, so that none need stand twice, got 8"),
        ({"case": "reasoning", "length": 1, "strings": 0, "pairs": 9}, "different symbols, got 9 of 8"),
        ({"case": "template-in-context", "length": 2, "strings": 0, "pairs": 3}, "different templates, got 3 of 2"),
        ({"length": 8}, "at most 4194304 strings may be possible, got 8 to the power of 8"),
        ({"case": "template", "symbols": 30, "length": 30, "strings": 0}, "got 30 to the power of 30"),
        ({"supervision": "dense"}, "no strings in context to ask about, got supervision dense"),
        ({"case": "reasoning", "length": 1, "strings": 0, "pairs": 2, "case_seed": 1}, "holds out nothing, got case_seed 1"),
        ({"case": "template", "strings": 0, "labels": 3}, "are the templates, got labels 3"),
        ({"strings": 3}, r"even number in 2\.\.128, got 3"),
        ({"strings": 130}, r"even number in 2\.\.128, got 130"),
        ({"case": "template", "strings": 4}, "in memory only, got 4 for template"),
        ({"part": "unseen"}, "got part unseen for memory"),
        ({"case_seed": -1}, "a seed is an int"),
        ({"case": "oracle"}, "got 'oracle'"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "cases", "case": "memory", "symbols": 8, "length": 3, "strings": 8} | settings)


def test_there_is_one_hop_and_at_least_one_example():
    task = DepthCases(case="template", **SIZES["template"])
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        task.sample(0, torch.Generator())
    with pytest.raises(ConfigError, match=r"in 1\.\.1, got 2"):
        task.counterfactual(drawn(task, 2, 0), 2, torch.Generator())
