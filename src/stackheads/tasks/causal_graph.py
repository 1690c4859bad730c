"""In-context causal structure (Nichani, Damian & Lee 2024, arXiv 2402.14735, §2): each symbol follows from that of its parents.

A latent graph, part of the task's settings, gives each position its *parents*, earlier positions, or none: a root. For every
example a rule is drawn anew. The symbol of a root is drawn uniformly, that of any other position follows from its parents' by
the rule. The last positions, as many as a position has parents, are roots; the last one is the query, which asks what would
follow from these. Nothing else than the symbols before tells the rule, and who does not know the graph can't read it off them:
in their construction the first layer looks from each position at its parents, and the second from the query at the positions
whose parents hold what is asked, the *cases* of the question.

What is theirs: graphs fixed for the task, a random transition matrix for each sequence, roots from the stationary distribution,
a query drawn apart from the sequence, for several parents the last positions as the asked ones (§5), and one question, at the
end. What is changed, since a question here has one right answer: their rows are drawn from a Dirichlet distribution, and the
loss is that of a symbol drawn from the row. Here a row has the share 1 - `noise` on one symbol and the rest on all evenly, so
that the matrix of one parent is a random permutation with noise; with several parents a1, a2, … the symbol is
c(b1(a1) + b2(a2) + … mod symbols) with random permutations b1, b2, …, c. Every symbol is then equally frequent at every root
and in every row, and all parents but one tell nothing. The right answer is the one that most cases give, which is the mode of
the row as the sequence shows it; what is asked is drawn evenly from all that has one.

Graphs: `chain`, the parents are the positions just before; `tree`, position 0 is the only root and each parent is drawn evenly
from all positions before; `dag`, each position is a root with probability `ROOTS`, beside the first ones, and the others have
`in_degree` different parents, drawn so, too.

Every position but the query is a value slot: slots do not tell roots from others. Find^1(i) is the last case before i that
holds the answer to what position i and those just before hold. No role is the parent: which positions are parents is what an
analysis is to find. Beside the find map stand the `operands`,

    hop 1    all cases, those that say something else than most as well: who looks by what parents hold can't tell them apart
    key j    position j, from value slots that it does not stand just before; position 0 is the `start`, and the one before
             `previous`. With the *own place* that positions know (`Batch.gates`) any graph can be said in these words
"""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.seeds import Stream, stream
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.tasks.orders import shuffled_order
from stackheads.tasks.redrawn import redrawn
from stackheads.types import IGNORE, NOWHERE, Role, Slot

GraphName = Literal["chain", "tree", "dag"]
ROOTS = 1 / 4
"""The share of positions of a `dag` that are roots."""

Parents = tuple[tuple[int, ...], ...]
"""The parents of each position in ascending order; none: a root."""


class CausalGraph(StoredTask):
    """Sequences of `context` symbols, the query included, out of `symbols`; causal, one hop.

    `graph`, `in_degree`, `graph_seed`  which latent graph: `chain`, `tree` or `dag`, the parents of a position that is no root,
                                        and the seed that `tree` and `dag` are drawn with.
    `noise`                             the share of symbols that are drawn evenly instead of by the rule.
    `supervision`                       `final`: the question at the query, theirs; `dense`: the same at every position, of the
                                        cases before.

    Raises `ConfigError` for max_hops other than 1, symbols < 2, in_degree < 1, a tree of in-degree other than 1, a context
    without room for roots, a case and two positions asked about, noise outside [0, 1), or a graph_seed that is no seed.
    """

    kind: Literal["graph"] = "graph"
    max_hops: int = 1
    context: int
    symbols: int
    graph: GraphName = "tree"
    in_degree: int = 1
    graph_seed: int = 0
    noise: float = 0.2
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "final"

    def model_post_init(self, context: object) -> None:
        if self.max_hops != 1:
            raise ConfigError(f"causal structure asks for one hop, got max_hops {self.max_hops}: use 1")
        if self.symbols < 2:
            raise ConfigError(f"an answer needs at least 2 symbols to choose from, got {self.symbols}: use more")
        if self.in_degree < 1 or (self.graph == "tree" and self.in_degree > 1):
            most = "1" if self.graph == "tree" else "at least 1"
            raise ConfigError(f"in_degree of a {self.graph} must be {most}, got {self.in_degree}: use it, or graph dag")
        if self.context < 2 * self.in_degree + 2:
            needed = f"{2 * self.in_degree + 2} positions with in_degree {self.in_degree}"
            raise ConfigError(f"the context must hold at least {needed}, got {self.context}: make it longer")
        if not 0 <= self.noise < 1:
            raise ConfigError(f"noise must be a share in [0, 1), got {self.noise}: leave something to the rule")
        if self.attention_dir != "causal":
            raise ConfigError("parents stand before their children, got attention_dir bidirectional: use causal")
        _ = self.parents  # a seed that is none is told at once

    @property
    def name(self) -> str:
        graph = self.graph if self.graph == "chain" else f"{self.graph} {self.graph_seed}"
        what = f"{graph} of in-degree {self.in_degree}, {self.symbols} symbols, context {self.context}"
        return f"causal structure, {what}, noise {self.noise:g}, {self.supervision}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example, the query included."""
        return self.context

    @property
    def d_vocab(self) -> int:
        return self.symbols

    @property
    def d_vocab_out(self) -> int:
        return self.symbols

    @property
    def hops(self) -> tuple[int, ...]:
        return (1,)

    @property
    def operands(self) -> tuple[Role, ...]:
        """`key` 1..context - 4, then `hop 1` as often as there may be cases."""
        return (*(Role("key", place) for place in self._keys), *[Role("hop", 1)] * len(self._children))

    @property
    def parents(self) -> Parents:
        """The latent graph."""
        return draw_graph(self.graph, self.context, self.in_degree, self.graph_seed)

    @property
    def edges(self) -> frozenset[tuple[int, int]]:
        """The latent graph as (child, parent) pairs."""
        return frozenset((child, parent) for child, mine in enumerate(self.parents) for parent in mine)

    @property
    def _keys(self) -> range:
        return range(1, self.context - 3)

    @property
    def _children(self) -> list[int]:
        return [child for child, mine in enumerate(self.parents) if mine]

    def chance(self, hop: int) -> float:
        """1 / symbols: any symbol is as likely to a guesser who does not know the graph and reads no case."""
        return 1 / self.symbols

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples, each with a rule of its own. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")

        def draw(missing: int) -> tuple[Tensor, int]:
            tokens = self._sequences(missing, generator)
            askable = self._askable(tokens)
            some = askable.any(dim=1)
            tokens, askable = tokens[some], askable[some]
            if len(tokens):
                question = torch.multinomial(askable.double(), 1, generator=generator)
                tokens[:, -self.in_degree :] = question // self._powers(tokens) % self.symbols
            return tokens, missing

        none = f"a question must have one right answer, got none that has in {self.context} positions: use a longer context"
        return self.batch(redrawn(n, draw, none))

    def _sequences(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Sequences by a rule each; the positions asked about are left as drawn."""
        device = generator.device
        drawn = torch.randint(self.symbols, (n, self.context), generator=generator, device=device)
        noisy = torch.rand(n, self.context, generator=generator, device=device, dtype=torch.float) < self.noise
        of_parents = shuffled_order(n * self.in_degree, self.symbols, generator).unflatten(0, (n, self.in_degree))
        of_sum = shuffled_order(n, self.symbols, generator)
        tokens = drawn.clone()
        for child, mine in enumerate(self.parents):
            if mine:
                terms = of_parents.gather(2, tokens[:, list(mine), None]).squeeze(2)  # [batch, parent]
                ruled = of_sum.gather(1, terms.sum(dim=1, keepdim=True) % self.symbols).squeeze(1)
                tokens[:, child] = torch.where(noisy[:, child], drawn[:, child], ruled)
        return tokens

    def _powers(self, tokens: Tensor) -> Int[Tensor, "parent"]:
        """What each parent's symbol counts in the number of a question."""
        return self.symbols ** torch.arange(self.in_degree, device=tokens.device)

    def _of_parents(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch child"]:
        """The question of which each child is a case, as a number."""
        mine = torch.tensor([self.parents[child] for child in self._children], device=tokens.device)
        return (tokens[:, mine] * self._powers(tokens)).sum(dim=2)

    def _askable(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch question"]:
        """Whether the cases of each question have one commonest symbol."""
        said = torch.nn.functional.one_hot(tokens[:, self._children], self.symbols)
        number = self._of_parents(tokens)[..., None].expand_as(said)
        counts = said.new_zeros(len(tokens), self.symbols**self.in_degree, self.symbols).scatter_add(1, number, said)
        return _commonest(counts) >= 0

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        position = torch.arange(self.context, device=tokens.device)
        child = torch.tensor(self._children, device=tokens.device)
        first = self.in_degree - 1  # before this position there is nothing to ask about
        windows = tokens.unfold(1, self.in_degree, 1)  # [batch, pos from first on, parent]
        asked_for = (windows * self._powers(tokens)).sum(dim=2)
        case = (asked_for[:, :, None] == self._of_parents(tokens)[:, None, :]) & (child < position[first:, None])
        case = torch.nn.functional.pad(case, (0, 0, first, 0))  # [batch, pos, child]
        said = torch.nn.functional.one_hot(tokens[:, child], self.symbols)
        answer = _commonest(case.long() @ said)
        agrees = case & (tokens[:, None, child] == answer[:, :, None])
        find = torch.where(agrees, child, NOWHERE).amax(dim=2)
        cases = torch.where(case, child, NOWHERE).transpose(1, 2)  # [batch, child, pos]
        place = torch.tensor(self._keys, dtype=torch.long, device=tokens.device)[:, None]
        named = (place < position - 1) & (position < self.context - 1)
        keys = place.where(named, NOWHERE).expand(len(tokens), -1, -1)
        slots = torch.full_like(tokens, Slot.VALUE)
        slots[:, -1] = Slot.QUERY
        asked = (answer >= 0) & ((slots == Slot.QUERY) | (self.supervision == "dense"))
        return Batch(
            tokens,
            answer.where(asked, IGNORE)[..., None],
            asked.long()[..., None],
            find[:, None],
            slots,
            operands=torch.cat([keys, cases], dim=1),
            gates={"own symbol": tokens, "own place": position.expand_as(tokens)},
        )

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """One readout: what would follow."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same examples with the last case that gives the query's answer saying something else, so that another answer is
        the commonest.

        An example in which one case can't change the answer stays as it is. Raises `ConfigError` if hop is not 1.
        """
        if hop != 1:
            raise ConfigError(f"a counterfactual's hop must be in 1..1, got {hop}: name a link of the chain")
        tokens, where = batch.tokens, batch.find[:, 0, -1:]
        before = self.batch(tokens).targets[:, -1, 0]
        after = [
            self.batch(tokens.scatter(1, where, torch.full_like(where, symbol))).targets[:, -1, 0]
            for symbol in range(self.symbols)
        ]
        fits = torch.stack([(answer >= 0) & (answer != before) for answer in after], dim=1)
        changeable = fits.any(dim=1, keepdim=True)
        drawn = torch.multinomial(torch.where(changeable, fits, True).double(), 1, generator=generator)
        return self.batch(tokens.scatter(1, where, drawn.where(changeable, tokens.gather(1, where))))


@cache
def draw_graph(graph: GraphName, context: int, in_degree: int, seed: int) -> Parents:
    """The graph of a name, with the last `in_degree` positions as roots; the same arguments give the same one.

    Raises `ConfigError` for a seed that is none.
    """
    generator = stream(seed, Stream.GRAPH)
    parents: list[tuple[int, ...]] = []
    for child in range(context):
        root = child < in_degree or child >= context - in_degree
        if graph == "dag" and child > in_degree:  # one child there must be
            root = root or torch.rand((), generator=generator, dtype=torch.float).item() < ROOTS
        if root:
            parents.append(())
        elif graph == "chain":
            parents.append(tuple(range(child - in_degree, child)))
        else:
            mine = torch.randperm(child, generator=generator)[:in_degree]
            parents.append(tuple(sorted(mine.tolist())))
    return tuple(parents)


def _commonest(counts: Int[Tensor, "*rest symbol"]) -> Int[Tensor, "*rest"]:
    """The symbol that is counted most often; NOWHERE if none is, or several are."""
    most, second = counts.topk(2, dim=-1).values.unbind(dim=-1)
    return counts.argmax(dim=-1).where(most > second, NOWHERE)
