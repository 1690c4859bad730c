"""Plain mistakes in Python, as they come to those whose types nobody checks: one line each, and nothing is written."""

import json

import pytest
from forked import python_text

PATH = "is given by its path, got int: give a path"
NO_RUN = "orders are compared between runs that were followed, got "
MISTAKES = {
    "found.save(5)": PATH,
    "found.to_html(5)": PATH,
    "found.to_json(5)": PATH,
    "found.to_html('page.html', examples=1.5)": "examples must be a whole number, at least 0, got 1.5: ask for 8",
    "found.show(example=1.5)": "an example is one of 0..31, got 1.5",
    "found.trial(examples=32.0)": "examples must be a whole number, at least 16, got 32.0",
    "Analysis.load(5)": PATH,
    "Emergence.load(5)": PATH,
    "load(5)": PATH,
    "load_gpt2(5, it.task)": PATH,
    "save_checkpoint(5, it.model, it.task, it.config)": PATH,
    "save_figures(found, 5)": PATH,
    "save_figure(None, 5)": PATH,
    "emergence(5)": PATH,
    "emergence('run', examples=16.5)": "examples must be a whole number, at least 16 for an interval, got 16.5",
    "emergence('run', bootstraps=None)": "bootstraps must be a whole number between 0 and 100, got None",
    "emergence('run', seed=0.5)": "a seed is an int in 0..4294967295, got 0.5",
    "orders_agree(['run'])": NO_RUN + "str",
    "orders_agree('run')": NO_RUN + "str",
    "orders_agree(5)": NO_RUN + "int",
    "train('cycle', it.config)": "got str without name",
    "train({'kind': 'cycle'}, it.config)": "got dict without name",
    "train(Cycle, it.config)": "got the class Cycle",
    "train(it.task, it.config, output_dir=5)": PATH,
    "train(it.task, it.config, output_dir='/proc/run')": "must be writable",
    "train(it.task, it.config, start_from='run')": "start_from is a Checkpoint, got 'run'",
    "check(it.task, examples=1.5)": "the number of examples must be a whole number, at least 1, got 1.5",
    "depth(it.task, examples=1.5)": "the number of examples must be a whole number, at least 1, got 1.5",
    "select_heads(it.model, it.task, 1.5)": "keep must be a whole number between 0 and 6, the heads of the model, got 1.5",
}
MADE = """
import json
from stackheads import Analysis, Emergence, analyze, emergence, load, train
from stackheads.errors import StackheadsError
from stackheads.explanation.selection import select_heads
from stackheads.models import load_gpt2, save_checkpoint
from stackheads.report.figures import save_figure, save_figures
from stackheads.tasks import Cycle, check
from stackheads.theory.depth import depth
from stackheads.timeline.orders import orders_agree
it = load({checkpoint!r})
found = analyze(it, examples=32, progress=False, explain=False)
told = {{}}
for call in {calls!r}:
    try:
        told[call] = repr(eval(call))
    except StackheadsError as error:
        told[call] = str(error)
    except Exception as error:
        told[call] = "a traceback:\\n" + repr(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(checkpoints, tmp_path_factory):
    """What each call says, where it left anything, and where they ran."""
    folder = tmp_path_factory.mktemp("mistakes")
    done = python_text(MADE.format(checkpoint=str(checkpoints / "cycle-d4-l3"), calls=list(MISTAKES)), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not any(folder.iterdir())
    return json.loads(done.stdout)


@pytest.mark.parametrize("call", MISTAKES)
def test_a_plain_mistake_is_one_line(told, call):
    assert MISTAKES[call] in told[call]
    assert "\n" not in told[call]
