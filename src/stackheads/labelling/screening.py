"""Screening: in a model of hundreds of heads, which cells (head, destination) are worth exact interventions?

A cell is a candidate if its attention pattern passes (channel 1, which costs nothing beyond the clean run) in a role other than
`start` – in language models most heads rest on the first token (attention sinks: Xiao et al. 2023, arXiv 2309.17453) – or if
its guessed effect is among the `top` largest in size. The guess is attribution patching (`interventions/attribution.py`): the
first-order change of the summed margin of a readout when the head's output at the destination is replaced by that on the
matched example – what resample ablation does – as a share of the readout's gap; of several readouts that the model answers,
the largest share.

Candidates go through all channels as without screening, except that mean and zero ablation, which are reported beside the
resample ablation that carries the verdict, are made only where that finds something. The others were not tested: they get
`evidence` "screened" instead of "exact", the status `undecided`, and the guess as their effect, without an interval. A screened
cell that matters all the same is missed: how many do can be measured by interventions on a sample of them. Where the model
answers nothing there is nothing to destroy, and no candidate.
Pairs of heads are not ablated – a language model has dozens that look at the previous token – so no head is `redundant`.

Cost: a forward and a backward pass for each readout, on `chunk` examples at a time, whose activations are what takes memory.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows
from stackheads.interventions.attribution import gradients
from stackheads.labelling.patterns import PatternEvidence
from stackheads.labelling.readouts import Baseline, Scorer
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, pattern_answer
from stackheads.limits import check_number
from stackheads.models.protocol import Model
from stackheads.types import Destination, HeadId, Role, Where

Cell = tuple[HeadId, Where]
RESTING = Role("start")
"""Where a head looks that has nothing to look for."""


@dataclass(frozen=True)
class Screen:
    """How to screen: how many cells are candidates by their guessed effect, and how many examples the guess runs at a time."""

    top: int = 32
    chunk: int = 8

    def __post_init__(self) -> None:
        check_number("a screen's top", self.top, 0, cure="give the number of cells to measure")
        check_number("a screen's chunk", self.chunk, 1, cure="give the number of examples to run at a time")


def guessed_effects(
    model: Model, clean: Recorded, scorer: Scorer, baseline: Baseline, destinations: list[Destination], chunk: int
) -> dict[Cell, float]:
    """For every cell the guessed share of the gap that resample ablation destroys; 0 where the model answers nothing.

    Of the readouts that the model answers, the share that is largest in size.
    """
    open_readouts = baseline.open.nonzero().flatten().tolist()
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    rows = torch.stack([destination_rows(clean.batch, place) for place in destinations])
    change = torch.stack([clean.matched.of(z) for z in clean.run.z]) - clean.run.z
    best = torch.zeros(len(destinations), layers, heads, dtype=torch.double)
    for number in open_readouts:
        moved = torch.zeros_like(best)
        for start in range(0, len(clean.batch), chunk):
            part = slice(start, start + chunk)
            some = scorer.part(part)
            pads = None if clean.batch.pads is None else clean.batch.pads[part]
            found = gradients(model, clean.batch.tokens[part], partial(_total_margin, some, number), pads=pads)
            local = torch.einsum("lbphd,lbphd->lbph", found, change[:, part])
            moved += torch.einsum("lbph,tbp->tlh", local, rows[:, part].to(local.dtype)).double().cpu()
        share = -moved / baseline.gap[:, number].double().sum().cpu()
        best = torch.where(share.abs() > best.abs(), share, best)
    return {
        (HeadId(layer, index), destination): best[place, layer, index].item()
        for place, destination in enumerate(destinations)
        for layer in range(layers)
        for index in range(heads)
    }


def candidates(
    patterns: dict[Cell, PatternEvidence], guesses: dict[Cell, float], top: int, thresholds: Thresholds
) -> set[Cell]:
    """The cells that go through all channels."""
    largest = sorted(guesses, key=lambda cell: (-abs(guesses[cell]), cell[0], cell[1]))[:top]
    looking = {
        cell for cell, found in patterns.items() if found.role != RESTING and pattern_answer(found, thresholds) == Answer.YES
    }
    return looking | set(largest)


def _total_margin(scorer: Scorer, readout: int, logits: Tensor) -> Float[Tensor, ""]:
    return scorer.margin(logits)[:, readout].sum()
