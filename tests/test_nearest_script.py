"""The script of nearest neighbours: attention by rank, errors by gap and the bars are what loops over examples say."""

import math
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
import torch

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import nearest_neighbour as script  # noqa: E402

from stackheads.models import ModelConfig, build  # noqa: E402
from stackheads.seeds import Stream, stream  # noqa: E402
from stackheads.tasks import NearestNeighbour  # noqa: E402

from .tasks.nearest_resolver import NearestExample  # noqa: E402

EXAMPLES = 200


@pytest.fixture(scope="module", params=["pairs", "statements"])
def looked(request):
    """A task, an untrained model, what the script reads off it, and its examples read by the resolver."""
    task = NearestNeighbour(symbols=12, pairs=4, values=3, layout=request.param)
    model = build(ModelConfig(layers=2, heads=2, d_model=16, d_head=8), task, seed=4)
    tokens = task.sample(EXAMPLES, stream(0, Stream.NEAREST)).tokens
    read = [NearestExample(each, task.symbols, task.values, task.layout) for each in tokens.tolist()]
    logits, cache = model.run_with_cache(tokens)
    pattern = cache["blocks.1.attn.hook_pattern"][:, :, -1]
    return script.looked_at(model, task, EXAMPLES), read, logits[:, -1].argmax(dim=1).tolist(), pattern


def test_attention_by_rank_is_that_on_the_slots_of_the_keys_that_lie_so_far(looked):
    found, read, _, pattern = looked
    for row, example in enumerate(read):
        far = [example.steps(example.query, key) for key in example.keys]
        order = sorted(range(len(far)), key=far.__getitem__)
        assert found["far"][row].tolist() == [far[pair] for pair in order]
        for head in range(2):
            on_keys = torch.stack([pattern[row, head, example.slots[pair]] for pair in order])
            torch.testing.assert_close(found["looks"][head, row], on_keys)


def test_errors_are_those_of_the_answers(looked):
    found, read, answered, _ = looked
    last = max(read[0].asking)
    wrong = [answer != example.answer(last) for answer, example in zip(answered, read, strict=True)]
    assert found["wrong"].tolist() == wrong
    assert found["second"][~found["wrong"]].sum() == 0


def test_gaps_and_distances_hold_every_example_once(looked):
    found, read, _, _ = looked
    rows = pd.DataFrame(script.by_gap(found, 1))
    assert rows["examples"].sum() == EXAMPLES
    assert rows["errors"].sum() == int(found["wrong"].sum())
    assert rows["on the nearest"].sum() == pytest.approx(float(found["looks"][1, :, 0].sum()), rel=1e-5)
    for row in script.by_gap(found, 1):
        far = [sorted(example.steps(example.query, key) for key in example.keys) for example in read]
        here = [one for one in far if min(one[0], 4) == row["distance"] and min(one[1] - one[0], 4) == row["gap"]]
        assert len(here) == row["examples"]


def test_means_by_distance_and_by_rank_are_those_of_keys_one_at_a_time(looked):
    found, read, _, pattern = looked
    seen = defaultdict(list)
    for row, example in enumerate(read):
        ordered = sorted((example.steps(example.query, key), example.slots[pair]) for pair, key in enumerate(example.keys))
        for rank, (far, slot) in enumerate(ordered, start=1):
            for head in range(2):
                looks = float(pattern[row, head, slot])
                seen[head, "rank", rank].append(looks)
                seen[head, "distance", far].append(looks)
    rows = {(row["head"], row["by"], row["at"]): (row["keys"], row["attention"]) for row in script.by_place(found)}
    assert rows == {at: (len(some), pytest.approx(sum(some) / len(some), rel=1e-5)) for at, some in seen.items()}


@pytest.mark.parametrize(
    ("attention", "errors", "expected"),
    [
        ((0.1, 0.2, 0.5, 0.6), (9, 8, 3, 1), True),
        ((0.1, 0.2, 0.2, 0.6), (9, 8, 3, 1), False),
        ((0.1, 0.2, 0.5, 0.6), (9, 8, 8, 1), False),
    ],
)
def test_sharper_means_better_only_if_every_step_is(attention, errors, expected):
    runs = pd.DataFrame({"step": script.STEPS, "on the nearest": attention, "errors": errors})
    assert script.sharpens(runs) == expected
    assert not script.sharpens(runs[:3])


@pytest.mark.parametrize(("near", "wide", "expected"), [(30, 2, True), (12, 8, False), (2, 30, False)])
def test_errors_at_a_small_gap_are_more_only_if_intervals_are_apart(near, wide, expected):
    gaps = pd.DataFrame({"gap": [1, 2, 3], "examples": [1000, 500, 500], "errors": [near, wide, 0]})
    assert script.apart(gaps) == expected


def test_a_multiple_of_the_cosine_is_found_at_every_distance():
    """Codes are 1/32 of a circle apart; what is at larger gaps does not count."""
    falls = [math.cos(math.pi * each / 16) - math.cos(math.pi * (each + 1) / 16) for each in range(4)]
    rows = [{"distance": each, "gap": 1, "examples": 5, "log odds": 5 * 28 * fall} for each, fall in enumerate(falls)]
    gaps = pd.DataFrame([*rows, {"distance": 0, "gap": 2, "examples": 9, "log odds": 1.0}]).assign(family="a")
    assert script.cosine_table(gaps).splitlines()[-1] == "| a | 28.0 | 28.0 | 28.0 | 28.0 |"


@pytest.mark.parametrize(
    ("labels", "kept", "expected"),
    [
        ("L0H0 @value previous; L1H0 @query hop 1", 0.95, True),
        ("L1H0 @query when own symbol 3..9 hop 1", 0.95, True),
        ("L1H0 @query hop 1", 0.8, False),
        ("L0H0 @query hop 1", 0.95, False),
        ("L1H0 @key hop 1; L1H0 @query unchosen 1", 0.95, False),
        ("none", 0.95, False),
    ],
)
def test_labels_say_the_nearest_only_of_the_last_layer_at_the_query(labels, kept, expected):
    assert script.confirmed({"head": "L1H0", "labels": labels, "kept": kept}) == expected
