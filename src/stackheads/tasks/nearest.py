"""One nearest neighbour in context (arXiv 2411.10830): the answer is the value of the key that lies nearest to the query.

Keys and query are codes on a ring of `symbols`, distance is the number of steps between two. An example draws its keys, all
different, a value for each, evenly and independent of the keys, and a query: any code of which one key is the nearest, which
may be that key itself. Mostly the query is no key, so that looking for an equal code does not do; and values tell nothing of
where keys lie, so that nothing but the nearest key does.

What is theirs: pairs of input and label drawn anew for each prompt, labels independent of inputs, a token that is a pair, one
query at the end that is marked as such, distances on a closed surface (a sphere, of which a ring of codes is the case of one
dimension). What is changed: inputs are codes, so that the geometry is in no token and has to be learned, unless codes are
embedded as points on a circle (`vectors`) and the embedding is frozen, as theirs is; labels are symbols, and the loss is
cross-entropy; queries with two nearest keys are left out, since a question here has one right answer.

Layouts:

    pairs         a token for each combination of code and value, and of each pair this one; then the query, with codes of its
                  own: theirs, in which one layer can do. Each pair is a value slot
    statements    a code (key slot), its value (value slot), and so on; the query is a code like the keys. As everywhere here;
                  who reads a value has to learn first whose it is, which takes one layer more

Find^1 of the query is the value slot of the nearest key, so that hop 1 is "the nearest" in this task; that of a key slot is the
one of the nearest key before. It is nowhere from other positions and where two keys are nearest. Beside it stands the operand

    unchosen 1    the value slots of the keys that lie second nearest, one or two: a head that looks at all keys close by must
                  not pass for one that looks at the nearest

Token ids with `pairs`: code × values + value, then the queries; with `statements`: codes, then values. Answers: the values.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.tasks.orders import shuffled_order
from stackheads.types import IGNORE, NOWHERE, Role, Slot


class NearestNeighbour(StoredTask):
    """Prompts of `pairs` pairs of a code out of `symbols`, on a ring, and one of `values`; causal.

    `layout`       `pairs`: a token is a pair; `statements`: a token for the key, one for its value.
    `supervision`  `final`: the question at the query, theirs; `dense`, with `statements`: the same at every key slot, of the
                   keys before, which for the first ones is easy.

    Context: pairs + 1 with `layout` `pairs`, 2 × pairs + 1 with `statements`. Raises `ConfigError` for max_hops other than 1,
    pairs < 2 (nothing to choose from), symbols < pairs (keys differ), values < 2, attention that looks ahead or `dense` with
    `pairs` (a pair holds its own value).
    """

    kind: Literal["nearest"] = "nearest"
    max_hops: int = 1
    symbols: int = 32
    pairs: int = 8
    values: int = 8
    layout: Literal["pairs", "statements"] = "pairs"
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "final"

    def model_post_init(self, context: object) -> None:
        if self.max_hops != 1:
            raise ConfigError(f"the nearest key is one hop away, got max_hops {self.max_hops}: use 1")
        if self.pairs < 2:
            raise ConfigError(f"a nearest key needs at least 2 pairs to choose from, got {self.pairs}: use more")
        if self.symbols < self.pairs:
            raise ConfigError(f"keys differ: {self.pairs} pairs need as many symbols, got {self.symbols}: raise symbols")
        if self.values < 2:
            raise ConfigError(f"an answer needs at least 2 values to choose from, got {self.values}: use more")
        if self.attention_dir != "causal":
            raise ConfigError("pairs stand before their query, got attention_dir bidirectional: use causal")
        if self.supervision == "dense" and self.layout == "pairs":
            raise ConfigError("a pair holds its own value, got supervision dense: use final, or layout statements")

    @property
    def name(self) -> str:
        what = f"{self.pairs} pairs, {self.symbols} codes, {self.values} values, {self.layout}, {self.supervision}"
        return f"nearest neighbour in context, {what}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example, the query included."""
        return (1 if self.layout == "pairs" else 2) * self.pairs + 1

    @property
    def d_vocab(self) -> int:
        """Every pair and every query, or codes and values."""
        return self.symbols * (self.values + 1) if self.layout == "pairs" else self.symbols + self.values

    @property
    def d_vocab_out(self) -> int:
        """Values."""
        return self.values

    @property
    def hops(self) -> tuple[int, ...]:
        return (1,)

    @property
    def operands(self) -> tuple[Role, ...]:
        """`unchosen 1`, twice: two keys may lie equally far, one to each side."""
        return (Role("unchosen", 1), Role("unchosen", 1))

    @property
    def value_slots(self) -> Int[Tensor, "pair"]:
        """Where the value of each pair stands."""
        return torch.arange(self.pairs) if self.layout == "pairs" else 2 * torch.arange(self.pairs) + 1

    def chance(self, hop: int) -> float:
        """1 / values: any value is as likely to a guesser who reads no pair.

        One who reads values but no keys is right more often, by answering what most pairs say (8 pairs of 8 values: 31 %).
        """
        return 1 / self.values

    def distance(self, one: Int[Tensor, "..."], other: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Steps on the ring from one code to another, in 0..symbols // 2."""
        steps = (one - other) % self.symbols
        return steps.minimum(self.symbols - steps)

    def vectors(self, d_model: int) -> Float[Tensor, "token d_model"]:
        """Tokens as theirs are: a code is a point on the unit circle, so that inner products fall with the steps between two,
        and a value a unit vector beside it; with `pairs` one more number marks the query.

        2 + values + 1 numbers, the others 0. Raises `ConfigError` for a d_model below.
        """
        if d_model < (needed := 3 + self.values):
            raise ConfigError(f"codes, values and query as vectors need d_model {needed}, got {d_model}: make it wider")
        angle = 2 * torch.pi * torch.arange(self.symbols) / self.symbols
        codes, values = torch.zeros(self.symbols, d_model), torch.zeros(self.values, d_model)
        codes[:, :2] = torch.stack([angle.cos(), angle.sin()], dim=1)
        values[:, 2 : 2 + self.values] = torch.eye(self.values)
        if self.layout == "statements":
            return torch.cat([codes, values])
        queries = codes.clone()
        queries[:, 2 + self.values] = 1
        return torch.cat([(codes[:, None] + values).flatten(0, 1), queries])

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        device = generator.device
        keys = shuffled_order(n, self.symbols, generator)[:, : self.pairs]
        values = torch.randint(self.values, (n, self.pairs), generator=generator, device=device)
        code = torch.arange(self.symbols, device=device)[None, :, None]
        nearest, second = self.distance(code, keys[:, None]).topk(2, largest=False).values.unbind(dim=2)
        query = torch.multinomial((nearest < second).double(), 1, generator=generator).squeeze(1)  # of a key, it is the nearest
        return self.batch(self.tokens(keys, values, query))

    def tokens(
        self, keys: Int[Tensor, "batch pair"], values: Int[Tensor, "batch pair"], query: Int[Tensor, "batch"]
    ) -> Int[Tensor, "batch pos"]:
        """The prompts that codes in [0, symbols) and values in [0, values) make."""
        if self.layout == "pairs":
            pairs, asked = keys * self.values + values, self.symbols * self.values + query
        else:
            pairs, asked = torch.stack([keys, self.symbols + values], dim=2).flatten(1), query
        return torch.cat([pairs, asked[:, None]], dim=1)

    def read(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[Int[Tensor, "batch pair"], Int[Tensor, "batch pair"], Int[Tensor, "batch"]]:
        """Keys, values and query of prompts: what `tokens` wrote."""
        if self.layout == "pairs":
            pairs = tokens[:, :-1]
            return pairs // self.values, pairs % self.values, tokens[:, -1] - self.symbols * self.values
        return tokens[:, :-1:2], tokens[:, 1::2] - self.symbols, tokens[:, -1]

    def distances(self, batch: Batch) -> Int[Tensor, "batch pair"]:
        """Steps from the query to each key."""
        keys, _, query = self.read(batch.tokens)
        return self.distance(query[:, None], keys)

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        keys, values, query = self.read(tokens)
        codes, asking, slots = query[:, None], [self.n_ctx - 1], torch.full_like(tokens, Slot.VALUE)
        if self.layout == "statements":
            codes, asking = torch.cat([keys, codes], dim=1), list(range(0, self.n_ctx, 2))
            slots[:, ::2] = Slot.KEY
        slots[:, -1] = Slot.QUERY
        value_slots, place = self.value_slots.to(tokens.device), torch.tensor(asking, device=tokens.device)
        # Of each position that asks the distance of each key, [batch, asking, pair]; of those behind it more than there is.
        far = self.distance(codes[:, :, None], keys[:, None]).where(value_slots < place[:, None], self.symbols)
        one, second = self._ranks(far)
        maps = torch.full_like(tokens, NOWHERE)[:, None].repeat(1, 3, 1)  # the nearest, and two that may be second
        maps[:, :1, place] = self._slots_of(one, 1)
        maps[:, 1:, place] = self._slots_of(second, 2)
        answer = torch.full_like(tokens, IGNORE)
        told = values.gather(1, one.long().argmax(dim=2)).where(one.any(dim=2), IGNORE)
        asked = slice(None) if self.supervision == "dense" else slice(-1, None)
        answer[:, place[asked]] = told[:, asked]
        return Batch(
            tokens,
            answer[..., None],
            (answer >= 0).long()[..., None],
            maps[:, :1],
            slots,
            operands=maps[:, 1:],
            gates={"own symbol": torch.cat([keys, query[:, None]], dim=1) if self.layout == "pairs" else tokens},
        )

    def _ranks(self, far: Int[Tensor, "batch asking pair"]) -> list[Bool[Tensor, "batch asking pair"]]:
        """Which pair is nearest, and which are second nearest; none where several are nearest."""
        nearest = far.amin(dim=2, keepdim=True)
        second = far.where(far > nearest, self.symbols).amin(dim=2, keepdim=True)
        decided = (far == nearest).sum(dim=2, keepdim=True) == 1
        return [(far == each) & (far < self.symbols) & decided for each in (nearest, second)]

    def _slots_of(self, chosen: Bool[Tensor, "batch asking pair"], most: int) -> Int[Tensor, "batch {most} asking"]:
        """The value slots of chosen pairs, of which there are `most` at most."""
        return self.value_slots.to(chosen.device).where(chosen, NOWHERE).topk(most, dim=2).values.transpose(1, 2)

    def readout(self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos readout value"]:
        """One readout: the value."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same prompts with another value for the nearest key, drawn evenly. Raises `ConfigError` if hop is not 1."""
        if hop != 1:
            raise ConfigError(f"a counterfactual's hop must be in 1..1, got {hop}: name a link of the chain")
        tokens, where = batch.tokens, batch.find[:, 0, -1:]
        begins = 0 if self.layout == "pairs" else self.symbols
        before = tokens.gather(1, where) - begins
        value = before % self.values
        steps = torch.randint(1, self.values, where.shape, generator=generator, device=tokens.device)
        after = before - value + (value + steps) % self.values
        return self.batch(tokens.scatter(1, where, begins + after))
