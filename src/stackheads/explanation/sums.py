"""A model whose heads all look where sums of selectors say, or are silent: what it answers, and how far that is from its own.

A head of which all selectors are roles is silent, too, where none of them names a source: its label says nothing there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench
from stackheads.labelling.selectors import Rows, Selector, make_rows
from stackheads.models.forwards.patterned import Patterned
from stackheads.types import Destination, HeadId

MARGIN = 10.0
"""Weight of the mean squared loss of the recovered shares: 3 % of one of them weigh like 0.01 nats."""

LEAST_ASKED = 64
"""A readout that is asked at fewer places of the examples is not fitted to: its share is too noisy."""

LEAST = 1e-9
"""Attention that counts as none."""

Taken = tuple[Destination, Selector]
Part = tuple[Destination, int, Selector | None]
"""A head at a destination as a whole (None), or one of its selectors. Heads are numbered through all layers."""


@dataclass(frozen=True)
class Sum:
    """The weights of all heads' selectors, which heads have which, and which are not silent at each destination."""

    weights: Mapping[Taken, Float[Tensor, "head size value"]]
    has: Mapping[Taken, Bool[Tensor, "head"]]
    live: Mapping[Destination, Bool[Tensor, "head"]]

    @property
    def heads(self) -> int:
        """Heads of all layers."""
        return len(next(iter(self.live.values())))

    def of(self, destination: Destination, head: int) -> dict[Selector, Float[Tensor, "1 size value"]]:
        """The weights of one head at one destination."""
        return {
            selector: self.weights[place, selector][head : head + 1]
            for (place, selector), has in self.has.items()
            if place == destination and bool(has[head])
        }

    def at(self, destination: Destination) -> dict[Selector, Tensor]:
        """The weights of one destination, 0 where a head has a selector not."""
        return {
            selector: self.weights[place, selector] * self.has[place, selector][:, None, None]
            for place, selector in self.weights
            if place == destination and bool(self.has[place, selector].any())
        }

    def without(self, dropped: Iterable[Part]) -> "Sum":
        """Some heads silenced and some selectors gone."""
        has = {taken: marks.clone() for taken, marks in self.has.items()}
        live = {place: marks.clone() for place, marks in self.live.items()}
        for place, head, selector in dropped:
            if selector is None:
                live[place][head] = False
            else:
                has[place, selector][head] = False
        return Sum(self.weights, has, live)

    def offering(self, more: Mapping[Taken, tuple[int, int]], device: torch.device) -> "Sum":
        """Further selectors, of these shapes, for every head that is not silent, with weights of 0."""
        weights, has = dict(self.weights), dict(self.has)
        for taken, shape in more.items():
            weights[taken] = torch.zeros(self.heads, *shape, device=device)
            has[taken] = self.live[taken[0]].clone()
        return Sum(weights, has, self.live)

    def alone(self, cells: Collection[tuple[Destination, int]]) -> "Sum":
        """With all heads silent but these, at these destinations."""
        return self.without((*cell, None) for cell in self.cells() if cell not in cells)

    def without_bare(self) -> "Sum":
        """With those heads silent of which no selector is left."""
        return self.alone({(place, head) for place, head, _ in self.taken()})

    def only(self, kinds: Iterable[str], gated: bool = True) -> "Sum":
        """Selectors of these kinds alone."""
        kept = {
            (place, selector): marks if selector.kind in kinds and (gated or selector.gate is None) else torch.zeros_like(marks)
            for (place, selector), marks in self.has.items()
        }
        return Sum(self.weights, kept, self.live)

    def parts(self) -> list[Part]:
        """Every head that is not silent, and every selector of these."""
        whole: list[Part] = [(place, head, None) for place, head in self.cells()]
        return [*whole, *self.taken()]

    def cells(self) -> list[tuple[Destination, int]]:
        """Every head, at each destination, that is not silent."""
        return [(place, head) for place, live in self.live.items() for head in live.nonzero().flatten().tolist()]

    def taken(self) -> list[tuple[Destination, int, Selector]]:
        """Every selector of a head that is not silent."""
        return [
            (place, head, selector)
            for (place, selector), has in self.has.items()
            for head in (has & self.live[place]).nonzero().flatten().tolist()
        ]

    @property
    def numbers(self) -> int:
        """How many numbers the selectors have."""
        return sum(self.weights[place, selector][head].numel() for place, head, selector in self.taken())


class Examples:
    """A bench on which sums of selectors are tried: its rows, its attention, its answers.

    Of the readouts that the bench takes for open, those are that are asked often enough. Raises `ConfigError` if none is.
    """

    def __init__(self, bench: Bench):
        batch, run = bench.clean.batch, bench.clean.run
        often = (bench.baseline.count.sum(dim=0) >= LEAST_ASKED).cpu()
        self.open = bench.baseline.open & often
        if not bool(self.open.any()):
            raise ConfigError(
                f"selectors are fitted to readouts that are asked at {LEAST_ASKED} places or more, {len(batch)} examples have "
                "none that the model answers: give more examples"
            )
        bench = replace(bench, baseline=replace(bench.baseline, open=self.open))
        self.bench, self.layers, self.in_layer = bench, run.pattern.shape[0], run.pattern.shape[2]
        self.heads = self.layers * self.in_layer
        places = [place for place in Destination if bool(destination_rows(batch, place).any())]
        self.rows: dict[Destination, Rows] = {place: make_rows(bench.task, batch, place) for place in places}
        given = torch.zeros_like(batch.slots, dtype=torch.bool)
        for rows in self.rows.values():
            given[rows.at[:, 0], rows.at[:, 1]] = True
        self.run = Patterned(
            bench.model, batch.tokens, run, given, bench.clean.hooked is not None, bench.clean.places, batch.pads
        )
        self.attention = {  # [head, row, source]
            place: run.pattern[:, rows.at[:, 0], :, rows.at[:, 1]].permute(1, 2, 0, 3).flatten(0, 1)
            for place, rows in self.rows.items()
        }
        self.asked = bench.scorer.where[self.open].any(dim=0)
        self.answers = self._centred(run.logits)
        self.log = self.answers.log_softmax(-1)
        self.size = self.answers.square().sum(dim=-1).mean()

    def head(self, number: int) -> HeadId:
        """The head of a number."""
        return HeadId(number // self.in_layer, number % self.in_layer)

    def everything(self) -> Sum:
        """No head silent, and none with a selector yet: all look as they do."""
        device = self.asked.device
        return Sum({}, {}, {place: torch.ones(self.heads, dtype=torch.bool, device=device) for place in self.rows})

    def patterns(self, chosen: Sum) -> dict[Destination, Float[Tensor, "head row source"]]:
        """Where each head looks at each destination: as it does where no selector has been offered yet."""
        if not chosen.weights:
            return self.attention
        return {place: rows.patterns(chosen.at(place), self.heads) for place, rows in self.rows.items()}

    def whole(self, patterns: Mapping[Destination, Tensor]) -> Float[Tensor, "layer batch head pos source"]:
        """The patterns of all destinations in one."""
        n, n_pos = self.run.rows.shape
        found = self.answers.new_zeros(n, n_pos, self.heads, n_pos)
        for place, rows in self.rows.items():
            found = found.index_put((rows.at[:, 0], rows.at[:, 1]), patterns[place].transpose(0, 1).to(found.dtype))
        return found.unflatten(2, (self.layers, self.in_layer)).permute(2, 0, 3, 1, 4)

    def silent(self, chosen: Sum) -> Bool[Tensor, "layer batch pos head"]:
        """Where each head gives its mean."""
        quiet = torch.zeros(*self.run.rows.shape, self.heads, dtype=torch.bool, device=self.asked.device)
        for place, rows in self.rows.items():
            heads = [rows.unnamed(chosen.of(place, head)) for head in range(self.heads)]
            quiet[rows.at[:, 0], rows.at[:, 1]] = ~chosen.live[place] | torch.stack(heads, dim=1)
        return quiet.unflatten(2, (self.layers, self.in_layer)).permute(2, 0, 1, 3)

    def _centred(self, logits: Tensor) -> Float[Tensor, "asked symbol"]:
        """The answers where an open readout is asked, centred."""
        found = self.bench.task.readout(logits, self.bench.clean.batch)[self.asked]
        return found - found.mean(dim=-1, keepdim=True)

    def distance(self, logits: Tensor) -> Float[Tensor, ""]:
        """How far the answers are from the clean run's (`selected.py`)."""
        answers = self._centred(logits)
        lost = (answers - self.answers).square().sum(dim=-1).mean() / self.size
        divergence = (self.log.exp() * (self.log - answers.log_softmax(-1))).sum(dim=-1).mean()
        kept = self.bench.recovered(self.bench.scorer.score(logits).margin)[self.open.to(logits.device)]
        return lost + divergence + MARGIN * (1 - kept).square().mean()

    def logits(self, chosen: Sum) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits with all heads looking where their selectors say. Cost: one forward pass."""
        return self.run.logits(self.whole(self.patterns(chosen)), self.silent(chosen))

    def recovered(self, chosen: Sum) -> Float[Tensor, "readout"]:
        """The recovered share of the gap, per readout of the bench. Cost: one forward pass."""
        with torch.no_grad():
            return self.bench.recovered(self.bench.scorer.score(self.logits(chosen)).margin).cpu()

    def recovered_by_another(self, chosen: Sum) -> Float[Tensor, "readout"]:
        """The same with every example looking where the selectors say for the next one. Cost: one forward pass."""
        with torch.no_grad():
            patterns, silent = self._anothers(self.whole(self.patterns(chosen))), self._anothers(self.silent(chosen))
            return self.bench.recovered(self.bench.scorer.score(self.run.logits(patterns, silent)).margin).cpu()

    def _anothers(self, values: Tensor) -> Tensor:
        """What another example has at each position, or, where layouts vary, at what is matched with it; batch is axis 1."""
        if self.bench.clean.places is None:
            return values.roll(1, dims=1)
        at = 3 if values.ndim == 5 else 2  # the axis of positions, behind the heads in patterns
        moved = [self.bench.clean.matched.of(layer.movedim(at - 1, 1)).movedim(1, at - 1) for layer in values]
        return torch.stack(moved)

    def worst(self, chosen: Sum) -> float:
        """The least recovered share of an open readout."""
        return self.recovered(chosen)[self.open].min().item()

    def entropy(self, patterns: Mapping[Destination, Tensor], live: Mapping[Destination, Tensor]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the attention of heads that are not silent to these patterns, in nats."""
        total, cells = self.answers.new_zeros(()), 0
        for place, target in self.attention.items():
            each = cross_entropy(target, patterns[place]).mean(dim=1)
            total, cells = total + (each * live[place]).sum(), cells + int(live[place].sum())
        return total / max(1, cells)

    def share(self, chosen: Sum, part: Part, patterns: Mapping[Destination, Tensor]) -> float:
        """The part of a head's attention that is elsewhere without one of its selectors; 1 for a head as a whole."""
        place, number, selector = part
        if selector is None:
            return 1.0
        without = self.rows[place].patterns(left(chosen, part), 1)[0]
        return float((patterns[place][number] - without).abs().sum(dim=-1).mean() / 2)

    def variants(self, chosen: Sum, parts: Sequence[Part]) -> Iterable[Float[Tensor, "batch pos d_vocab_out"]]:
        """Logits with each part dropped in turn. Cost: at most one forward pass each."""
        with torch.no_grad():
            whole, silent = self.whole(self.patterns(chosen)), self.silent(chosen)
            streams = self.run.streams(whole, silent)
            for place, number, selector in parts:
                layer, index, rows = number // self.in_layer, number % self.in_layer, self.rows[place]
                example, position = rows.at.unbind(dim=1)
                quiet, looks = silent.clone(), whole
                if selector is None:
                    quiet[layer, example, position, index] = True
                else:
                    others, looks = left(chosen, (place, number, selector)), whole.clone()
                    quiet[layer, example, position, index] = rows.unnamed(others)
                    looks[layer, example, index, position] = rows.patterns(others, 1)[0].to(looks.dtype)
                yield self.run.from_layer(layer, streams, looks, quiet)


def left(chosen: Sum, part: Part) -> dict[Selector, Tensor]:
    """The weights of the other selectors of a selector's head at its destination."""
    place, number, dropped = part
    return {selector: weight for selector, weight in chosen.of(place, number).items() if selector != dropped}


def cross_entropy(
    target: Float[Tensor, "*head row source"], pattern: Float[Tensor, "*head row source"]
) -> Float[Tensor, "*head row"]:
    """How badly a pattern tells attention, in nats."""
    return -(target * (pattern + LEAST).log()).sum(dim=-1)
