"""What the answer needs of where heads look: the fewest selectors by which all heads together still give it.

Every head at every destination looks only where its selectors say (`labelling/selectors.py`), or is silent and gives its
positional mean; values, MLPs and norms stay the model's own. In stages – roles; slots and positions; gates; content – each
begun only where the one before leaves a gap:

1. all selectors of the stage are offered to every head, fitted to its attention by cross-entropy (convex);
2. and then to the answer: the weights minimise the distance of the answers to the clean run's, with a part of the
   cross-entropy, because small parts of the attention may carry the answer while large parts carry nothing;
3. what the answer does not need is dropped: on other examples, heads and selectors by what dropping each alone costs, as many
   at once as stay within a budget together; what is left is fitted again, until nothing can be dropped.

The distance is the Kullback-Leibler divergence of the answers, which says whether they are right, and the share of the clean
logits' variance that is lost, which says whether the margins are.

Cost: about 40 forward passes with gradients for each stage, and for each round of dropping one without for each head and
selector, on `FIT` examples; five of these rounds at most.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.labelling.bench import Bench
from stackheads.labelling.selectors import Kind, Rows, Selector, candidates, make_rows
from stackheads.models.forwards.patterned import Patterned
from stackheads.tasks import Task, gates
from stackheads.types import Destination, HeadId

STAGES: tuple[str, ...] = ("roles", "positions", "gates", "content")
GOOD = 0.98
"""Recovered share on the worst readout from which no further stage is tried."""
GAIN = 0.02
"""What a stage must add to the worst readout's recovered share, or it is taken back."""
ATTENTION = 0.02
"""Nats of attention that weigh like one of the answer: enough to keep what the answer does not decide."""
RIDGE = 1e-5
BUDGET = 0.01
"""Distance that one round of dropping may add."""
ROUNDS = 6
LARGEST = 20.0
"""No weight is larger: e^20 is all of the attention."""

Taken = tuple[Destination, Selector]


@dataclass
class Sum:
    """The weights of all heads' selectors: of each (destination, selector) [head, size, value], and which heads have it."""

    heads: int
    weights: dict[Taken, Float[Tensor, "head size value"]] = field(default_factory=dict)
    has: dict[Taken, Bool[Tensor, "head"]] = field(default_factory=dict)
    live: dict[Destination, Bool[Tensor, "head"]] = field(default_factory=dict)

    def copy(self) -> "Sum":
        """The same, to be changed."""
        return Sum(self.heads, dict(self.weights), {k: v.clone() for k, v in self.has.items()}, {k: v.clone() for k, v in self.live.items()})

    def at(self, destination: Destination) -> dict[Selector, Tensor]:
        """The weights of one destination, 0 where a head has a selector not."""
        return {
            selector: self.weights[place, selector] * self.has[place, selector][:, None, None]
            for place, selector in self.weights
            if place == destination and bool(self.has[place, selector].any())
        }

    def without(self, dropped: Iterable[tuple[Destination, int, Selector | None]]) -> "Sum":
        """Some heads silenced (None) and some selectors gone."""
        left = self.copy()
        for destination, head, selector in dropped:
            if selector is None:
                left.live[destination][head] = False
            else:
                left.has[destination, selector][head] = False
        return left

    def parts(self) -> list[tuple[Destination, int, Selector | None]]:
        """Every head that is not silent, and every selector of these."""
        heads = [(place, head, None) for place, live in self.live.items() for head in live.nonzero().flatten().tolist()]
        return [*heads, *((place, head, selector) for place, head, selector in self.taken())]

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
    """A bench on which sums of selectors are tried."""

    def __init__(self, bench: Bench):
        batch, run = bench.clean.batch, bench.clean.run
        self.bench, self.layers, self.index = bench, run.pattern.shape[0], run.pattern.shape[2]
        self.heads = self.layers * self.index
        self.rows: dict[Destination, Rows] = {}
        for destination in Destination:
            rows = make_rows(bench.task, batch, destination)
            if len(rows):
                self.rows[destination] = rows
        given = torch.zeros_like(batch.slots, dtype=torch.bool)
        for rows in self.rows.values():
            given[rows.at[:, 0], rows.at[:, 1]] = True
        self.places = {place: self._positions(rows) for place, rows in self.rows.items()}
        self.run = Patterned(bench.model, batch.tokens, run, given, bench.clean.hooked is not None)
        self.target = {
            place: run.pattern[:, rows.at[:, 0], :, rows.at[:, 1]].permute(1, 2, 0, 3).flatten(0, 1)
            for place, rows in self.rows.items()
        }
        self.asked = batch.targets >= 0
        answers = self._centred(run.logits)
        self.answers, self.log = answers, answers.log_softmax(-1)
        self.size = answers.square().sum(dim=-1)[self.asked].mean()

    def _positions(self, rows: Rows) -> Bool[Tensor, "pos"]:
        marked = torch.zeros(rows.n_pos, dtype=torch.bool, device=rows.at.device)
        marked[rows.at[:, 1]] = True
        return marked

    def _centred(self, logits: Tensor) -> Tensor:
        found = self.bench.task.readout(logits, self.bench.clean.batch)
        return found - found.mean(dim=-1, keepdim=True)

    def patterns(self, chosen: Sum) -> dict[Destination, Float[Tensor, "head row source"]]:
        """Where each head looks at each destination."""
        return {place: rows.patterns(chosen.at(place), self.heads) for place, rows in self.rows.items()}

    def whole(self, patterns: dict[Destination, Tensor]) -> Float[Tensor, "layer batch head pos source"]:
        """The patterns of all destinations in one."""
        n, n_pos = self.bench.clean.batch.tokens.shape
        found = self.answers.new_zeros(n, n_pos, self.heads, n_pos)
        for place, rows in self.rows.items():
            found = found.index_put((rows.at[:, 0], rows.at[:, 1]), patterns[place].transpose(0, 1))
        return found.unflatten(2, (self.layers, self.index)).permute(2, 0, 3, 1, 4)

    def silent(self, chosen: Sum) -> Bool[Tensor, "layer head pos"]:
        """Which heads give their mean, and where."""
        quiet = torch.zeros(self.heads, self.run.rows.shape[1], dtype=torch.bool, device=self.run.rows.device)
        for place, marked in self.places.items():
            quiet |= ~chosen.live[place][:, None] & marked
        return quiet.unflatten(0, (self.layers, self.index))

    def distance(self, logits: Tensor) -> Float[Tensor, ""]:
        """How far the answers are from the clean run's."""
        answers = self._centred(logits)
        lost = (answers - self.answers).square().sum(dim=-1)[self.asked].mean() / self.size
        divergence = (self.log.exp() * (self.log - answers.log_softmax(-1))).sum(dim=-1)[self.asked].mean()
        return lost + divergence

    def logits(self, chosen: Sum) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits with all heads looking where their selectors say. Cost: one forward pass."""
        return self.run.logits(self.whole(self.patterns(chosen)), self.silent(chosen))

    def recovered(self, chosen: Sum) -> Float[Tensor, "readout"]:
        """The recovered share of the gap, per readout of the bench."""
        with torch.no_grad():
            return self.bench.recovered(self.bench.scorer.score(self.logits(chosen)).margin).cpu()

    def worst(self, chosen: Sum) -> float:
        """The least recovered share of an open readout."""
        return self.recovered(chosen)[self.bench.baseline.open].min().item()

    def attention(self, patterns: dict[Destination, Tensor], live: dict[Destination, Tensor]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the heads' attention to these patterns, in nats, over heads that are not silent."""
        total, rows = self.answers.new_zeros(()), 0
        for place, target in self.target.items():
            entropy = -(target * (patterns[place] + 1e-9).log()).sum(dim=-1).mean(dim=1)
            total, rows = total + (entropy * live[place]).sum(), rows + int(live[place].sum())
        return total / max(1, rows)

    def costs(self, chosen: Sum, parts: Sequence[tuple[Destination, int, Selector | None]]) -> list[float]:
        """What dropping each part alone adds to the distance. Cost: at most one forward pass each."""
        with torch.no_grad():
            patterns = self.patterns(chosen)
            whole, silent = self.whole(patterns), self.silent(chosen)
            streams = self.run.streams(whole, silent)
            before = self.distance(self.run.logits(whole, silent)).item()
            return [self._cost(chosen, part, whole, silent, streams) - before for part in parts]

    def _cost(self, chosen: Sum, part: Any, whole: Tensor, silent: Tensor, streams: list[Tensor]) -> float:
        place, number, selector = part
        rows, layer, index = self.rows[place], number // self.index, number % self.index
        if selector is None:
            silent = silent.clone()
            silent[layer, index] |= self.places[place]
        else:
            whole = whole.clone()
            left = {one: weight[number : number + 1] for one, weight in chosen.at(place).items() if one != selector}
            whole[layer, rows.at[:, 0], index, rows.at[:, 1]] = rows.patterns(left, 1)[0]
        return self.distance(self.run.from_layer(layer, streams, whole, silent)).item()


def offered(task: Task, examples: Examples, stage: str) -> list[Taken]:
    """The selectors that a stage adds, for every destination."""
    found: list[Taken] = []
    names = list(gates(examples.bench.clean.batch))
    for place, rows in examples.rows.items():
        kinds: list[tuple[Kind, str | None]] = {
            "roles": [("role", None)],
            "positions": [("slot", None), ("position", None)],
            "gates": [(kind, name) for name in names for kind in ("role", "slot") if rows.values(name) > 1],
            "content": [("content", name) for name in names if rows.values(name) > 1],
        }[stage]
        found += [(place, selector) for kind, gate in kinds for selector in candidates(task, rows, kind, gate)]
    return found


def add(chosen: Sum, examples: Examples, more: Iterable[Taken]) -> Sum:
    """Offer selectors to every head that is not silent, with weights of 0."""
    chosen = chosen.copy()
    for place, selector in more:
        rows = examples.rows[place]
        shape = (chosen.heads, rows.size(selector), rows.values(selector.gate))
        chosen.weights[place, selector] = torch.zeros(shape, device=rows.at.device)
        chosen.has[place, selector] = chosen.live[place].clone()
    return chosen


def fitted(chosen: Sum, examples: Examples, steps: int, answers: bool) -> Sum:
    """The weights that minimise the cross-entropy of attention, or of the answers with a part of it, by L-BFGS."""
    weights = {taken: weight.clone().requires_grad_() for taken, weight in chosen.weights.items()}
    every = list(weights.values())
    optimiser = torch.optim.LBFGS(every, max_iter=steps, history_size=20, line_search_fn="strong_wolfe")
    trial = replace(chosen, weights=weights)
    silent = examples.silent(chosen)

    def closure() -> Tensor:
        patterns = examples.patterns(trial)
        loss = examples.attention(patterns, chosen.live)
        if answers:
            loss = ATTENTION * loss + examples.distance(examples.run.logits(examples.whole(patterns), silent))
        loss = loss + RIDGE * sum(weight.square().sum() for weight in every)
        for weight, gradient in zip(every, torch.autograd.grad(loss, every, allow_unused=True), strict=True):
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient
        return loss

    optimiser.step(closure)
    found = {
        taken: (weight.detach() * chosen.has[taken][:, None, None]).clamp(-LARGEST, LARGEST) for taken, weight in weights.items()
    }
    return replace(chosen, weights=found)


def dropped(chosen: Sum, examples: Examples, budget: float = BUDGET) -> tuple[Sum, int]:
    """As many of the least needed heads and selectors gone at once as add no more than `budget` to the distance together."""
    parts = chosen.parts()
    costs = examples.costs(chosen, parts)
    order = [part for cost, part in sorted(zip(costs, parts, strict=True), key=lambda pair: pair[0]) if cost < budget]
    with torch.no_grad():
        before = examples.distance(examples.logits(chosen)).item()
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            after = examples.distance(examples.logits(chosen.without(order[:middle]))).item()
            low, high = (middle, high) if after <= before + budget else (low, middle - 1)
    return chosen.without(order[:low]), low


def select(bench: Bench, judge: Bench, stages: Sequence[str] = STAGES, rounds: int = ROUNDS) -> tuple[Sum, dict[str, float]]:
    """The fewest selectors that keep the answer, fitted on `bench` and dropped on `judge`, and the worst share after each stage."""
    import time, os
    say = (lambda *a: print(*a, flush=True)) if os.environ.get("SAY") else (lambda *a: None)
    t = time.time()
    examples, others = Examples(bench), Examples(judge)
    heads = examples.heads
    chosen = Sum(heads, live={place: torch.ones(heads, dtype=torch.bool) for place in examples.rows})
    curve: dict[str, float] = {}
    for stage in stages:
        more = offered(bench.task, examples, stage)
        if not more:
            continue
        tried = fitted(add(chosen, examples, more), examples, 40, answers=False)
        say("  att", stage, f"{time.time()-t:.1f}", others.worst(tried))
        tried = fitted(tried, examples, 40, answers=True)
        worst = others.worst(tried)
        say("  ans", stage, f"{time.time()-t:.1f}", worst, len(tried.taken()))
        if not curve or worst >= max(curve.values()) + GAIN:
            chosen, curve[stage] = tried, worst
        if worst >= GOOD:
            break
    for _ in range(rounds):
        chosen, gone = dropped(chosen, others)
        say("  drop", gone, f"{time.time()-t:.1f}", others.worst(chosen), len(chosen.taken()), sum(int(l.sum()) for l in chosen.live.values()))
        if not gone:
            break
        chosen = fitted(chosen, examples, 15, answers=True)
        say("  refit", f"{time.time()-t:.1f}", others.worst(chosen))
    return chosen, curve
