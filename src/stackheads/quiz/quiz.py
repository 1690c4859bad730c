"""How well a language model retrieves in words, for each formulation and D, without and with solved examples.

A sheet is (formulation, D, shots). Its questions come from a stream of random numbers named by the seed, the formulation and D,
so a sheet asks the same whoever runs it, and few-shot sheets ask the first of the questions that the zero-shot sheet asks. The
solved examples, the same for all questions of a sheet, come from a stream of their own.

A quiz is a folder: `quiz.json`, its settings, and `cells/NAME.json`, one for each finished sheet, written in one piece, with
every answer. A finished sheet is never run again, so a quiz may be killed at any moment; sheets may be added later, but a
folder has one model and one way of asking. Answers may differ in the last digits between batch sizes, threads and machines.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from tqdm import tqdm

from stackheads.errors import CheckpointError, ConfigError
from stackheads.files import Stored, check_folder, checked, read_json, write_file, write_json
from stackheads.labelling.statistics import wilson
from stackheads.limits import check_number
from stackheads.models.outside.language import LanguageModel, Precision
from stackheads.quiz.questions import ask, compose
from stackheads.seeds import bare
from stackheads.settings import Settings
from stackheads.tasks.prompts import FORMULATIONS, MAX_HOPS, Prompts, Question

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
QUIZ = "quiz.json"
CURE = "delete it and run again"
CONFIDENCE = 0.95


class Numbers(Settings):
    """How much is asked, of whatever model.

    `questions`, `few_shot_questions`   how many a sheet asks without and with `shots` solved examples; 0: no such sheets.
    """

    called = "quiz"

    seed: int = Field(ge=0)
    questions: int = Field(ge=0)
    few_shot_questions: int = Field(ge=0)
    shots: int = Field(default=3, ge=1)


class Quiz(Numbers):
    """What all sheets of a folder share; `chat` is whether the tokenizer's chat template is used (`quiz/questions.py`).

    `weights` is a digest of the weights' files: fine-tunes of one model have one name and size. "": a quiz of before has none.
    """

    model: str
    bytes: int
    weights: str = ""
    dtype: Precision
    chat: bool


class StoredAnswer(Stored):
    """One answer of a finished sheet: the word, and the one that would have been right."""

    right: str
    given: str


class StoredSheet(Stored):
    """A finished sheet's file, besides its names."""

    first_prompt: str
    answers: list[StoredAnswer]


@dataclass(frozen=True)
class Sheet:
    """One formulation at one D, after so many solved examples, and the number of questions."""

    prompts: Prompts
    shots: int
    questions: int

    @property
    def name(self) -> str:
        return f"{self.prompts.formulation}-d{self.prompts.hops}-shots{self.shots}"

    @property
    def file(self) -> str:
        return f"cells/{self.name}.json"

    def draw(self, seed: int) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        """The questions, and the solved examples."""
        streams = (_stream(seed, self.prompts, use) for use in ("questions", "shots"))
        questions, shots = (
            self.prompts.sample(n, stream) for n, stream in zip((self.questions, self.shots), streams, strict=True)
        )
        return questions, shots


def _stream(seed: int, prompts: Prompts, use: str) -> torch.Generator:
    """A generator of its own for every use, the same on every machine; kept as it was, since finished quizzes are committed."""
    name = f"{seed} {prompts.formulation} {prompts.hops} {use}"
    return bare(int.from_bytes(hashlib.sha256(name.encode()).digest()[2:6], "big"))


def quiz(language: LanguageModel, plain: bool = False, **settings: Any) -> Quiz:
    """The settings for a model; its chat template is used if it has one and `plain` is not set. Raises `ConfigError`."""
    chat = language.has_template and not plain
    told = {"model": language.name, "bytes": language.bytes, "weights": language.digest, "dtype": language.dtype}
    return Quiz(**told, chat=chat, **settings)  # type: ignore[arg-type]


def sheets(config: Numbers, formulations: Sequence[str], hops: Sequence[int]) -> list[Sheet]:
    """All sheets, those without solved examples first. Raises `ConfigError` for a formulation or D that does not exist."""
    made = []
    for shots, questions in ((0, config.questions), (config.shots, config.few_shot_questions)):
        for formulation in formulations if questions else ():
            made += [Sheet(_prompts(formulation, number), shots, questions) for number in hops]
    if not made:
        raise ConfigError("a quiz asks at least one question, got none: raise --questions or --few-shot-questions")
    return list(dict.fromkeys(made))


def _prompts(formulation: str, hops: int) -> Prompts:
    if formulation not in FORMULATIONS:
        raise ConfigError(f"a formulation is one of {', '.join(FORMULATIONS)}, got {formulation!r}: choose one of them")
    if not 1 <= hops <= MAX_HOPS:
        raise ConfigError(f"hops must be 1 to {MAX_HOPS}, got {hops}: choose others")
    return Prompts(formulation=formulation, hops=hops)  # type: ignore[arg-type]


def run_quiz(
    language: LanguageModel, config: Quiz, made: list[Sheet], folder: Path, batch: int = 16, progress: bool = True
) -> "pd.DataFrame":
    """Ask what is not answered yet, and give the table of all these sheets; that of all in the folder is `results.csv`.

    Raises `ConfigError` if the folder holds another quiz, or the batch is empty; `CheckpointError` for a sheet that is damaged
    or was asked in other words.
    """
    batch = check_batch(batch)
    open_folder(config, folder)
    every = sheets(config, tuple(FORMULATIONS), range(1, MAX_HOPS + 1))
    results(folder, every)  # so that what is damaged is found before the work
    todo = [sheet for sheet in made if not _finished(language, config, sheet, folder)]
    with tqdm(total=sum(sheet.questions for sheet in todo), disable=None if progress else True, unit="question") as bar:
        for sheet in todo:
            bar.set_description(sheet.name)
            write_json(folder / sheet.file, _asked(language, config, sheet, batch, bar))
    write_file(folder / "results.csv", lambda temporary: results(folder, every).to_csv(temporary, index=False))
    return results(folder, made)


def check_batch(batch: int) -> int:
    """A batch of one question or more. Raises `ConfigError`."""
    return check_number("batch", batch, 1, cure="give the number of questions to ask at once")


def open_folder(config: Quiz, folder: Path) -> None:
    """Make the folder of a quiz, or check that it is this one's. Raises `ConfigError` for another."""
    check_folder(folder, QUIZ)
    stored, content = folder / QUIZ, {"format": FORMAT, **config.model_dump(mode="json")}
    if not stored.exists():
        write_json(stored, content)
        return
    before = read_json(stored, CURE)
    for name, value in content.items():
        if before.get(name) != value and not (name == "weights" and not before.get(name)):
            raise ConfigError(
                f"a quiz goes on with its own settings, {stored} has {name} = {json.dumps(before.get(name))}, "
                f"got {json.dumps(value)}: choose another --output-dir"
            )


def _finished(language: LanguageModel, config: Quiz, sheet: Sheet, folder: Path) -> bool:
    """Whether a sheet is there, with the prompt that it would get now: the wording may have changed between versions."""
    if not (folder / sheet.file).exists():
        return False
    if _stored(folder / sheet.file).first_prompt != _first_prompt(language, config, sheet):
        raise CheckpointError(f"{folder / sheet.file} was asked in other words than this version's: delete it and run again")
    return True


def _first_prompt(language: LanguageModel, config: Quiz, sheet: Sheet) -> str:
    (question, *_), shots = replace(sheet, questions=1).draw(config.seed)
    return compose(language.tokenizer, question, shots, config.chat).text


def _asked(language: LanguageModel, config: Quiz, sheet: Sheet, batch: int, bar: Any) -> dict[str, Any]:
    questions, shots = sheet.draw(config.seed)
    answers = ask(language, questions, shots, config.chat, batch, bar.update)
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        row: dict[str, Any] = {"right": question.answer, "given": answer.word}
        if question.choices:
            scores = [round(value, 4) for value in answer.log_probabilities]
            row["log_probabilities"] = dict(zip(question.choices, scores, strict=True))
        rows.append(row)
    names = {**sheet.prompts.model_dump(), "shots": sheet.shots}
    return {**names, "first_prompt": _first_prompt(language, config, sheet), "answers": rows}


def results(folder: Path, made: list[Sheet]) -> "pd.DataFrame":
    """A row for each finished sheet: formulation, hops, shots, questions, right, accuracy, its Wilson interval, chance."""
    import pandas as pd

    return pd.DataFrame(_rows(folder, made))


def _rows(folder: Path, made: list[Sheet]) -> Iterator[dict[str, Any]]:
    for sheet in made:
        if (folder / sheet.file).exists():
            answers = _stored(folder / sheet.file).answers
            if len(answers) != sheet.questions:
                raise CheckpointError(
                    f"{folder / sheet.file} must hold {sheet.questions} answers, it holds {len(answers)}: "
                    "delete it and run again"
                )
            right = sum(answer.given == answer.right for answer in answers)
            low, high = wilson(right, len(answers), CONFIDENCE)
            yield {
                "formulation": sheet.prompts.formulation,
                "hops": sheet.prompts.hops,
                "shots": sheet.shots,
                "questions": len(answers),
                "right": right,
                "accuracy": round(right / len(answers), 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "chance": sheet.prompts.chance,
            }


def _stored(path: Path) -> StoredSheet:
    return checked(StoredSheet, read_json(path, CURE), path, CURE)
