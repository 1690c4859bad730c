"""Conditional retrieval: a step needs two earlier facts, and the first says which second one.

"Wizards live with their mothers; Harry is a wizard; Harry's mother is Alice; Alice lives in Wonderland." Each symbol p has a
*kind*, stated once ("Harry is a wizard"), and for every kind a *candidate*, stated once each ("Harry's mother is Alice",
"Harry's father is Bob"). The candidate under the symbol's own kind is the next one:

    f(p) = candidate of p under kind(p)

So hop j needs two operands: its *condition*, the kind of f^(j-1)(q), and its *value*, the candidate under this kind. The facts
behind an answer form a directed acyclic graph: what the next two are depends on both of the ones before.

Layout `records`: one record for each symbol, "p kind(p) candidate candidate …", one candidate for each kind in their order; the
records in random order. Layout `pages`: statements of two tokens, first a page of "p kind(p)", then for each kind a page of
"p candidate", in random order on each page: the facts of a step stand apart and must be brought together by their key. In both
the position says what kind of fact it is, but not about whom. The last token is the query.

Every kind has as many symbols (were kinds drawn freely, the commoner kind would be the better guess). The candidates under one
kind are a random permutation; no symbol is its own candidate, nor another's under two kinds. So every symbol stands as a value
as often as every other, no chain ends, and every condition matters. A counterfactual, which changes one token, makes kinds or
values uneven by one. Examples are redrawn until the queried chain steps from D different symbols and each of its links, by
either operand, can be rewired so that all later answers change.

The slot of a kind is a CONDITION slot, not a value slot: its token is no symbol and it stands for the symbol that has the kind.
Find maps follow f as everywhere. Beside them stand the `operands`, all other places that matter: for a position of symbol s,

    hop j         every value slot that holds f^j(s): a symbol stands as a value once for each kind, and who knows the symbol
                  finds any of these places; find^j is the one that the condition chooses
    condition j   the slot that holds the kind of f^(j-1)(s), which decides step j; for j = 0, at a value slot, the kind of the
                  symbol whose candidate stands there, which decides whether it counts
    unchosen j    the value slots of the candidates of f^(j-1)(s) under its other kinds: a head that looks at all candidates,
                  since it does not know the kind yet, must not pass for one that looks at the right one

What a position may know, beside its own symbol s, when it looks there (`Batch.gates`):

    own kind             the kind of s, counted from 0
    place of own kind    where that stands among the kinds of the text, counted from 0: in `records` which record is that of s
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import OPERANDS, Operand
from stackheads.tasks.links import Links, make_links, rerouted
from stackheads.tasks.orders import shuffled_order
from stackheads.tasks.redrawn import redrawn
from stackheads.tasks.statements import StatementTask
from stackheads.types import NOWHERE, Role, Slot

MOST_KINDS = 8
"""Permutations that agree nowhere are drawn until they do: of k the last takes about e^k draws."""

OWN_KIND, PLACE_OF_KIND = "own kind", "place of own kind"


@dataclass(frozen=True)
class ConditionalLinks(Links):
    """Links that conditions decide.

    `conditions`  position of the slot that holds a symbol's kind; -1 for what is no symbol.
    `kinds`       each symbol's kind, counted from 0.
    `candidates`  its candidate under each kind, and …
    `places`      … the value slot where that stands.
    """

    conditions: Int[Tensor, "batch symbol"]
    kinds: Int[Tensor, "batch known"]
    candidates: Int[Tensor, "batch known kind"]
    places: Int[Tensor, "batch known kind"]

    @property
    def needed(self) -> Int[Tensor, "batch symbol"]:
        """The later one of value and condition."""
        return self.keyed.maximum(self.conditions)


class Conditional(StatementTask):
    """`symbols` symbols, the first tokens, of `kinds` kinds, the last ones.

    Context: symbols × (2 + kinds) + 1 with `layout` `records`, 2 × symbols × (1 + kinds) + 1 with `pages`.

    Raises `ConfigError` if kinds < 2 (nothing would be decided), or if symbols are fewer than `fewest_symbols` (too few chains
    could be rewired) or no multiple of kinds.
    """

    kind: Literal["conditional"] = "conditional"
    symbols: int
    kinds: int = 2
    layout: Literal["records", "pages"] = "records"

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        if self.kinds < 2:
            raise ConfigError(f"conditions need at least 2 kinds to decide between, got {self.kinds}: raise kinds")
        if self.kinds > MOST_KINDS:
            raise ConfigError(f"at most {MOST_KINDS} kinds have candidates that differ in time, got {self.kinds}: use fewer")
        needed = fewest_symbols(self.max_hops, self.kinds)
        if self.symbols < needed:
            raise ConfigError(
                f"{self.max_hops} hops with {self.kinds} kinds need at least {needed} symbols, got {self.symbols}: "
                "raise symbols or lower max_hops"
            )
        if self.symbols % self.kinds:
            raise ConfigError(
                f"symbols must be a multiple of the {self.kinds} kinds, as many of each, got {self.symbols}: "
                f"try {needed + self.kinds * ((self.symbols - needed) // self.kinds + 1)}"
            )

    @property
    def name(self) -> str:
        what = f"{self.symbols} symbols of {self.kinds} kinds, {self.layout}"
        return f"conditional retrieval, {what}, D = {self.max_hops}, {self.attention_dir}, {self.supervision}"

    @property
    def n_statements(self) -> int:
        """The number of facts: what kind a symbol is, and its candidates."""
        return self.symbols * (1 + self.kinds)

    @property
    def n_ctx(self) -> int:
        return 1 + (self.symbols * (2 + self.kinds) if self.layout == "records" else 2 * self.n_statements)

    @property
    def _places(self) -> tuple[Int[Tensor, "fact place"], Int[Tensor, "fact place"]]:
        """Positions of keys and of what is said about them: fact 0 is the kind, fact 1 + k the candidate under kind k."""
        fact, place = torch.arange(1 + self.kinds)[:, None], torch.arange(self.symbols)
        if self.layout == "records":
            keys = (place * (2 + self.kinds)).expand(1 + self.kinds, -1)
            return keys, keys + 1 + fact
        keys = 2 * (fact * self.symbols + place)
        return keys, keys + 1

    @property
    def d_vocab(self) -> int:
        return self.symbols + self.kinds

    @property
    def d_answer(self) -> int:
        return self.symbols

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(-self.max_hops, self.max_hops + 1))

    @property
    def operands(self) -> tuple[Role, ...]:
        """`condition` 0..D; `unchosen` 1..D, each kinds - 1 times; every hop but 0, each kinds + 1 times."""
        conditions = [Role("condition", hop) for hop in range(self.max_hops + 1)]
        unchosen = [Role("unchosen", hop) for hop in range(1, self.max_hops + 1) for _ in range(1, self.kinds)]
        return (*conditions, *unchosen, *(Role("hop", hop) for hop in self.hops if hop for _ in range(1 + self.kinds)))

    def chance(self, hop: int) -> float:
        """1 / (symbols - 1): any symbol but the query is as likely to a guesser who follows no link.

        One who follows all candidates but reads no kind is right in 1 / kinds at hop 1, and in little more than 1 / kinds^j at
        hop j, by answering where most ways end (6 symbols of 2 kinds: 29 % at hop 2).
        """
        return 1 / (self.symbols - 1)

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        def draw(missing: int) -> tuple[Tensor, int]:
            tokens = self._any_examples(missing + missing // 4 + 8, generator)
            return tokens[self._rewirable(tokens)], len(tokens)

        none = f"each link must have another way to go, got next to none with {self.symbols} symbols: use more symbols"
        return redrawn(n, draw, none)

    def _any_examples(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        device = generator.device
        kind = shuffled_order(n, self.symbols, generator) % self.kinds
        facts = torch.stack([self.symbols + kind, *self._relations(n, generator)], dim=1)
        order = shuffled_order(n, self.symbols, generator)[:, None].expand_as(facts)
        if self.layout == "pages":
            order = torch.stack([shuffled_order(n, self.symbols, generator) for _ in range(1 + self.kinds)], dim=1)
        tokens = torch.empty(n, self.n_ctx, dtype=torch.long, device=device)
        keys, values = self._places
        tokens[:, keys], tokens[:, values] = order, facts.gather(2, order)
        tokens[:, -1] = torch.randint(self.symbols, (n,), generator=generator, device=device)
        return tokens

    def _relations(self, n: int, generator: torch.Generator) -> list[Int[Tensor, "batch known"]]:
        """A permutation for each kind that agrees nowhere with the others or with the identity."""
        relations = [torch.arange(self.symbols, device=generator.device).expand(n, -1)]
        while len(relations) <= self.kinds:
            relation = shuffled_order(n, self.symbols, generator)
            while bool((again := torch.stack([relation == other for other in relations]).any(dim=(0, 2))).any()):
                relation[again] = shuffled_order(int(again.sum()), self.symbols, generator)
            relations.append(relation)
        return relations[1:]

    def _rewirable(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch"]:
        """Whether the queried chain steps from different symbols and each of its links can be rewired by either operand."""
        links = self._links(tokens)
        keys = [tokens[:, -1]]
        for _ in range(self.max_hops - 1):
            keys.append(links.forward.gather(1, keys[-1][:, None]).squeeze(1))
        ordered = torch.stack(keys, dim=1).sort(dim=1).values
        good = (ordered[:, 1:] != ordered[:, :-1]).all(dim=1)
        for number, key in enumerate(keys):
            for operand in OPERANDS:
                good = good & self._rewirings(links, key, self.max_hops - number, operand)[1].any(dim=1)
        return good

    def _links(self, tokens: Int[Tensor, "batch pos"]) -> ConditionalLinks:
        keys, values = (places.to(tokens.device) for places in self._places)
        order = tokens[:, keys].argsort(dim=2)  # the facts of one kind by whom they are about
        stated = tokens[:, values].gather(2, order)
        slots = values.expand_as(order).gather(2, order)
        kinds = stated[:, 0] - self.symbols
        candidates, places = stated[:, 1:].transpose(1, 2), slots[:, 1:].transpose(1, 2)
        values, value_slots = (table.gather(2, kinds[..., None]).squeeze(2) for table in (candidates, places))
        symbol = torch.arange(self.symbols, device=tokens.device).expand_as(values)
        plain = make_links(symbol, values, value_slots, self.d_vocab)
        conditions = torch.full_like(plain.keyed, NOWHERE)
        conditions[:, : self.symbols] = slots[:, 0]
        return ConditionalLinks(**vars(plain), conditions=conditions, kinds=kinds, candidates=candidates, places=places)

    def _slots(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        slots = torch.full((self.n_ctx,), Slot.KEY, dtype=torch.long)
        values = self._places[1]
        slots[values[0]], slots[values[1:]], slots[-1] = Slot.CONDITION, Slot.VALUE, Slot.QUERY
        return slots.to(tokens.device).expand_as(tokens)

    def _symbols(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The symbol held, and at a condition slot the symbol that has the kind."""
        return torch.where(tokens < self.symbols, tokens, self._about(tokens))

    def _gates(self, links: Links, symbols: Int[Tensor, "batch pos"]) -> dict[str, Int[Tensor, "batch pos"]]:
        assert isinstance(links, ConditionalLinks)
        standing = self._places[1][0].to(symbols.device)  # where the kinds stand, in the order of the text
        place = torch.searchsorted(standing, links.conditions.gather(1, symbols).contiguous())
        return super()._gates(links, symbols) | {OWN_KIND: links.kinds.gather(1, symbols), PLACE_OF_KIND: place}

    def _about(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """Whom each position says something about; its own token at key slots and the query."""
        position = torch.arange(self.n_ctx)
        keys, values = self._places
        position[values] = keys
        return tokens[:, position.to(tokens.device)]

    def _operands(self, links: Links, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch operand pos"]:
        assert isinstance(links, ConditionalLinks)
        own = links.conditions.gather(1, self._about(tokens))
        conditions, unchosen = [own.where(self._slots(tokens) == Slot.VALUE, NOWHERE)], []
        others, symbol = self._unchosen(links), self._symbols(tokens)
        for _ in range(self.max_hops):
            conditions.append(links.conditions.gather(1, symbol))
            unchosen += [slots.gather(1, symbol) for slots in others]
            symbol = links.forward.gather(1, symbol)
        return torch.cat([torch.stack(conditions + unchosen, dim=1), self._holders(links, tokens)], dim=1)

    def _holders(self, links: Links, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch operand pos"]:
        """The value slots that hold f^j of each position's symbol: kinds, one more in a counterfactual."""
        position = torch.arange(self.n_ctx, device=tokens.device)
        holds = (tokens == torch.arange(links.none + 1, device=tokens.device)[:, None, None]) & (
            self._slots(tokens) == Slot.VALUE
        )
        places = position.where(holds.transpose(0, 1), NOWHERE).topk(1 + self.kinds, dim=2).values
        maps = []
        for hop in self.hops:
            symbol, step = self._symbols(tokens), links.forward if hop > 0 else links.backward
            for _ in range(abs(hop)):
                symbol = step.gather(1, symbol)
            if hop:
                maps += [place.gather(1, symbol) for place in places.unbind(dim=2)]
        return torch.stack(maps, dim=1)

    def _unchosen(self, links: ConditionalLinks) -> list[Int[Tensor, "batch symbol"]]:
        """Tables of the value slots of each symbol's candidates under its other kinds."""
        tables = []
        for shift in range(1, self.kinds):
            slots = torch.full_like(links.keyed, NOWHERE)
            slots[:, : self.symbols] = links.places.gather(2, ((links.kinds + shift) % self.kinds)[..., None]).squeeze(2)
            tables.append(slots)
        return tables

    def _rewirings(
        self, links: Links, key: Int[Tensor, "batch"], steps: int, operand: Operand
    ) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch token"]]:
        if operand == "value":
            return super()._rewirings(links, key, steps, operand)
        assert isinstance(links, ConditionalLinks)
        possible = torch.zeros(len(key), self.d_vocab, dtype=torch.bool, device=key.device)
        possible[:, self.symbols :] = rerouted(links, key, steps).gather(1, _of(links.candidates, key))
        return links.conditions.gather(1, key[:, None]).squeeze(1), possible

    def _replacements(self, links: Links, key: Int[Tensor, "batch"], steps: int) -> Bool[Tensor, "batch symbol"]:
        """Any symbol but the key itself and its candidates."""
        assert isinstance(links, ConditionalLinks)
        allowed = (torch.arange(self.d_vocab, device=key.device) < self.symbols).repeat(len(key), 1)
        return allowed.scatter(1, torch.cat([key[:, None], _of(links.candidates, key)], dim=1), False)


def fewest_symbols(hops: int, kinds: int) -> int:
    """The least multiple of kinds that leaves a rewired link somewhere to go: at least hops + kinds + 1."""
    return max(kinds, 1) * (2 + hops // max(kinds, 1))


def _of(candidates: Int[Tensor, "batch known kind"], key: Int[Tensor, "batch"]) -> Int[Tensor, "batch kind"]:
    """The candidates of one symbol of each example."""
    return candidates[torch.arange(len(key), device=key.device), key]
