"""Compiled circuits at the edge: attention blurred as far as they still give 99 % of their answers.

Heads that set their own sharpness keep it: where soft weights are what a head is about, less would be another circuit.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from stackheads.labelling.bench import bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.validation.specimens import Circuit, Guise, specimen

EXAMPLES = 256
SHARPNESSES = (4.0, 5.0, 6.0, 8.0, 10.0)
ANSWERED = 0.99


def blurred(name: str, circuit: Circuit, guise: Guise) -> Guise:
    """The guise with the least sharp attention with which the circuit still gives its answers. Cost: a few forward passes."""
    wanted = _accuracy(name, circuit, guise)
    for sharpness in SHARPNESSES:
        less = replace(guise, sharpness=sharpness)
        if bool((_accuracy(name, circuit, less) >= ANSWERED * wanted).all()):
            return less
    return guise


def _accuracy(name: str, circuit: Circuit, guise: Guise) -> Float[Tensor, "readout"]:
    made = specimen(name, circuit, guise)
    batch = made.task.sample(EXAMPLES, stream(guise.seed, Stream.BLURRED))
    return bench_of(made.model, made.task, batch, Thresholds()).baseline.accuracy
