"""What the answer needs of where heads look: the fewest selectors by which all heads together still give it.

Every head at every destination looks only where its selectors say (`labelling/selectors.py`), or is silent and gives its
positional mean; values, MLPs and norms stay the model's own. Heads that the answer does not need are silenced first. Then in
stages – roles; slots and positions; gates; content – each begun only where the one before leaves a gap:

1. all selectors of the stage are offered to every head, fitted to its attention by cross-entropy (convex);
2. and then to the answer: the weights minimise the distance of the answers to the clean run's, with a part of the
   cross-entropy, because small parts of the attention may carry the answer while large parts carry nothing;
3. what the answer does not need is dropped: on other examples, heads and selectors by what dropping each alone costs, as many
   at once as stay within a budget together; what is left is fitted again, until nothing can be dropped.

Since all patterns are given, a head that only tells later heads where to look is needed for nothing here; that such a head
matters is what its label says (`labelling/`). What is found is where heads look to *carry* the answer.

The distance is the divergence of the answers, which says whether they are right, the share of the clean logits' variance that
is lost, and what the recovered shares lack. All is deterministic: L-BFGS, no random start.

Cost: about 100 forward passes with gradients for each stage, and for each round of dropping one without for each head and
selector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from stackheads.explanation.attention_fit import LARGEST, STEPS, fitted_to_attention, minimise
from stackheads.explanation.examples import Examples, Looks
from stackheads.explanation.sums import Sum, Taken
from stackheads.labelling.selectors import Kind, candidates

LEVELS: Mapping[str, tuple[tuple[Kind, ...], bool]] = {
    "roles": (("role",), False),
    "slots and positions": (("role", "slot", "position"), False),
    "gates": (("role", "slot", "position"), True),
    "content": (("role", "slot", "position", "content"), True),
}
"""What the stages allow, each more than the one before: kinds of selectors, and whether they may be gated."""
EVERY = tuple(LEVELS.values())[-1]
"""All kinds, and under gates."""
GOOD = 0.98
"""Recovered share on the worst readout from which no further stage is tried."""
GAIN = 0.02
"""What a stage must add to the worst readout's recovered share, or it is taken back."""
ATTENTION = 0.01
"""Nats of attention that weigh like one of the answer: enough to settle what the answer does not."""
RIDGE = 1e-5
BUDGET = 0.01
"""Distance that one round of dropping may add; a tenth of it for silencing at the start."""
NEGLIGIBLE = 0.002
"""A selector that moves less of a head's attention is among the first to be dropped, without a run of its own."""
FEWER = 0.01
"""What the worst readout may lose where later kinds of selectors are left out altogether."""
ROUNDS = 8
AGAIN = 15
"""Steps of L-BFGS after a round of dropping."""


def select(examples: Examples, others: Examples, progress: bool = False) -> Sum:
    """The fewest selectors that keep the answer, fitted on `examples`; what is dropped is decided on `others`."""
    chosen, _ = dropped(examples.everything(), others, BUDGET / 10)
    best, before = -torch.inf, frozenset[Taken]()
    for kinds, gated in tqdm(LEVELS.values(), desc="selectors", disable=None if progress else True, leave=False):
        allowed = offered(examples, kinds, gated)
        more = {taken: shape for taken, shape in allowed.items() if taken not in before}
        before = frozenset(allowed)
        if not more:
            continue
        tried = fitted_to_attention(chosen.offering(more, examples.device), examples)
        tried = fitted_to_answers(tried, examples, STEPS)
        found = others.worst(tried)
        if found >= best + GAIN:
            chosen, best = tried, found
        if found >= GOOD:
            break
    for _ in range(ROUNDS):
        chosen, gone = dropped(chosen, others, BUDGET)
        if not gone:
            break
        chosen = fitted_to_answers(chosen, examples, AGAIN)
    return _simplest(chosen, examples, others)


def _simplest(chosen: Sum, examples: Examples, others: Examples) -> Sum:
    """Without the later kinds of selectors, if what is left does as well when it is fitted again."""
    least = others.worst(chosen) - FEWER
    for kinds, gated in LEVELS.values():
        part = chosen.only(kinds, gated)
        if len(part.taken()) == len(chosen.taken()):
            break
        part = fitted_to_answers(part, examples, 2 * AGAIN)
        if others.worst(part) >= least:
            return dropped(part, others, BUDGET)[0]
    return chosen


def offered(looks: Looks, kinds: Sequence[Kind], gated: bool) -> dict[Taken, tuple[int, int]]:
    """The selectors of these kinds for every destination, with the shapes of their weights."""
    found: dict[Taken, tuple[int, int]] = {}
    for place, rows in looks.rows.items():
        telling = [name for name in rows.gates if rows.values(name) > 1] if gated else []
        for kind in kinds:
            for gate in [None, *telling]:
                for selector in candidates(looks.task, rows, kind, gate):
                    found[place, selector] = (rows.size(selector), rows.values(selector.gate))
    return found


def fitted_to_answers(chosen: Sum, examples: Examples, steps: int) -> Sum:
    """The weights that minimise the distance of the answers with a part of the cross-entropy of attention, by L-BFGS."""
    weights = {taken: weight.clone().requires_grad_() for taken, weight in chosen.weights.items()}
    every = list(weights.values())
    trial, silent = replace(chosen, weights=weights), examples.silent(chosen)

    def loss() -> Tensor:
        patterns = examples.patterns(trial)
        far = examples.distance(examples.run.logits(examples.whole(patterns), silent))
        price = torch.stack([weight.square().sum() for weight in every]).sum()
        return far.cpu() + ATTENTION * examples.entropy(patterns, chosen.live) + RIDGE * price

    minimise(every, loss, steps)
    found = {
        taken: (weight.detach() * chosen.has[taken][:, None, None]).clamp(-LARGEST, LARGEST)
        for taken, weight in weights.items()
    }
    return replace(chosen, weights=found)


def dropped(chosen: Sum, examples: Examples, budget: float) -> tuple[Sum, int]:
    """As many of the least needed heads and selectors gone at once as add no more than `budget` to the distance together."""
    with torch.no_grad():
        before = examples.distance(examples.logits(chosen)).item()
        patterns = examples.patterns(chosen)
        idle, parts = [], []
        for part in chosen.parts():
            (idle if examples.share(chosen, part, patterns) < NEGLIGIBLE else parts).append(part)
        each = [examples.distance(logits) for logits in examples.variants(chosen, parts)]
        costs = [far - before for far in torch.stack(each).tolist()] if each else []
        ranked = sorted(zip(costs, parts, strict=True), key=lambda pair: pair[0])
        order = [*idle, *(part for cost, part in ranked if cost < budget)]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            after = examples.distance(examples.logits(chosen.without(order[:middle]))).item()
            low, high = (middle, high) if after <= before + budget else (low, middle - 1)
    return chosen.without(order[:low]), low
