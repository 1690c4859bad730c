"""The script of variable binding: what answers are, against a plain reading of programs, and how phases follow each other."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.tasks import Binding

from .tasks.binding_resolver import Program

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import binding_phases as script  # noqa: E402
from variable_binding import SWEEPS, chosen  # noqa: E402

TASK = Binding(lines=6, constants=4)


def row(wrong=1000, early=0, guess=0.4, constant=4000, right=0.1):
    depths = {f"hop_{hop}": int(right * 1000) for hop in script.HOPS} | {f"asked_{hop}": 1000 for hop in script.HOPS}
    named = {"wrong": 2 * wrong, "wrong of the program": wrong, "wrong early": early, "by guessing": guess}
    return {"programs": 4000, "constant": constant, **named, **depths}


GUESSING, EARLY, SOLVED, WORDS = row(early=400), row(early=800), row(right=0.99, early=800), row(constant=100)
FEW = row(right=0.999, wrong=1, early=1, guess=None)


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_answers_are_counted_as_the_programs_say(seed):
    generator = torch.Generator().manual_seed(seed)
    batch = TASK.sample(30, generator)
    answers = torch.randint(TASK.d_vocab, (30,), generator=generator)
    found = script.counted(TASK, batch, answers)
    counts, guesses = dict.fromkeys(found, 0), []
    for tokens, answer in zip(batch.tokens.tolist(), answers.tolist(), strict=True):
        program = Program(tokens, TASK.n_variables)
        asked, values = tokens[-1], [value for _, _, value in program.statements]
        constants = [value for value in values if program.constant(value)]
        right, early = program.root(asked), [value for value in values[:2] if program.constant(value)]
        counts["programs"] += 1
        counts[f"asked_{program.depth(asked)}"] += 1
        counts[f"hop_{program.depth(asked)}"] += answer == right
        counts["right"] += answer == right
        counts["constant"] += program.constant(answer)
        counts["of the program"] += answer in constants
        counts["first"] += answer == values[0]
        counts["second"] += program.constant(values[1]) and answer == values[1]
        counts["last"] += answer == constants[-1]
        if answer != right:
            counts["wrong"] += 1
            counts["wrong early"] += answer in early
            counts["wrong of the program"] += answer in constants
            others = set(constants) - {right}
            guesses += [len(others & set(early)) / len(others)] if answer in constants else []
    assert found.pop("by guessing") == pytest.approx(sum(guesses) / len(guesses), abs=1e-6)
    assert found == {name: counts[name] for name in found}


def test_who_is_always_right_or_says_the_first_line_is_counted_so():
    batch = TASK.sample(200, torch.Generator().manual_seed(0))
    right = script.counted(TASK, batch, batch.targets[:, -1, 0])
    assert (right["right"], right["wrong"], right["by guessing"]) == (200, 0, None)
    first = script.counted(TASK, batch, batch.tokens[:, 1])
    assert first["first"] == first["constant"] == 200
    assert first["wrong early"] == first["wrong"] == first["wrong of the program"]
    assert script.favours_early_lines(first)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [WORDS, GUESSING, EARLY, EARLY, SOLVED, SOLVED],
            [None, "random", "heuristic", "heuristic", "systematic", "systematic"],
        ),
        ([GUESSING, EARLY, GUESSING, SOLVED, FEW], ["random", "random", "random", "systematic", "systematic"]),
        ([GUESSING, EARLY, SOLVED], ["random", "heuristic", "heuristic"]),  # solved once alone: its wrong answers are early
        ([EARLY, EARLY, GUESSING, FEW], ["heuristic", "heuristic", None, None]),  # no guessing after the heuristic
        ([EARLY, EARLY, SOLVED, SOLVED, EARLY], ["heuristic"] * 5),
        ([FEW, FEW], ["systematic"] * 2),
        ([SOLVED], [None]),
    ],
)
def test_phases_follow_from_what_was_fixed(rows, named):
    assert script.phases(rows) == named


def test_heads_are_labelled_in_the_middle_of_a_phase_and_at_the_end():
    named = [None, "random", "heuristic", "heuristic", "heuristic", "systematic", "systematic"]
    assert chosen(range(7), named) == {"random": 1, "heuristic": 3, "systematic": 5, "end": 6}
    assert chosen(range(2), [None, "random"]) == {"random": 1, "end": 1}


def test_a_depth_is_better_than_the_first_line_from_the_last_time_that_it_was_not():
    than = row(right=0.5)
    rows = [{"step": step} | row(right=right) for step, right in enumerate((0.2, 0.9, 0.51, 0.9, 0.8))]
    assert script.better_from(rows, 2, than) == 3
    assert script.better_from(rows[:3], 2, than) is None


@pytest.mark.parametrize(
    ("named", "ordered"),
    [
        ([None, "random", "heuristic", None, "heuristic", "systematic"], True),
        (["random", "heuristic", "random", "systematic"], True),
        (["heuristic", "random", "systematic"], False),
        (["random", "heuristic", "heuristic"], False),
        ([None, None], False),
    ],
)
def test_a_run_has_the_order_if_each_phase_is_there_and_begins_before_the_next(named, ordered):
    assert script.in_order([{"step": step, "phase": phase} for step, phase in enumerate(named)]) == ordered


@pytest.mark.parametrize(("runs", "said"), [(8, "shown"), (7, "not shown"), (4, "not shown"), (0, "contradicted")])
def test_a_phase_is_shown_where_surely_more_than_half_of_the_runs_go_through_it(runs, said):
    assert script.verdict(runs, 8) == said


def test_the_sweeps_differ_in_what_is_asked_alone():
    dense, final = (yaml.safe_load((ANALYSES / "sweeps" / f"{name}.yaml").read_text()) for name in SWEEPS)
    assert (dense["task"].pop("supervision"), final["task"].pop("supervision")) == ("dense", "final")
    seeds, fewer = (content["grid"].pop("training.seed") for content in (dense, final))
    assert seeds[: len(fewer)] == fewer
    assert dense == final
