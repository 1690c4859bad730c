"""Shortcuts: answers reachable without following the chain, exactly, on tasks small enough to list all their examples.

What a destination has seen after t layers (`flow.py`) is a *view*: its own position, and the token at every position it
knows. Over all examples of the task, with their probabilities, the best guess for hop j given the view is right in a certain
share of the rows whose chain to the answer is not known yet. Three guessers:

`seen`    names the likeliest symbol in the view;
`named`   or, where that is better, one of the symbols that are not, each of which is as likely as the others;
`looked`  takes whatever the likeliest position holds, given the view one layer earlier: its last layer looks where it shares
          nothing. This leaves the assumption, as a trained head can, which knows positions by heart.

A shortcut is a share above the task's chance by more than MARGIN: *wrap-around* if `seen` gets there, *elimination* if
`named` does, else *order* if `looked` does. Rows: positions of the destination where hop j is asked (its chain exists and,
causal, is visible).

Not covered: heads that gather from many places at once without sharing anything, say from all of their prefix. With few chains
a trained model can be better than all three guessers and answer in fewer layers than the closed form.

Method: symbols can be renamed without changing the task, so one example of each class is enough (`Arrangements`): views are
compared after naming their symbols in the order in which they first stand there. Cost: sorting one view per row for each
layer; about ten seconds and 1 GB at the most.
"""

from dataclasses import dataclass
from math import log2
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.limits import check_number
from stackheads.seeds import Stream, stream
from stackheads.tasks.links import statement_slots
from stackheads.tasks.statements import StatementTask
from stackheads.theory.bounds import layers_around, layers_needed
from stackheads.theory.flow import chain_known, chains, check_plain, knowledge
from stackheads.types import Destination

MARGIN = 0.1
"""Above chance by more than this counts: less would not be taken for an answer. Fixed before any task was listed."""
READ_AT = (Destination.QUERY, Destination.VALUE)
"""Where tasks ask."""

Kind = Literal["wrap-around", "elimination", "order"]


@dataclass(frozen=True)
class Guess:
    """How good the best guesses for a hop are after so many layers, in the `open` share of rows whose chain is not known."""

    destination: Destination
    hop: int
    layers: int
    chance: float
    open: float
    seen: float
    named: float
    looked: float

    @property
    def kind(self) -> Kind | None:
        """What kind of shortcut this is, if any."""
        bar = self.chance + MARGIN
        if self.seen > bar:
            return "wrap-around"
        if self.named > bar:
            return "elimination"
        return "order" if self.looked > bar else None

    @property
    def share(self) -> float:
        """How often the best guesser is right."""
        return max(self.named, self.looked)


@dataclass(frozen=True)
class Structure:
    """What the shape of a task gives away, without going through its examples.

    `around`  on a cycle, attention both ways: hops whose answer stands nearer the other way round, and the layers in which
              the query reaches it there.
    `place`   for each hop, how often the likeliest place holds the query's answer, in a sample.
    `ends`    where chains end, hop D's answer is one of the symbols that are nobody's key: how often a blind choice is right.
    """

    around: dict[int, int]
    place: dict[int, float]
    ends: float | None


@dataclass(frozen=True)
class _Rows:
    """Every position of one destination in every arrangement: its tokens, place, chain, whether asked, and probability."""

    destination: Destination
    example: Int[Tensor, "row"]
    place: Int[Tensor, "row"]
    tokens: Int[Tensor, "row pos"]
    chain: Int[Tensor, "row hop"]
    weight: Float[Tensor, "row hop"]


def guesses(task: StatementTask) -> list[Guess] | None:
    """The best guesses for every destination, hop and number of layers; None if the task's examples are too many to list.

    Where no row is open any more there is no entry. Raises `ConfigError` for a task that is made of others than statements of
    two tokens.
    """
    listed = check_plain(task).arrangements()
    if listed is None:
        return None
    chain, found = chains(task, listed.tokens), []
    parts = [_rows(task, listed.tokens, listed.probability, chain, destination) for destination in READ_AT]
    before: dict[Destination, Tensor] = {}
    for layers, knows in enumerate(knowledge(listed.tokens, task.attention_dir)):
        known = chain_known(knows, chain)
        for rows in parts:
            weight = rows.weight.masked_fill(known[rows.example, :, rows.place], 0)
            if not weight.any():
                continue
            names, view = _views(rows, knows[rows.example, rows.place], task.d_vocab)
            for hop in range(1, task.max_hops + 1):
                shares = _shares(rows, hop, weight[:, hop - 1], names, view, before.get(rows.destination))
                if shares is not None:
                    found.append(Guess(rows.destination, hop, layers, task.chance(hop), *shares))
            before[rows.destination] = view
    return found


def shortcuts(task: StatementTask) -> list[Guess] | None:
    """The guesses that are shortcuts; None if the task's examples are too many to list."""
    found = guesses(task)
    return None if found is None else [guess for guess in found if guess.kind]


def structure(task: StatementTask, examples: int = 256, seed: int = 0) -> Structure:
    """The cheap checks, for tasks of any size. Raises `ConfigError` if examples < 1."""
    examples = check_number("the number of examples", examples, 1)
    chain = chains(task, task.sample(examples, stream(seed, Stream.STRUCTURE)).tokens)[:, :, -1]
    likeliest = {hop: int(chain[:, hop - 1].bincount().max()) / examples for hop in range(1, task.max_hops + 1)}
    around = {}
    if task.period is not None and task.attention_dir == "bidirectional":
        around = {hop: layers_around(hop, Destination.QUERY, task.period) for hop in likeliest}
    fewer = {
        hop: layers for hop, layers in around.items() if layers != layers_needed(hop, task.attention_dir, period=task.period)
    }
    return Structure(fewer, likeliest, None if task.period else task.chance(task.max_hops))


def _rows(
    task: StatementTask,
    tokens: Int[Tensor, "batch pos"],
    probability: Float[Tensor, "batch"],
    chain: Int[Tensor, "batch hop pos"],
    destination: Destination,
) -> _Rows:
    example, place = (statement_slots(tokens) == destination.slot).nonzero(as_tuple=True)
    mine = chain[example, :, place]
    asked = mine >= 0
    if task.attention_dir == "causal":
        asked = asked & (mine.cummax(dim=1).values <= place[:, None])
    return _Rows(destination, example, place, tokens[example], mine, probability[example][:, None] * asked)


def _views(rows: _Rows, knows: Bool[Tensor, "row pos"], d_vocab: int) -> tuple[Int[Tensor, "row symbol"], Int[Tensor, "row"]]:
    """Each symbol's name in the row's view (by first position; d_vocab if it is not there), and the number of the view."""
    n_rows, n_pos = knows.shape
    position = torch.arange(n_pos).expand(n_rows, -1).where(knows, n_pos)
    first = torch.full((n_rows, d_vocab), n_pos).scatter_reduce(1, rows.tokens, position, "amin")
    names = first.argsort(dim=1).argsort(dim=1).where(first < n_pos, d_vocab)
    view = torch.cat([rows.place[:, None], names.gather(1, rows.tokens).where(knows, d_vocab)], dim=1)
    return names, _classes(view)


def _classes(view: Int[Tensor, "row column"]) -> Int[Tensor, "row"]:
    """The same number for equal rows, numbered from 0; as many columns at a time as fit into one integer."""
    base = int(view.max()) + 1
    width = int((62 - log2(len(view) + 1)) / log2(base))
    number = torch.zeros(len(view), dtype=torch.long)
    for columns in view.split(width, dim=1):
        for column in columns.unbind(dim=1):
            number = number * base + column
        number = number.unique(return_inverse=True)[1]
    return number


def _shares(
    rows: _Rows,
    hop: int,
    weight: Float[Tensor, "row"],
    names: Int[Tensor, "row symbol"],
    view: Int[Tensor, "row"],
    before: Int[Tensor, "row"] | None,
) -> tuple[float, float, float, float] | None:
    """(open, seen, named, looked) for one hop after one layer; None if no row is open."""
    open_weight, asked_weight = weight.sum(), rows.weight[:, hop - 1].sum()
    if open_weight == 0:
        return None
    slot = rows.chain[:, hop - 1].clamp(min=0)
    answer = rows.tokens.gather(1, slot[:, None])
    d_vocab = names.shape[1]
    unseen = torch.ones(int(view.max()) + 1, dtype=torch.long).scatter(0, view, (names == d_vocab).sum(dim=1))
    by_name = _count(view, names.gather(1, answer).squeeze(1), weight, d_vocab + 1)
    seen, other = by_name[:, :-1].amax(dim=1), by_name[:, -1] / unseen.clamp(min=1)
    looked = torch.zeros(1) if before is None else _count(before, slot, weight, rows.tokens.shape[1]).amax(dim=1)
    right = (seen.sum(), seen.maximum(other).sum(), looked.sum())
    in_seen, in_named, in_looked = (float(share / open_weight) for share in right)
    return float(open_weight / asked_weight), in_seen, in_named, in_looked


def _count(
    group: Int[Tensor, "row"], label: Int[Tensor, "row"], weight: Float[Tensor, "row"], n_labels: int
) -> Float[Tensor, "group label"]:
    """Total weight of each label in each group."""
    n_groups = int(group.max()) + 1
    table = torch.zeros(n_groups * n_labels, dtype=weight.dtype)
    return table.scatter_add(0, group * n_labels + label, weight).unflatten(0, (n_groups, n_labels))
