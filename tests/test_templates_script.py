"""The script of templates: what can be guessed from some of the pairs, and what attention is said to be."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import templates  # noqa: E402

from stackheads.models import ModelConfig, build  # noqa: E402
from stackheads.tasks import Templates  # noqa: E402


@pytest.mark.parametrize("layout", ["statements", "pairs"])
def test_guesses_are_what_most_agreeing_templates_say(layout):
    task = Templates(symbols=6, templates=8, layout=layout)
    shown, value = (each.tolist() for each in task.read(templates.questions(task).tokens))
    for pairs, found in enumerate(templates.guessers(task)):
        right = 0.0
        for symbols, said in zip(shown, value, strict=True):
            told = list(zip(symbols, said, strict=False))[task.pairs - pairs :]
            left = [says for says in task.functions if all(says[x] == y for x, y in told)]
            right += Counter(says[symbols[-1]] for says in left).most_common(1)[0][1] / len(left)
        assert found == pytest.approx(right / len(shown))
    assert found == 1.0, "all pairs tell"


def test_unpaired_guesses_are_what_templates_say_that_give_the_same_values():
    task = Templates(symbols=6, templates=8)
    shown, value = (each.tolist() for each in task.read(templates.questions(task).tokens))
    right = 0.0
    for symbols, said in zip(shown, value, strict=True):
        left = [says for says in task.functions if sorted(says[x] for x in symbols[:-1]) == sorted(said)]
        right += Counter(says[symbols[-1]] for says in left).most_common(1)[0][1] / len(left)
    assert templates.unpaired(task) == pytest.approx(right / len(shown))


def test_looks_of_even_attention_are_even():
    task = Templates(symbols=6, templates=8)
    model = build(ModelConfig(layers=2, heads=1, d_model=8, d_head=4), task)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.W_Q)
    rows = templates.looks(model, task)
    assert [row["head"] for row in rows] == ["L0H0", "L1H0"]
    for row in rows:
        assert row["even @query"] == pytest.approx(1)
        assert row["pairs @query"] == pytest.approx(3 / 9)
        assert row["own key @value"] == pytest.approx((1 / 3 + 1 / 5 + 1 / 7) / 3)


def test_what_is_a_function_of_the_code_is_explained_and_what_is_not_is_not():
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(4, (4000, 3), generator=generator)
    assert templates.explained(code.double().square(), code) == pytest.approx(1)
    assert abs(templates.explained(torch.rand(4000, 3, generator=generator).double(), code)) < 0.01


@pytest.mark.parametrize(
    ("layout", "pairing", "gathering", "expected"),
    [
        ("statements", ["L0H0"], ["L1H1"], True),
        ("statements", ["L1H0"], ["L1H1"], False),
        ("statements", [], ["L1H1"], False),
        ("statements", ["L0H0"], [], False),
        ("statements", ["L0H0", "L2H0"], ["L0H1", "L1H0"], True),
        ("pairs", [], ["L0H1"], True),
        ("pairs", [], [], False),
    ],
)
def test_pairs_are_made_before_they_are_looked_at(layout, pairing, gathering, expected):
    assert templates.compares(Templates(symbols=6, layout=layout), pairing, gathering) is expected
