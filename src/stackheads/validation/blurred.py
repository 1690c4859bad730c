"""Compiled circuits at the edge: attention blurred as far as they still give 99 % of their answers."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from stackheads.labelling.bench import bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.validation.specimens import CIRCUITS, Guise, specimen

EXAMPLES = 256
SHARPNESSES = (4.0, 5.0, 6.0, 8.0, 10.0)
ANSWERED = 0.99


def blurred(circuit: str, guise: Guise) -> Guise:
    """The guise with the least sharp attention with which the circuit still gives its answers. Cost: a few forward passes."""
    wanted = _accuracy(circuit, guise)
    for sharpness in SHARPNESSES:
        less = replace(guise, sharpness=sharpness)
        if bool((_accuracy(circuit, less) >= ANSWERED * wanted).all()):
            return less
    return guise


def _accuracy(circuit: str, guise: Guise) -> Float[Tensor, "readout"]:
    made = specimen(circuit, CIRCUITS[circuit](), guise)
    batch = made.task.sample(EXAMPLES, stream(guise.seed, Stream.BLURRED))
    return bench_of(made.model, made.task, batch, Thresholds()).baseline.accuracy
