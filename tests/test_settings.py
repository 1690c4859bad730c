"""Settings that can't be are told in a line, however they are given; those that can be travel as they are."""

import copy
import pickle
from typing import Any

import pytest

from stackheads.errors import ConfigError
from stackheads.models import ModelConfig
from stackheads.quiz.quiz import Quiz
from stackheads.sweeps.plans import SweepConfig
from stackheads.tasks import KINDS, Cycle
from stackheads.tasks.prompts import Prompts
from stackheads.training.config import TrainingConfig

RIGHT: dict[type[Any], dict[str, Any]] = {
    ModelConfig: {"layers": 2, "heads": 1},
    TrainingConfig: {"steps": 5},
    Cycle: {"symbols": 8, "max_hops": 2},
    Prompts: {"formulation": "code", "hops": 1},
    SweepConfig: {"task": {}, "model": {}},
    Quiz: {"model": "m", "bytes": 1, "dtype": "float32", "chat": False, "seed": 0, "questions": 1, "few_shot_questions": 0},
}
WRONG = [
    (ModelConfig, {"layers": 0}),
    (ModelConfig, {"heads": None}),
    (ModelConfig, {"d_mlp": float("nan")}),
    (ModelConfig, {"unknown": 1}),
    (ModelConfig, {"d_head": 5, "positions": "rotary"}),
    (TrainingConfig, {"steps": -1}),
    (TrainingConfig, {"lr": float("inf")}),
    (TrainingConfig, {"betas": (0.9, 1.0)}),
    (TrainingConfig, {"seed": -1}),
    (Cycle, {"symbols": "x"}),
    (Cycle, {"max_hops": None}),
    (Prompts, {"formulation": "riddle"}),
    (SweepConfig, {"success": 2}),
    (Quiz, {"questions": -1}),
    *((kind, {"max_hops": "x"}) for kind in KINDS.values()),
]


@pytest.mark.parametrize(("kind", "wrong"), WRONG)
def test_settings_that_can_not_be_are_one_line(kind, wrong):
    given = RIGHT.get(kind, {}) | wrong
    for make in (lambda: kind(**given), lambda: kind.model_validate(given)):
        with pytest.raises(ConfigError, match=r", got .*: ") as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "given"), RIGHT.items())
def test_settings_that_can_be_travel(kind, given):
    made = kind(**given)
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made.model_copy() == made
    assert kind.model_validate(made) == kind.model_validate_json(made.model_dump_json()) == kind(**made.model_dump()) == made
    assert made.model_fields_set == set(given)
