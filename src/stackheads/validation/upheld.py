"""Is what is said of a compiled circuit by construction so? By forward passes, and by no label.

It must give its answers; heads of which by construction nothing depends must carry nothing, since soft attention, noise and
LayerNorm bring a little of everything, also where a head is parked; and what is said to carry must carry something.
"""

import math
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import ablation_edits, destination_rows, run_variants
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch
from stackheads.types import Destination, HeadId, Status
from stackheads.validation.specimens import Circuit, Guise, Specimen, specimen

EXAMPLES = 256
ANSWERED = 0.99
SILENT = (Status.NONE, Status.PATTERN_ONLY)
SILENCE, HEARD = 0.01, 0.04
"""Shares of an answer: what carries nothing may move less than the one, what carries something at least the other."""

Cell = tuple[HeadId, Destination]


def answering(name: str, circuit: Circuit, guise: Guise) -> tuple[tuple[Specimen, Bench], Float[Tensor, "readout"]]:
    """A circuit in a guise, measured, with its accuracy. Cost: one forward pass."""
    made = specimen(name, circuit, guise)
    bench = measured(made, made.task.sample(EXAMPLES, stream(guise.seed, Stream.BLURRED)))
    return (made, bench), bench.baseline.accuracy


def measured(made: Specimen, batch: Batch) -> Bench:
    """A circuit on examples. Cost: one forward pass."""
    return bench_of(made.model, made.task, batch, Thresholds())


def loudest(made: Specimen, bench: Bench) -> float:
    """The largest share of an answer that resampling a head takes or adds where by construction nothing depends on it; infinite
    where no answer is open, since nothing shows then. Cost: a forward pass for each such head and destination.
    """
    silent = [cell for cell, truth in made.truth.items() if truth.status in SILENT]
    return max([0.0, *moved(made, bench, silent).values()]) if bench.open_readouts else math.inf


def in_doubt(made: Specimen, bench: Bench) -> set[Cell]:
    """The cells of which what is said by construction is not clearly so: nothing depends on a head, and resampling it moves an
    answer by `SILENCE` or more, or something does, and it moves each by less than `HEARD`. All of them where an answer is given
    in less than 99 %.

    Cost: less than a forward pass for each head and destination.
    """
    if not bench.open_readouts or bool((bench.baseline.accuracy < ANSWERED).any()):
        return set(made.truth)
    share = moved(made, bench, list(made.truth))
    return {cell for cell in share if (share[cell] >= SILENCE if made.truth[cell].status in SILENT else share[cell] < HEARD)}


def moved(made: Specimen, bench: Bench, cells: Iterable[Cell]) -> dict[Cell, float]:
    """The largest share of an answer that resampling each head takes or adds, at destinations that there are."""
    there = [(head, place) for head, place in cells if bool(destination_rows(bench.clean.batch, place).any())]
    variants = [ablation_edits(bench.clean, [head], place) for head, place in there]
    runs = run_variants(made.model, bench.clean, variants, read=bench.scorer.read)
    shares = ((1 - bench.recovered(bench.scorer.margin(logits)))[bench.open_readouts].abs().max() for logits in runs)
    return {cell: float(share) for cell, share in zip(there, shares, strict=True)}
