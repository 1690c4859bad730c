"""Models whose labels must not depend on how they are written down, by name: compiled circuits and trained ones."""

from functools import cache
from pathlib import Path

from stackheads import load
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


@cache
def subject(name):
    """A model and its task."""
    if name in COMPILED:
        made = specimen(name, SMALL[name](), COMPILED[name])
        return made.model, made.task
    checkpoint = load(CHECKPOINTS / name)
    return checkpoint.model, checkpoint.task
