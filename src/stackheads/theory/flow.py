"""The exact flow of information on given examples, under the assumption that heads use only what shares information with them.

State: for each example a boolean matrix, knows[i, p]: what position i holds depends on the token at p. At first each position
knows itself. Two positions are joined if they are one, hold one token, or are the slots of one statement. In a layer position
i learns all that position k knows, for every k that the mask lets it attend to (causal: k ≤ i) such that something i knows
and something k knows are joined. This is what unlimited heads and widths could do under the assumption, no more and no less.

Hop j is *readable* at a position once it knows the whole chain to the answer: key and value slot of every statement on the
way. Where it meets `bounds.py`: looking both ways it is the closed form in every example; so it is causal with definitions
first, at the query and at value slots. In other causal orders a value slot sees the whole chain to hop j in one of j + 1
examples on average, when its statement is the last of j + 1; otherwise the hop is not computable there in any depth. Where it
is, and at the query, the closed form is the worst case: a slot that stands after both of its neighbours knows the chain both
ways, so lucky examples need fewer layers.

Cost: per layer three products of [pos, pos] matrices for each example; no loop over examples or positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.limits import check_memory, check_number
from stackheads.seeds import Stream, stream
from stackheads.tasks.base import AttentionDir, Batch, Task
from stackheads.tasks.links import read_links
from stackheads.tasks.statements import StatementTask
from stackheads.types import Destination

PLACES = (Destination.QUERY, Destination.VALUE, Destination.KEY)
"""What an example made of statements of two tokens and a query consists of."""


@dataclass(frozen=True)
class Least:
    """How many layers a hop needs at a destination, on a sample.

    `layers` is the least number at which it is readable in every row, `first` in some row; None if never. `shares[t]` is the
    share of rows in which it is readable after t layers, up to the layer after which nothing changes. A row is a position of
    this destination for which the chain goes on for so many hops; `rows` may be 0.
    """

    destination: Destination
    hop: int
    rows: int
    layers: int | None
    first: int | None
    shares: tuple[float, ...]


def joined(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """Which positions share token or position information: equal tokens, or slots of one statement. True on the diagonal."""
    statement = torch.arange(tokens.shape[1], device=tokens.device) // 2
    return (tokens[:, :, None] == tokens[:, None, :]) | (statement[:, None] == statement)


def knowledge(tokens: Int[Tensor, "batch pos"], attention_dir: AttentionDir) -> Iterator[Bool[Tensor, "batch pos pos"]]:
    """What each position knows after 0, 1, 2, … layers; ends where one more layer changes nothing in any example."""
    n_pos = tokens.shape[1]
    mask = torch.ones(n_pos, n_pos, dtype=torch.bool, device=tokens.device)
    mask = mask.tril() if attention_dir == "causal" else mask
    edges = joined(tokens).float()
    knows = torch.eye(n_pos, device=tokens.device).expand_as(edges)
    while True:
        yield knows > 0
        touching = ((knows @ edges).clamp(max=1) @ knows.mT > 0) & mask
        learnt = (touching.float() @ knows).clamp(max=1)
        if torch.equal(learnt, knows):
            return
        knows = learnt


def check_plain(task: Task) -> StatementTask:
    """The task, made of statements of two tokens each of which is a link. Raises `ConfigError` for another."""
    if not isinstance(task, StatementTask) or not {role.name for role in task.operands} <= {"hop", "key"}:
        rule = "theory counts links between statements of two tokens"
        raise ConfigError(f"{rule}, {task.name} has others: use cycle or retrieval")
    return task


def chains(task: StatementTask, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch hop pos"]:
    """Value slot that answers hops 1..max_hops of each position's symbol, whatever the mask; -1 where the chain has ended.

    Raises `ConfigError` for a task that is made of others than statements of two tokens.
    """
    check_plain(task)
    links, symbol, slots = read_links(tokens, task.d_vocab), tokens, []
    for _ in range(task.max_hops):
        slots.append(links.keyed.gather(1, symbol))
        symbol = links.forward.gather(1, symbol)
    return torch.stack(slots, dim=1)


def chain_known(knows: Bool[Tensor, "batch pos pos"], chain: Int[Tensor, "batch hop pos"]) -> Bool[Tensor, "batch hop pos"]:
    """Whether each position knows both slots of every statement up to hop j; False where the chain has ended."""
    slot = chain.clamp(min=1).mT
    link = knows.gather(2, slot) & knows.gather(2, slot - 1) & (chain.mT >= 0)
    return link.mT.cummin(dim=1).values


def readable(task: StatementTask, batch: Batch) -> dict[Destination, Float[Tensor, "layer hop"]]:
    """Share of rows in which hop j is readable after t = 0, 1, … layers, for each destination; nan where there are no rows."""
    chain = chains(task, batch.tokens)
    shares: dict[Destination, list[Tensor]] = {destination: [] for destination in PLACES}
    for knows in knowledge(batch.tokens, task.attention_dir):
        known = chain_known(knows, chain)
        for destination in PLACES:
            here = (batch.slots == destination.slot)[:, None]
            rows = (here & (chain >= 0)).sum(dim=(0, 2))
            shares[destination].append((here & known).sum(dim=(0, 2)).double() / rows)
    return {destination: torch.stack(layers) for destination, layers in shares.items()}


def least_layers(task: StatementTask, examples: int = 256, seed: int = 0) -> list[Least]:
    """Least layers for each destination and hop 1..max_hops, on examples of the task.

    In causal orders other than definition-first they differ between examples, and hold for those drawn. Raises `ConfigError` if
    examples < 1, or more than fit into memory.
    """
    examples = check_number("the number of examples", examples, 1)
    check_memory(f"what {examples:,} examples of {task.n_ctx:,} tokens know", 4 * examples * task.n_ctx**2)
    batch = task.sample(examples, stream(seed, Stream.FLOW))
    chain = chains(task, batch.tokens)
    found = []
    for destination, shares in readable(task, batch).items():
        rows = ((batch.slots == destination.slot)[:, None] & (chain >= 0)).sum(dim=(0, 2)).tolist()
        for hop in range(1, task.max_hops + 1):
            series = tuple(shares[:, hop - 1].tolist()) if rows[hop - 1] else ()
            layers = next((t for t, share in enumerate(series) if share == 1), None)
            first = next((t for t, share in enumerate(series) if share > 0), None)
            found.append(Least(destination, hop, rows[hop - 1], layers, first, series))
    return found
