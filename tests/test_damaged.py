"""Whatever happens to a stored file, reading it gives what can be shown or one line that says what is wrong, never a traceback.

Each kind of file is written whole, then damaged: a value at any depth dropped or replaced, the text cut short, bytes changed.
"""

import copy
import io
import json
import shutil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from report import every

from stackheads import Analysis, Emergence, load
from stackheads.errors import CheckpointError, StackheadsError
from stackheads.models import ModelConfig
from stackheads.quiz import quiz
from stackheads.report.emergence import print_emergence
from stackheads.report.figures import circuit_diagram, timeline
from stackheads.report.page import page
from stackheads.report.sweep import print_sweep
from stackheads.report.terminal import print_analysis
from stackheads.sweeps.plans import plans, read_sweep
from stackheads.sweeps.sweep import open_sweep
from stackheads.sweeps.workers import Outcome, write_tables
from stackheads.tasks import Cycle
from stackheads.tasks.prompts import Prompts
from stackheads.training.config import TrainingConfig
from stackheads.training.run import open_run, read_metrics
from stackheads.training.trainer import train

TASK = Cycle(symbols=4, max_hops=1)
MODEL = ModelConfig(layers=1, heads=1, d_model=8, d_head=4)
TRAINING = TrainingConfig(steps=2, batch=2, evaluate_every=1, evaluate_examples=4)
SWEEP = """
task: {kind: cycle, symbols: 4, max_hops: 1}
model: {layers: 1, heads: 1}
grid: {training.stop_at: [null, 1], training.seed: {range: 1}}
"""
SHEET = quiz.Sheet(Prompts(formulation="code", hops=1), 0, 2)
ASKED = {"first_prompt": "?", "answers": [{"right": "a", "given": "a"}, {"right": "b", "given": "a"}]}


def small_analysis():
    """Every kind of value that an analysis stores, in few rows."""
    made = every.analysis()
    object.__setattr__(made, "labels", made.labels.iloc[:6])
    return made


def show_analysis(folder):
    found = Analysis.load(folder)
    print_analysis(found, io.StringIO())
    page(found)
    circuit_diagram(found)


def show_emergence(folder):
    found = Emergence.load(folder)
    print_emergence(found, io.StringIO())
    timeline(found)


def write_sweep(folder):
    (folder / "sweep.yaml").write_text(SWEEP)
    open_sweep(read_sweep(folder / "sweep.yaml"), folder / "s")
    for plan in plans(read_sweep(folder / "sweep.yaml")):
        result = {"cell": plan.name, **plan.varied, "steps": 2, "solved": True, "solved_at": 1, "accuracy_1": 1.0}
        (folder / "s" / "cells" / plan.name).mkdir(parents=True)
        (folder / "s" / "cells" / plan.name / "result.json").write_text(json.dumps(result))


def show_sweep(folder):
    made = open_sweep(read_sweep(folder / "sweep.yaml"), folder / "s")
    outcome = Outcome(folder, len(made), *write_tables(folder / "s", made), [])
    print_sweep(outcome, io.StringIO())
    json.dumps(outcome.to_dict(), allow_nan=False)


def write_quiz(folder):
    quiz.open_folder(quiz_config(), folder)
    (folder / "cells").mkdir()
    (folder / SHEET.file).write_text(json.dumps(ASKED))


def quiz_config():
    return quiz.Quiz(model="m", bytes=1, dtype="float32", chat=False, seed=0, questions=2, few_shot_questions=0)


def show_quiz(folder):
    quiz.open_folder(quiz_config(), folder)
    assert len(quiz.results(folder, [SHEET])) == 1


def show_run(folder):
    read_metrics(open_run(folder, TASK, MODEL, TRAINING, resume=True), 2)


KINDS = {
    "analysis": (lambda folder: small_analysis().save(folder), show_analysis, "analysis.json"),
    "emergence": (lambda folder: every.emergence().save(folder), show_emergence, "emergence.json"),
    "run": (lambda folder: train(TASK, MODEL, TRAINING, folder, progress=False), show_run, "run.json"),
    "metrics": (lambda folder: train(TASK, MODEL, TRAINING, folder, progress=False), show_run, "metrics.jsonl"),
    "checkpoint": (lambda folder: train(TASK, MODEL, TRAINING, folder, progress=False), load, "step-000002/config.json"),
    "sweep": (write_sweep, show_sweep, "s/sweep.json"),
    "result": (write_sweep, show_sweep, "s/cells/stop-at-None-seed-0/result.json"),
    "quiz": (write_quiz, show_quiz, "quiz.json"),
    "answers": (write_quiz, show_quiz, SHEET.file),
}
OTHER = [None, True, -1, 0, 2.5, 10**30, "", "L0H10", "none", "NaN", [], [1], {}, {"a": 1}, float("nan"), float("inf")]


@pytest.fixture(scope="module", params=KINDS)
def stored(request, tmp_path_factory):
    """A kind of file as it is written, and how it is read and shown."""
    write, show, name = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write(folder)
    found = folder / name if (folder / name).exists() else next(folder.glob("s/cells/*None*/result.json"))
    whole = folder.with_name(folder.name + "-whole")
    shutil.copytree(folder, whole)
    return folder, found, found.read_bytes(), show


def read(stored, content):
    """What the damaged file gives: nothing where it can still be shown, else the error, which is one line."""
    folder, path, _, show = stored
    path.write_bytes(content)
    said = None
    try:
        show(folder)
    except StackheadsError as error:
        said = str(error)
    assert said is None or "\n" not in said
    return said


def places(value, before=()):
    """The path of every value in a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*before, key)
        yield from places(child, (*before, key))


def damaged(content, place, other):
    """The same with the value at a place replaced, or dropped where `other` is Ellipsis."""
    content = copy.deepcopy(content)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    if other is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = other
    return content


def test_whole_files_are_read(stored):
    assert read(stored, stored[2]) is None


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[]", b"3", b'"text"', b"{}", b"\x80\x02}", b"[" * 100_000, b'{"format": NaN}']
)
def test_what_is_another_thing_altogether_is_one_line(stored, text):
    assert read(stored, text) is not None or stored[1].name == "metrics.jsonl"


@settings(max_examples=80)
@given(st.data())
def test_any_value_dropped_or_replaced(stored, data):
    lines = [json.loads(line) for line in stored[2].splitlines()] if stored[1].suffix == ".jsonl" else [json.loads(stored[2])]
    place = data.draw(st.sampled_from(sorted(places(lines[0]), key=str)))
    other = data.draw(st.sampled_from([..., *OTHER]))
    lines[0] = damaged(lines[0], place, other)
    read(stored, "\n".join(json.dumps(line) for line in lines).encode())


@settings(max_examples=40)
@given(st.data())
def test_any_part_cut_off_or_changed(stored, data):
    whole = stored[2]
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.sampled_from([0, 1, 7, len(whole)]))
    instead = data.draw(st.sampled_from([b"", b"\x00", b"\xff\xfe", b"}", b"9" * 30]) | st.binary(max_size=8))
    content = whole[:start] + instead + whole[start + length :]
    assume(content != whole)
    read(stored, content)


def test_a_folder_in_the_files_place_is_one_line(stored):
    folder, path, content, show = stored
    path.unlink()
    path.mkdir()
    try:
        with pytest.raises(StackheadsError) as caught:
            show(folder)
        assert "\n" not in str(caught.value)
    finally:
        path.rmdir()
        path.write_bytes(content)


def put(*place, is_=None):
    """A damage: another value at a place."""
    return lambda content: damaged(content, place, is_)


def twice(table):
    return lambda content: content | {table: [*content[table], content[table][0]]}


def of_confirmed(**values):
    """Other values in the first row that is confirmed in a hop."""

    def damage(content):
        rows = [row | values if row is first(content) else row for row in content["labels"]]
        return content | {"labels": rows}

    def first(content):
        return next(row for row in content["labels"] if row["status"] == "confirmed" and row["role"] == "hop")

    return damage


OF_EITHER = {
    "examples below one": put("examples", is_=-1),
    "no examples": put("examples", is_=0),
    "a seed below zero": put("seed", is_=-1),
    "a seed of more bits": put("seed", is_=2**32),
    "a model without heads": put("model", "heads", is_=0),
    "a model of one layer": put("model", "layers", is_=1),
}
CONTRADICTIONS = {
    "analysis": OF_EITHER
    | {
        "a head in another layer": put("labels", 0, "head", is_="L9H9"),
        "a head that the model lacks": of_confirmed(head="L9H9", layer=9),
        "confirmed in no role": of_confirmed(role=None, hop=None, selector=None),
        "a selector of no role": of_confirmed(role=None, hop=None, status="none"),
        "a hop without its number": of_confirmed(hop=None),
        "a number without a role": of_confirmed(role="previous"),
        "a row on no examples": of_confirmed(examples=-1),
        **{f"a row of {table} twice": twice(table) for table in ("labels", "readouts", "effects")},
        "an accuracy that no readout has": put("accuracy", is_={"1": 0.5}),
        "an accuracy above one": put("accuracy", is_={"1": 5}),
        "an accuracy of a readout above one": put("readouts", 0, "accuracy", is_=5.0),
        "hops that no label has": put("hops", is_={}),
        "an agreement below zero": put("program_agreement", is_={"1": -1.0}),
        "a stability above one": put("bootstrap_jaccard", is_=2.0),
        "a carrying head in another layer": put("carried", 0, "head", is_="L9H9"),
        "a cell in another layer": put("circuit", "nodes", 1, "head", is_="L9H9"),
    },
    "emergence": OF_EITHER
    | {
        "a head in another layer": put("heads", 0, "head", is_="L9H9"),
        "a cell in another layer": put("steps", 1, "head", is_="L9H9"),
        "a cell in no role": put("steps", 1, "role", is_=None),
        "a row of another cell": put("heads", 0, "destination", is_="key"),
        "too many resamplings": put("bootstraps", is_=101),
        "an accuracy above one": put("accuracy", "100", "1", is_=5),
    },
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A saved analysis and emergence with rows of every kind."""
    folder = tmp_path_factory.mktemp("sound")
    for kind in CONTRADICTIONS:
        getattr(every, kind)().save(folder / kind)
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CONTRADICTIONS.items() for name in names])
def test_what_contradicts_itself_is_damaged(sound, tmp_path, kind, name):
    shutil.copytree(sound / kind, tmp_path / kind)
    path, load_it = tmp_path / kind / f"{kind}.json", {"analysis": Analysis.load, "emergence": Emergence.load}[kind]
    load_it(tmp_path / kind)
    path.write_text(json.dumps(CONTRADICTIONS[kind][name](json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match="is damaged at") as caught:
        load_it(tmp_path / kind)
    assert "\n" not in str(caught.value)
