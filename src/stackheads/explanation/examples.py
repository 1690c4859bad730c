"""Examples on which sums of selectors are fitted and tried: where heads look, what the model answers, and how far that is off.

`Looks` is what a fit to attention needs: where some heads look. `Examples` runs a model whose heads all look where sums of
selectors say, are silent, or look as they do. Selectors are fitted on the processor, head by head in many small steps: where a
model is on another device its attention is brought from there once, and the patterns of a run are brought there for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.explanation.sums import LEAST, Part, Sum, cross_entropy, left
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench
from stackheads.labelling.roles import visible
from stackheads.labelling.selectors import Rows, make_rows
from stackheads.models.forwards.patterned import Patterned, Silent
from stackheads.tasks import Task
from stackheads.tasks.layout import by_distance
from stackheads.types import Destination, HeadId

MARGIN = 10.0
"""Weight of the mean squared loss of the recovered shares: 3 % of one of them weigh like 0.01 nats."""

LEAST_ASKED = 64
"""A readout that is asked at fewer places of the examples is not fitted to: its share is too noisy."""


class Looks:
    """Where heads look from the rows of each destination."""

    def __init__(
        self,
        task: Task,
        rows: Mapping[Destination, Rows],
        attention: Mapping[Destination, Float[Tensor, "head row source"]],
    ):
        some = next(iter(attention.values()))
        self.task, self.rows, self.attention, self.heads, self.device = task, rows, attention, len(some), some.device

    def of(self, heads: Tensor) -> "Looks":
        """Those of some heads, numbered anew."""
        return Looks(self.task, self.rows, {place: attention[heads] for place, attention in self.attention.items()})

    def everything(self) -> Sum:
        """No head silent, and none with a selector yet: all look as they do."""
        return Sum({}, {}, {place: torch.ones(self.heads, dtype=torch.bool, device=self.device) for place in self.rows})


class Examples(Looks):
    """A bench on which sums of selectors are tried: its rows, its attention, its answers.

    Of the readouts that the bench takes for open, those are that are asked often enough. Raises `ConfigError` if none is, with
    the cure, which is not more examples where their number is not the caller's to choose.
    """

    def __init__(self, bench: Bench, cure: str = "give more examples"):
        run = bench.clean.run.whole()
        bench = replace(bench, clean=replace(bench.clean, run=run))
        batch = bench.clean.batch
        often = (bench.baseline.count.sum(dim=0) >= LEAST_ASKED).cpu()
        self.open = bench.baseline.open & often
        if not bool(self.open.any()):
            raise ConfigError(
                f"selectors are fitted to readouts that are asked at {LEAST_ASKED} places or more, {len(batch)} examples have "
                f"none that the model answers: {cure}"
            )
        bench = replace(bench, baseline=replace(bench.baseline, open=self.open))
        self.bench, self.layers, self.in_layer = bench, run.pattern.shape[0], run.pattern.shape[2]
        places = [place for place in Destination if bool(destination_rows(batch, place).any())]
        rows = {place: make_rows(bench.task, batch, place) for place in places}
        single = torch.promote_types(run.pattern.dtype, torch.float32)  # weights are not fitted in half precision
        attention = {  # [head, row, source]
            place: run.pattern[:, at[:, 0], :, at[:, 1]].permute(1, 2, 0, 3).flatten(0, 1).to(single)
            for place, at in ((place, here.at) for place, here in rows.items())
        }
        given = torch.zeros_like(batch.slots, dtype=torch.bool)
        for here in rows.values():
            given[here.at[:, 0], here.at[:, 1]] = True
        super().__init__(
            bench.task,
            {place: here.to("cpu") for place, here in rows.items()},
            {place: looks.cpu() for place, looks in attention.items()},
        )
        self.run = Patterned(
            bench.model, batch.tokens, run, given, bench.clean.hooked is not None, bench.clean.places, batch.pads
        )
        self.opened = self.open.nonzero().flatten().to(run.logits.device)
        self.asked = bench.scorer.where[self.opened].any(dim=0).nonzero(as_tuple=True)
        self.answers = self._centred(run.logits)
        self.log = self.answers.log_softmax(-1)
        self.size = self.answers.square().sum(dim=-1).mean()

    def head(self, number: int) -> HeadId:
        """The head of a number."""
        return HeadId(number // self.in_layer, number % self.in_layer)

    def number(self, head: HeadId) -> int:
        """The number of a head."""
        return head.layer * self.in_layer + head.index

    def patterns(self, chosen: Sum) -> dict[Destination, Float[Tensor, "head row source"]]:
        """Where each head looks at each destination: as it does where it is its own, or no selector has been offered yet."""
        if not chosen.weights:
            return dict(self.attention)
        told = {place: rows.patterns(chosen.at(place), self.heads) for place, rows in self.rows.items()}
        kept = {place: torch.where(own[:, None, None], self.attention[place], told[place]) for place, own in chosen.own.items()}
        return {**told, **kept}

    def whole(self, patterns: Mapping[Destination, Tensor]) -> Float[Tensor, "layer batch head pos source"]:
        """The patterns of all destinations in one."""
        n, n_pos = self.run.rows.shape
        found = torch.zeros(n, n_pos, self.heads, n_pos, dtype=self.answers.dtype)
        for place, rows in self.rows.items():
            found = found.index_put((rows.at[:, 0], rows.at[:, 1]), patterns[place].transpose(0, 1).to(found.dtype))
        return found.to(self.answers.device).unflatten(2, (self.layers, self.in_layer)).permute(2, 0, 3, 1, 4)

    def silent(self, chosen: Sum) -> Silent:
        """Where each head gives its mean."""
        quiet = {place: (~live).repeat(len(self.rows[place]), 1) for place, live in chosen.live.items()}
        for place, head in chosen.cells():
            quiet[place][:, head] |= self.rows[place].unnamed(chosen.of(place, head))
        return self._marked(quiet)

    def _marked(self, heads: Mapping[Destination, Tensor]) -> Silent:
        """Marks of heads at the rows of each destination, [row, head] or the same for all rows, in one."""
        found = torch.zeros(*self.run.rows.shape, self.heads, dtype=torch.bool)
        for place, marks in heads.items():
            rows = self.rows[place]
            found[rows.at[:, 0], rows.at[:, 1]] = marks
        return found.unflatten(2, (self.layers, self.in_layer)).permute(2, 0, 1, 3)

    def _centred(self, logits: Tensor) -> Float[Tensor, "asked symbol"]:
        """The answers where an open readout is asked, centred."""
        found = self.bench.task.readout(logits, self.bench.clean.batch)[self.asked]
        return found - found.mean(dim=-1, keepdim=True)

    def distance(self, logits: Tensor) -> Float[Tensor, ""]:
        """How far the answers are from the clean run's (`selected.py`)."""
        answers = self._centred(logits)
        lost = (answers - self.answers).square().sum(dim=-1).mean() / self.size
        divergence = (self.log.exp() * (self.log - answers.log_softmax(-1))).sum(dim=-1).mean()
        kept = self.bench.recovered(self.bench.scorer.margin(logits))[self.opened]
        return lost + divergence + MARGIN * (1 - kept).square().mean()

    def logits(self, chosen: Sum) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits with all heads looking where their selectors say. Cost: one forward pass."""
        return self.run.logits(self.whole(self.patterns(chosen)), self.silent(chosen))

    def recovered(self, chosen: Sum) -> Float[Tensor, "readout"]:
        """The recovered share of the gap, per readout of the bench. Cost: one forward pass."""
        with torch.no_grad():
            return self.bench.recovered(self.bench.scorer.margin(self.logits(chosen))).cpu()

    def recovered_by_another(self, chosen: Sum) -> Float[Tensor, "readout"]:
        """The same with heads looking where the selectors say for the next example, where layouts vary at the distances of the
        row there that is matched. Cost: one forward pass.
        """
        with torch.no_grad():
            whole, own = (
                self.whole(self.patterns(chosen)),
                self._marked({place: own[None] for place, own in chosen.own.items()}).to(self.answers.device),
            )
            patterns = torch.where(own.transpose(2, 3)[..., None], whole, self._seen(self._anothers(whole)))
            silent = self._anothers(self.silent(chosen).to(self.answers.device)).cpu()
            return self.bench.recovered(self.bench.scorer.margin(self.run.logits(patterns, silent))).cpu()

    def _anothers(self, values: Tensor) -> Tensor:
        """What another example has at each position, or, where layouts vary, at what is matched with it; batch is axis 1."""
        if self.bench.clean.places is None:
            return values.roll(1, dims=1)
        at = 3 if values.ndim == 5 else 2  # the axis of positions, behind the heads in patterns
        moved = [self.bench.clean.matched.of(layer.movedim(at - 1, 1)).movedim(1, at - 1) for layer in values]
        return torch.stack(moved)

    def _seen(self, patterns: Float[Tensor, "layer batch head pos source"]) -> Float[Tensor, "layer batch head pos source"]:
        """Patterns of matched rows, where layouts vary with their sources at the same distance, on what a row may see."""
        clean = self.bench.clean
        position, n_pos = clean.matched.position, patterns.shape[4]
        if position is None:
            return patterns
        source = by_distance(torch.arange(n_pos, device=position.device).expand_as(position), position, n_pos)
        kept = (source >= 0) & visible(self.bench.task, clean.batch)
        at, kept = (each.to(patterns.device)[:, None].expand_as(patterns[0]) for each in (source.clamp(min=0), kept))
        moved = torch.stack([layer.gather(3, at) * kept for layer in patterns])
        return moved / moved.sum(dim=-1, keepdim=True).clamp(min=LEAST)

    def worst(self, chosen: Sum) -> float:
        """The least recovered share of an open readout."""
        return self.recovered(chosen)[self.open].min().item()

    def entropy(self, patterns: Mapping[Destination, Tensor], live: Mapping[Destination, Tensor]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the attention of heads that are not silent to these patterns, in nats."""
        total, cells = torch.zeros((), dtype=self.answers.dtype), 0
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
                    looks[layer, example, index, position] = rows.patterns(others, 1)[0].to(looks)
                yield self.run.from_layer(layer, streams, looks, quiet)
