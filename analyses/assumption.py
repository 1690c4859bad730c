"""Where the assumption behind the depth bound may fail, for `depth.py`: guesses from the order, and attention elsewhere.

The bound holds for heads that use only what shares token or position information with them (`theory/bounds.py`). A trained head
may also gather from all of its prefix, and a model may know by heart which orders of definitions are likely.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.labelling.readouts import make_scorer
from stackheads.models.hooks import analysing, hook_name
from stackheads.seeds import Reserved, bare
from stackheads.tasks import Retrieval, StatementTask
from stackheads.tasks.links import read_links
from stackheads.theory import knowledge, radius
from stackheads.theory.flow import chains, joined
from stackheads.types import Destination

Key = tuple[Destination, int, int]
"""Destination, hop, layers."""


@cache
def order_guesses(task: StatementTask) -> dict[Key, float]:
    """The best guess of one who knows the level (distance from its chain's end) of every symbol in its prefix.

    Such a one knows in layer t, from t - 1 before, all within radius r: the places of the first (r + 1) // 2 statements of its
    chain. It looks where the statement most likely stands whose value slot knows the answer, r // 2 hops before it. A query
    that knows no place of its chain also knows which statements of the prefix belong together: it has to guess the chain. Over
    all arrangements of the task, at each position at which the hop is asked; only for chains with definitions first.
    """
    listed = task.arrangements()
    if not isinstance(task, Retrieval) or task.order != "definition-first" or listed is None:
        return {}
    length, depth = task.max_hops, task.max_hops + 1
    counts: dict[Any, Counter[int]] = {}
    for tokens, weight in zip(listed.tokens.tolist(), listed.probability.tolist(), strict=True):
        keys = tokens[:-1:2]
        first = {number: place for place, number in reversed(list(enumerate(key // depth for key in keys)))}
        together = tuple(first[key // depth] for key in keys)  # where the chain of each statement begins
        levels, place = tuple(key % depth for key in keys), {key: number for number, key in enumerate(keys)}
        for position in (*range(1, len(tokens) - 1, 2), len(tokens) - 1):
            start, seen = tokens[position], levels[: (position + 1) // 2]
            chain = [place[symbol] for symbol in range(start, start - start % depth, -1)]  # its statements, next one first
            where = Destination.VALUE if position < len(tokens) - 1 else Destination.QUERY
            for layers, hop in product(range(1, length + 1), range(1, len(chain) + 1)):
                r = radius(layers - 1, "causal")
                target = hop - r // 2 - 1
                if (known := tuple(chain[: (r + 1) // 2])) and target < len(known):
                    continue  # followed, not guessed
                blind = together if where == Destination.QUERY and not known else ()
                view = (where, hop, layers), (start % depth, seen, known, blind)
                counts.setdefault(view, Counter())[chain[target]] += weight
    right, total = Counter(), Counter()
    for (key, _), places in counts.items():
        right[key] += max(places.values())
        total[key] += places.total()
    return {key: right[key] / total[key] for key in total}


@dataclass(frozen=True)
class Blind:
    """How likely the query's last hop stands at each statement, for each thing that may be known of the statements.

    `right` is how often the best guess is.
    """

    number: dict[bytes, int]
    likely: Float[Tensor, "known statement"]
    right: float

    def of(self, known: Int[Tensor, "batch feature"]) -> Float[Tensor, "batch statement"]:
        """The same for examples of which this is known."""
        return self.likely[[self.number[row.tobytes()] for row in known.numpy()]]


def ends_of(task: StatementTask, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch statement"]:
    """Which statements' values are ends of chains, nobody's key: 1, else 0."""
    return (read_links(tokens, task.d_vocab).keyed.gather(1, tokens[:, 1:-1:2]) < 0).long()


def all_statements(task: StatementTask, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch slot"]:
    """All but what symbols are called: where the symbol of each slot stands first."""
    slots = tokens[:, :-1]
    return (slots[:, :, None] == slots[:, None, :]).int().argmax(dim=-1)


@cache
def blind(task: Retrieval, known: Callable[[StatementTask, Tensor], Tensor]) -> Blind:
    """What one can say of the answer who knows this of the statements, and not what is asked about; over all arrangements of a
    task of which they can be listed.
    """
    listed = task.arrangements()
    assert listed is not None, "a task that is small"
    sets, number = known(task, listed.tokens).unique(dim=0, return_inverse=True)
    answer = chains(task, listed.tokens)[:, -1, -1] // 2
    weight = torch.zeros(len(sets), task.n_statements, dtype=torch.float64)
    weight.index_put_((number, answer), listed.probability, accumulate=True)
    names = {row.tobytes(): place for place, row in enumerate(sets.numpy())}
    return Blind(names, weight / weight.sum(dim=1, keepdim=True), float(weight.amax(dim=1).sum()))


def confined(model: Any, task: StatementTask, layer: int | None, examples: int) -> dict[tuple[Destination, int], float]:
    """Accuracy per destination and hop, on fresh examples, if the heads of one layer, or of none, attend only where something
    they know is shared.

    Known is what the simulation of `theory/flow.py` says after the layers before; scores elsewhere become minus infinity.
    """
    batch = task.sample(examples, bare(Reserved.DEPTH))
    hooks: list[tuple[str, Any]] = []
    if layer is not None:
        known = list(knowledge(batch.tokens, task.attention_dir))
        knows, edges = known[min(layer, len(known) - 1)].float(), joined(batch.tokens).float()
        touching = (knows @ edges).clamp(max=1) @ knows.mT > 0
        hooks.append((hook_name(layer, "attn_scores"), lambda scores, hook: scores.masked_fill(~touching[:, None], -torch.inf)))

    scorer = make_scorer(task, batch)
    asked = scorer.summed(torch.ones_like(batch.targets, dtype=torch.float32)).sum(dim=0)
    with analysing(model), model.hooks(fwd_hooks=hooks):
        right = scorer.score(model(batch.tokens)).right.sum(dim=0)
    shares = zip(scorer.readouts, (right / asked).tolist(), strict=True)
    return {(readout.destination, readout.hop): share for readout, share in shares}
