"""Fit selectors to attention: the weights that tell where each head looks with the least cross-entropy, in nats.

The problem is convex and falls apart into one for each head at each destination. Those of few weights are solved one by one, by
Newton's method (`newton.py`), the others of one destination together, by L-BFGS; no start is random, and only those are solved
that are asked for.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.explanation.examples import Looks
from stackheads.explanation.newton import Columns, make_columns, newton
from stackheads.explanation.sums import Part, Sum, Taken, cross_entropy
from stackheads.labelling.selectors import Rows, Selector
from stackheads.types import Destination

STEPS = 40
"""Steps of L-BFGS."""
MOST_SELECTORS = 8
MOST_NUMBERS = 256
"""With more selectors or numbers a step of Newton's method costs more than it saves."""
RIDGE = 2e-5
"""Nats that a weight of one costs its head: enough to keep a weight finite where attention has no remainder."""
LARGEST = 20.0
"""No weight is larger: e^20 is all of the attention."""

Weights = Mapping[Selector, Float[Tensor, "head size value"]]


def fitted_to_attention(
    chosen: Sum,
    examples: Looks,
    cells: Collection[tuple[Destination, int]] | None = None,
    steps: int = STEPS,
    held: Collection[Part] = (),
) -> Sum:
    """With the weights of these heads at these destinations, or of all that are not silent, fitted to their attention; those of
    selectors that are held stay as they are.
    """
    weights = {taken: weight * chosen.has[taken][:, None, None] for taken, weight in chosen.weights.items()}
    for place, heads in _by_place(chosen.cells() if cells is None else cells, examples.device).items():
        known: dict[Selector, Columns] = {}
        many = torch.zeros_like(heads, dtype=torch.bool)
        for number, head in enumerate(heads.tolist()):
            mine = chosen.of(place, head)
            moving = {selector for selector in mine if (place, head, selector) not in held}
            single = _of_one(mine, moving, examples.rows[place], examples.attention[place][head], known)
            many[number] = single is None
            for selector, weight in (single or {}).items():
                weights[place, selector][head] = weight
        mine, has = _of(chosen, place, heads[many])
        if mine:
            moves = {one: [(place, head, one) not in held for head in heads[many].tolist()] for one in mine}
            free = {one: has[one] & torch.tensor(moves[one], device=heads.device)[:, None, None] for one in mine}
            start = {one: weight * has[one] for one, weight in mine.items()}
            for selector, weight in _solved(start, has, free, examples, place, heads[many], steps).items():
                weights[place, selector] = weights[place, selector].index_copy(0, heads[many], weight)
    return replace(chosen, weights=weights)


def _of_one(
    weights: Mapping[Selector, Tensor],
    moving: Collection[Selector],
    rows: Rows,
    target: Float[Tensor, "row source"],
    known: dict[Selector, Columns],
) -> dict[Selector, Tensor] | None:
    """The best weights, [size, value] of each, of one head's selectors that may move, given all of them as [1, size, value], by
    Newton's method; None where they are too many for it. `known` keeps the columns of selectors that were asked for.
    """
    if len(moving) > MOST_SELECTORS:
        return None
    for selector in moving:
        if selector not in known:
            _, size, values = weights[selector].shape
            known[selector] = make_columns(rows.columns(selector, values), size * values)
    asked = [selector for selector in weights if selector in moving]
    columns = [known[selector] for selector in asked]
    starts = [weights[selector].flatten()[known[selector].used] for selector in asked]
    if sum(map(len, starts)) > MOST_NUMBERS:
        return None
    base = rows.hidden
    for selector, weight in weights.items():
        base = base if selector in moving else base + rows.score(selector, weight)[0]
    found = newton(target, base, columns, torch.cat(starts), RIDGE) if asked else target.new_zeros(0)
    parts = found.clamp(-LARGEST, LARGEST).split([len(each) for each in starts])
    return {
        selector: torch.zeros_like(weights[selector]).flatten().index_copy(0, each.used, part).view_as(weights[selector])[0]
        for selector, each, part in zip(asked, columns, parts, strict=True)
    }


def steepest(
    chosen: Sum, examples: Looks, cells: Iterable[tuple[Destination, int]] | None = None
) -> dict[Taken, Float[Tensor, "head"]]:
    """How steeply, in nats, the cross-entropy of each head's attention still changes with some weight of each selector; of
    these heads at these destinations alone, or of all.

    0 where no weight may change: the head is silent or has the selector not, or its weight is as large as weights become.
    """
    slopes = {taken: weight.new_zeros(chosen.heads) for taken, weight in chosen.weights.items()}
    for place, heads in _by_place(chosen.cells() if cells is None else cells, examples.device).items():
        mine, has = _of(chosen, place, heads)
        if not mine:
            continue
        weights = {selector: weight.clone().requires_grad_() for selector, weight in mine.items()}
        loss = _loss(weights, has, examples, place, heads)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        for (selector, weight), slope in zip(weights.items(), found, strict=True):
            free = has[selector] & (weight.abs() < LARGEST)
            slopes[place, selector] = slopes[place, selector].index_copy(0, heads, (slope.abs() * free).amax(dim=(1, 2)))
    return slopes


def minimise(weights: Sequence[Tensor], loss: Callable[[], Float[Tensor, ""]], steps: int) -> None:
    """Change weights in place so that a loss of them is least, by L-BFGS."""
    if not weights:
        return
    optimiser = torch.optim.LBFGS(
        weights,
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value = loss()
        slopes = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = slope
        return value

    optimiser.step(closure)


def _by_place(cells: Iterable[tuple[Destination, int]], device: torch.device) -> dict[Destination, Tensor]:
    """The heads of each destination."""
    found: dict[Destination, list[int]] = {}
    for place, head in cells:
        found.setdefault(place, []).append(head)
    return {place: torch.tensor(sorted(heads), device=device) for place, heads in found.items()}


def _of(chosen: Sum, place: Destination, heads: Tensor) -> tuple[dict[Selector, Tensor], dict[Selector, Tensor]]:
    """The selectors that any of these heads has: their weights, and which of the heads have them."""
    has = {selector: chosen.has[at, selector][heads] for at, selector in chosen.weights if at == place}
    has = {selector: marks[:, None, None] for selector, marks in has.items() if bool(marks.any())}
    return {selector: chosen.weights[place, selector][heads] for selector in has}, has


def _solved(
    weights: Weights,
    has: Mapping[Selector, Tensor],
    free: Mapping[Selector, Tensor],
    examples: Looks,
    place: Destination,
    heads: Tensor,
    steps: int,
) -> dict[Selector, Tensor]:
    """The best weights where they are free; the others as they are."""
    fixed = {selector: weight.masked_fill(free[selector], 0.0) for selector, weight in weights.items()}
    moving = {selector: weight.clone().requires_grad_() for selector, weight in weights.items()}

    def all_of() -> dict[Selector, Tensor]:
        return {selector: fixed[selector] + weight * free[selector] for selector, weight in moving.items()}

    minimise(list(moving.values()), lambda: _loss(all_of(), has, examples, place, heads), steps)
    return {selector: weight.detach().clamp(-LARGEST, LARGEST) for selector, weight in all_of().items()}


def _loss(
    weights: Weights, has: Mapping[Selector, Tensor], examples: Looks, place: Destination, heads: Tensor
) -> Float[Tensor, ""]:
    """Mean cross-entropy over rows, summed over heads, with the price of the weights."""
    rows, target = examples.rows[place], examples.attention[place][heads]
    pattern = rows.patterns({selector: weight * has[selector] for selector, weight in weights.items()}, len(heads))
    price = torch.stack([weight.square().sum() for weight in weights.values()]).sum()
    return cross_entropy(target, pattern).mean(dim=1).sum() + RIDGE * price
