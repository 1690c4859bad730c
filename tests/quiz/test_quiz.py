"""A quiz: every sheet once, recounted from its answers, refused where it is another's; and the command line around it."""

import json
from dataclasses import replace

import pytest
from forked import stackheads_text
from tiny_llama import language, save_folder

from stackheads import cli
from stackheads.errors import CheckpointError, ConfigError, StackheadsError
from stackheads.labelling.statistics import wilson
from stackheads.quiz.questions import ask
from stackheads.quiz.quiz import quiz, results, run_quiz, sheets

SETTINGS = {"seed": 0, "questions": 6, "few_shot_questions": 4, "shots": 2}
MODEL = language()


def run(folder, formulations=("code", "share"), hops=(1, 2), plain=False, batch=4, **settings):
    config = quiz(MODEL, plain, **{**SETTINGS, **settings})
    return run_quiz(MODEL, config, sheets(config, formulations, hops), folder, batch, progress=False)


def test_every_cell_is_counted_from_its_stored_answers(tmp_path):
    table = run(tmp_path)
    assert len(table) == len(list((tmp_path / "cells").iterdir())) == 8
    config = quiz(MODEL, **SETTINGS)
    for row, sheet in zip(table.to_dict("records"), sheets(config, ("code", "share"), (1, 2)), strict=True):
        stored = json.loads((tmp_path / sheet.file).read_text())
        questions, shots = sheet.draw(config.seed)
        given = [answer.word for answer in ask(MODEL, questions, shots, batch=4)]
        assert [answer["given"] for answer in stored["answers"]] == given
        assert [answer["right"] for answer in stored["answers"]] == [question.answer for question in questions]
        right = sum(word == question.answer for word, question in zip(given, questions, strict=True))
        assert (row["right"], row["questions"], row["shots"]) == (right, 6 if row["shots"] == 0 else 4, sheet.shots)
        assert (row["low"], row["high"]) == pytest.approx(wilson(right, len(given), 0.95), abs=1e-4)
        assert not set(shots) & set(questions)
        assert stored["first_prompt"].endswith(questions[0].lead)


def test_few_shot_cells_ask_the_first_questions_of_the_others():
    config = quiz(MODEL, **SETTINGS)
    (plain, _), (few, shots) = (sheet.draw(config.seed) for sheet in sheets(config, ("share",), (2,)))
    assert few == plain[:4]
    assert len(shots) == 2
    (other, _), _ = (sheet.draw(config.seed + 1) for sheet in sheets(config, ("share",), (2,)))
    assert other != plain


def test_a_finished_cell_is_never_asked_again(tmp_path):
    before = run(tmp_path)
    kept, gone = tmp_path / "cells" / "share-d1-shots0.json", tmp_path / "cells" / "share-d2-shots0.json"
    content, lost = json.loads(kept.read_text()), gone.read_text()
    for answer in content["answers"]:
        answer["given"] = answer["right"]
    kept.write_text(json.dumps(content))
    gone.unlink()
    after = run(tmp_path).set_index(["formulation", "hops", "shots"])
    assert after.loc["share", 1, 0]["right"] == 6
    assert gone.read_text() == lost
    others = after.drop(index=("share", 1, 0))
    assert others["right"].equals(before.set_index(["formulation", "hops", "shots"]).drop(index=("share", 1, 0))["right"])
    assert len(run(tmp_path, hops=(1, 2, 3))) == 12


@pytest.mark.parametrize("other", [{"seed": 1}, {"questions": 5}, {"shots": 1}, {"plain": True}])
def test_another_quiz_in_the_folder_is_refused(other, tmp_path):
    run(tmp_path, ("code",), (1,))
    with pytest.raises(ConfigError, match="choose another --output-dir"):
        run(tmp_path, ("code",), (1,), **other)


def test_another_model_of_the_same_name_and_size_is_refused_and_a_quiz_of_before_goes_on(tmp_path):
    """As fine-tunes of one model are, kept in folders of equal names."""
    run(tmp_path, ("code",), (1,))
    other = replace(MODEL, digest="another")
    with pytest.raises(ConfigError, match=r"has weights = .*, got .*: choose another --output-dir"):
        run_quiz(other, quiz(other, **SETTINGS), [], tmp_path, progress=False)
    stored = json.loads((tmp_path / "quiz.json").read_text())
    assert stored.pop("weights") == MODEL.digest
    (tmp_path / "quiz.json").write_text(json.dumps(stored))
    run(tmp_path, ("code",), (1,))


def test_the_table_of_a_folder_has_all_its_sheets_whatever_is_asked_for(tmp_path):
    run(tmp_path, ("code", "share"), (1, 2))
    whole = (tmp_path / "results.csv").read_text()
    some = run(tmp_path, ("share",), (2,))
    assert len(some) == 2
    assert (tmp_path / "results.csv").read_text() == whole
    assert whole.count("\n") == 9


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_cell_is_refused(content, tmp_path):
    run(tmp_path, ("code",), (1,))
    (tmp_path / "cells" / "code-d1-shots0.json").write_text(content)
    with pytest.raises(CheckpointError, match="delete it and run again"):
        run(tmp_path, ("code",), (1,))


def test_a_cell_in_other_words_or_with_answers_lost_is_refused(tmp_path):
    run(tmp_path, ("code",), (1,))
    file = tmp_path / "cells" / "code-d1-shots0.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"first_prompt": content["first_prompt"].replace("Python", "Julia")}))
    with pytest.raises(CheckpointError, match="other words"):
        run(tmp_path, ("code",), (1,))
    file.write_text(json.dumps(content | {"answers": content["answers"][1:]}))
    with pytest.raises(CheckpointError, match="must hold 6 answers, it holds 5"):
        run(tmp_path, ("code",), (1,))


def test_unfinished_cells_are_no_rows(tmp_path):
    config = quiz(MODEL, **SETTINGS)
    run(tmp_path, ("code",), (1,))
    assert len(results(tmp_path, sheets(config, ("code", "share"), (1, 2)))) == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("llama"), MODEL)


def test_the_command_prints_a_table_in_80_columns_and_goes_on(folder, tmp_path):
    options = ["llm", "--model", folder, "--output-dir", tmp_path, "--questions", 3, "--few-shot-questions", 2, "--hops", "1,2"]
    options += ["--formulation", "relatives"]
    table = stackheads_text(*options)
    assert table.returncode == 0
    assert all(len(line) <= 80 for line in table.stdout.splitlines())
    assert (table.stdout.count("relatives"), table.stderr) == (4, "")
    other = stackheads_text(*options, "--plain")
    assert (other.returncode, other.stdout, other.stderr.count("\n")) == (2, "", 1)
    assert "choose another --output-dir" in other.stderr


def test_json_is_one_object(folder, tmp_path, capsys):
    asked = {"questions": 3, "few_shot_questions": 0, "hops": "1", "formulation": "code"}
    cli.llm(model=str(folder), output_dir=tmp_path, **asked, json=True, quiet=True)
    content = json.loads(capsys.readouterr().out)
    assert (content["chat"], content["dtype"], len(content["cells"])) == (True, "float32", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hops": "9"},
        {"hops": "one"},
        {"hops": "3..1"},
        {"hops": "0"},
        {"hops": "1..1000000000000"},
        {"hops": "1,2,"},
        {"formulation": "riddles"},
        {"dtype": "int3"},
        {"questions": -1},
        {"questions": 0, "few_shot_questions": 0},
        {"shots": 0},
        {"batch": 0},
        {"threads": 0},
        {"seed": -1},
        {"device": "toaster"},
        {"model": "nowhere"},
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(wrong, tmp_path):
    """The model is not there: who loads it first says so."""
    with pytest.raises(StackheadsError) as caught:
        cli.llm(**{"model": "nowhere", "output_dir": tmp_path / "quiz", "questions": 2, "quiet": True, **wrong})
    assert "\n" not in str(caught.value)
    assert ("nowhere" in str(caught.value)) == ("model" in wrong)
    assert not (tmp_path / "quiz").exists()
