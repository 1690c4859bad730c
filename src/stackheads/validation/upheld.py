"""Is what is said of a compiled circuit by construction so? By forward passes, and by no label.

It must give its answers; heads of which by construction nothing depends must carry nothing, since soft attention, noise and
LayerNorm bring a little of everything, also where a head is parked; and what is said to carry must be worth saying.
"""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import ablate, destination_rows
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.types import Status
from stackheads.validation.specimens import Circuit, Guise, Specimen, specimen

EXAMPLES = 256
ANSWERED = 0.99
SILENT = (Status.NONE, Status.PATTERN_ONLY)


def answering(
    name: str, circuit: Circuit, guise: Guise, use: Stream
) -> tuple[tuple[Specimen, Bench], Float[Tensor, "readout"]]:
    """A circuit in a guise, measured on examples of this use, with its accuracy. Cost: one forward pass."""
    made = specimen(name, circuit, guise)
    bench = bench_of(made.model, made.task, made.task.sample(EXAMPLES, stream(guise.seed, use)), Thresholds())
    return (made, bench), bench.baseline.accuracy


def loudest(made: Specimen, bench: Bench) -> float:
    """The largest share of an answer that resampling a head takes or adds where by construction nothing depends on it; infinite
    where no answer is open, since nothing shows then. Cost: a forward pass for each such head and destination.
    """
    return max([0.0, *_moved(made, bench, carrying=False)]) if bench.open_readouts else math.inf


def faintest(made: Specimen, bench: Bench) -> float:
    """The least of what the others take or add, each of the answer of which it takes most; 0 where no answer is open."""
    return min(_moved(made, bench, carrying=True), default=math.inf) if bench.open_readouts else 0.0


def _moved(made: Specimen, bench: Bench, carrying: bool) -> Iterator[float]:
    """The largest share of an answer that resampling takes or adds, of each head that carries something or of each other."""
    for (head, place), truth in made.truth.items():
        if (truth.status not in SILENT) == carrying and bool(destination_rows(bench.clean.batch, place).any()):
            margin = bench.scorer.margin(ablate(made.model, bench.clean, [head], place, read=bench.scorer.read))
            yield float((1 - bench.recovered(margin))[bench.open_readouts].abs().max())
