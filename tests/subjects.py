"""Models whose labels must not depend on how they are written down, by name: compiled circuits and trained ones."""

from functools import cache
from pathlib import Path

from stackheads import load
from stackheads.models.trust import fingerprint
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
COMPILED = {
    "one hop per layer": Guise(rotate=False, permute=False, noise=0.1),
    "tripling": Guise(seed=2, normalization=None),
    "f: against": Guise(seed=3, noise=0.1),
    "i: two hops": Guise(seed=4),
}
TRAINED = ("cycle-d4-l3", "chain-d4-l4", "khop-k2-l3")
SUBJECTS = (*COMPILED, *TRAINED)


AS_MADE: dict[str, str] = {}
"""The fingerprint of each model that was asked for, which all tests share."""


@cache
def subject(name):
    """A model and its task. A test that changes the model leaves it as it was."""
    made = specimen(name, SMALL[name](), COMPILED[name]) if name in COMPILED else load(CHECKPOINTS / name)
    AS_MADE[name] = fingerprint(made.model)
    return made.model, made.task


def changed():
    """The models that are not as they were made."""
    return [name for name, before in AS_MADE.items() if fingerprint(subject(name)[0]) != before]
