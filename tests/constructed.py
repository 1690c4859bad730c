"""Training runs whose emergence is known by construction: snapshots are compiled circuits with heads silenced.

`untrained`  random weights: nothing is confirmed, no hop is answered;
`first`      the doubling circuit with the last layer's W_O at 0: hop 1 is answered, by `previous` and hop 1;
`whole`      the whole circuit: its last layer looks two hops ahead and hop 2 is answered.
"""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

from stackheads.models import build, save_checkpoint
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Retrieval
from stackheads.validation.truth import labels_by_construction

TASK = Retrieval(chains=3, max_hops=2, attention_dir="causal")
LAYERS = lower(doubling(2))
EARLY = ["L0H0 @value previous", "L1H0 @query hop 1", "L1H0 @value hop 1"]
LATE = "L2H0 @query hop 2"


def truth(state):
    """The right label of every (head, destination) of the `first` or the `whole` circuit."""
    silent = (*LAYERS[:2], tuple(replace(head, copies=()) for head in LAYERS[2]))
    return labels_by_construction(silent if state == "first" else LAYERS, TASK)


def write_run(folder: Path, *states: str) -> Path:
    """A run folder with these snapshots, at steps 100, 200, …"""
    for number, state in enumerate(states, start=1):
        model, config = model_of(state)
        save_checkpoint(folder / f"step-{100 * number:06d}", model, TASK, config, {"seed": 0, "steps": 100 * len(states)})
    return folder


@cache
def model_of(state):
    model, config = compile_layers(LAYERS, TASK, rotation_seed=0)
    if state == "untrained":
        return build(config, TASK, seed=1), config
    if state == "first":
        model = deepcopy(model)
        model.blocks[2].attn.W_O.data.zero_()
    return model, config
