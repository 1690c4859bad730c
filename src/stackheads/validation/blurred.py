"""Compiled circuits at the edge: attention blurred as far as what is said of them by construction stays true.

They must still give 99 % of their answers, and heads of which by construction nothing depends must still carry nothing: soft
attention brings a little of everything, also where a head is parked at the start, and what one head takes off again another
must have written in full. Heads that set their own sharpness keep it: where soft weights are what a head is about, less would
be another circuit.
"""

import math
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import ablate, destination_rows
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.types import Status
from stackheads.validation.specimens import Circuit, Guise, Specimen, specimen

EXAMPLES = 256
SHARPNESSES = (4.0, 5.0, 6.0, 8.0, 10.0)
ANSWERED = 0.99
SILENT = (Status.NONE, Status.PATTERN_ONLY)


def blurred(name: str, circuit: Circuit, guise: Guise) -> Guise:
    """The guise with the least sharp attention of which all that is still so; the same guise where there is none.

    Cost: a forward pass for each sharpness, and one for each head and destination that carries nothing.
    """
    _, wanted = _answering(name, circuit, guise)
    for sharpness in SHARPNESSES:
        less = replace(guise, sharpness=sharpness)
        (made, bench), accuracy = _answering(name, circuit, less)
        if bool((accuracy >= ANSWERED * wanted).all()) and loudest(made, bench) < Thresholds().min_effect:
            return less
    return guise


def _answering(name: str, circuit: Circuit, guise: Guise) -> tuple[tuple[Specimen, Bench], Float[Tensor, "readout"]]:
    made = specimen(name, circuit, guise)
    batch = made.task.sample(EXAMPLES, stream(guise.seed, Stream.BLURRED))
    bench = bench_of(made.model, made.task, batch, Thresholds())
    return (made, bench), bench.baseline.accuracy


def loudest(made: Specimen, bench: Bench) -> float:
    """The largest share of an answer that resampling a head takes or adds where by construction nothing depends on it; infinite
    where no answer is open, since nothing shows then.
    """
    if not bench.open_readouts:
        return math.inf
    found = [0.0]
    for (head, place), truth in made.truth.items():
        if truth.status in SILENT and bool(destination_rows(bench.clean.batch, place).any()):
            margin = bench.scorer.margin(ablate(made.model, bench.clean, [head], place, read=bench.scorer.read))
            found.append(float((1 - bench.recovered(margin))[bench.open_readouts].abs().max()))
    return max(found)
