"""Contextual generalisation (Yang et al. 2024, arXiv 2408.10147): pairs (x, f(x)) name one of several known functions.

m *templates*, functions from symbols to values, are part of the task's settings. Each example draws one, f, shows the pairs
(x, f(x)) of some symbols, each once, and asks for f(q) of a symbol that is in none of them. No position holds the answer: who
answers must find the template that agrees with the pairs, and know what it says of q.

What is theirs: functions that are fixed for training and never shown whole, symbols from a fixed vocabulary, few pairs, and
questions about symbols without one. What is changed, since a question here has one right answer: their functions fill a linear
space with m basis functions, their values are numbers with noise, and the loss is that of the values of all symbols. Here f is
one of m, there is no noise, and one symbol is asked about.

The right answer is found by elimination: the templates that agree with all pairs must agree at q. Examples are redrawn until
they do. At each symbol every value is that of as many templates, in an order drawn at random: so who reads no pair is right in
1 / values, each pair leaves 1 / values of the templates, and it takes several to tell them apart.

Layout `statements`: "begin x y x y … ask q", key slot and value slot for each pair. Layout `pairs`: "begin xy xy … ask q", one
token for each pair, as in their prompts, where symbol and value are one column; its position is a value slot. "begin" and "ask"
are there so that the first and the last pair are not also the `start` and what is `previous` to the query.

Combinations (template, symbol) can be held out: they stand in pairs like all others and are not asked about, or alone are.

Find^1 is nowhere, since no token tells the answer. Beside it stand the `operands`, for every position those of pairs before it,

    hop 1    the value slots, where a pair can be known: all bear on the answer alike
    key 1    the key slots: their rival, so that who looks at everything evenly does not pass for who looks at pairs

What a position may know when it looks (`Batch.gates`): its own symbol, and its *own template*, the one that agrees with all
pairs up to there, counted from 1; 0 where there are several.
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

Functions = tuple[tuple[int, ...], ...]
"""For each template the value of each symbol."""


class Templates(StoredTask):
    """`pairs` pairs of one of `templates` functions from `symbols` symbols to `values` values, and a question; causal, one hop.

    `template_seed`  the seed that the templates, and what is held out of them, are drawn with.
    `layout`         `statements`: two tokens for a pair; `pairs`: one.
    `held_out`       the share of combinations (template, symbol) that are not asked about: no template that agrees with the
                     pairs has one with the symbol asked. With `asks_held` these alone are: all of them do.
    `supervision`    `final`: the question at the query; `dense`, for statements: also at every key slot, of the pairs before,
                     where it has one right answer.

    Context: 2 × pairs + 3 with statements, pairs + 3 with pairs. Raises `ConfigError` for max_hops other than 1, values < 2,
    templates that are no multiple of values, pairs < 1, symbols that are no more than pairs, held_out that leaves nothing to
    ask about, dense supervision of pairs, attention that looks ahead, or a template_seed that is no seed.
    """

    kind: Literal["templates"] = "templates"
    max_hops: int = 1
    symbols: int
    values: int = 4
    templates: int = 16
    pairs: int = 3
    template_seed: int = 0
    layout: Literal["statements", "pairs"] = "statements"
    held_out: float = 0.0
    asks_held: bool = False
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "final"

    def model_post_init(self, context: object) -> None:
        if self.max_hops != 1:
            raise ConfigError(f"templates are asked for one hop, got max_hops {self.max_hops}: use 1")
        if self.values < 2:
            raise ConfigError(f"an answer needs at least 2 values to choose from, got {self.values}: use more")
        if self.templates < self.values or self.templates % self.values:
            raise ConfigError(
                f"templates must be a multiple of the {self.values} values, as many for each, got {self.templates}: "
                f"try {self.values * max(1, self.templates // self.values)}"
            )
        if self.pairs < 1:
            raise ConfigError(f"the pairs must be at least 1, got {self.pairs}: show one or more")
        if self.symbols <= self.pairs:
            raise ConfigError(
                f"a symbol in none of {self.pairs} pairs needs at least {self.pairs + 1} symbols, got {self.symbols}: use more"
            )
        if self.attention_dir != "causal":
            raise ConfigError("pairs stand before the question, got attention_dir bidirectional: use causal")
        if self.layout == "pairs" and self.supervision == "dense":
            raise ConfigError("in a token for each pair no symbol is asked about, got supervision dense: use final")
        self._check_held()

    def _check_held(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be a share in [0, 1), got {self.held_out}: leave something to ask about")
        asked = [combination == self.asks_held for held in self.held for combination in held]
        if not any(asked):
            cure = "hold more out" if self.asks_held else "hold less out"
            raise ConfigError(f"some combination must be asked about, got held_out {self.held_out}: {cure}")

    @property
    def name(self) -> str:
        what = f"{self.templates} templates {self.template_seed} of {self.symbols} symbols and {self.values} values"
        held = f", {'only ' if self.asks_held else ''}{self.held_out:g} held out" if self.held_out else ""
        return f"{what}, {self.pairs} pairs, {self.layout}{held}, {self.supervision}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example: "begin", the pairs, "ask" and the query."""
        return (2 if self.layout == "statements" else 1) * self.pairs + 3

    @property
    def d_vocab(self) -> int:
        """Symbols; values, or all pairs of the two; "begin" and "ask"."""
        return self.begin + 2

    @property
    def d_vocab_out(self) -> int:
        """Values."""
        return self.values

    @property
    def begin(self) -> int:
        """The token before every example; the one before the query follows it."""
        return self.symbols + self.values * (1 if self.layout == "statements" else self.symbols)

    @property
    def hops(self) -> tuple[int, ...]:
        return (1,)

    @property
    def operands(self) -> tuple[Role, ...]:
        """`hop 1` for each pair, and for each statement `key 1`."""
        keys = [Role("key", 1)] * self.pairs if self.layout == "statements" else []
        return (*[Role("hop", 1)] * self.pairs, *keys)

    @property
    def functions(self) -> Functions:
        """The templates."""
        return draw_templates(self.templates, self.symbols, self.values, self.template_seed)

    @property
    def held(self) -> tuple[tuple[bool, ...], ...]:
        """For each template and symbol whether they are held out."""
        return draw_held(self.templates, self.symbols, self.held_out, self.template_seed)

    @property
    def key_slots(self) -> tuple[int, ...]:
        """The positions of the pairs' symbols, none where they have no tokens of their own."""
        return tuple(range(1, self.n_ctx - 2, 2)) if self.layout == "statements" else ()

    @property
    def value_slots(self) -> tuple[int, ...]:
        """The positions of the pairs' values, or of the pairs."""
        return tuple(range(2, self.n_ctx - 2, 2)) if self.layout == "statements" else tuple(range(1, self.n_ctx - 2))

    def chance(self, hop: int) -> float:
        """1 / values: any value is as likely to a guesser who knows all templates and reads no pair."""
        return 1 / self.values

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples, templates and symbols uniform before those without one right answer are redrawn.

        Raises `ConfigError` if n < 1, or if no example has one right answer.
        """
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")

        def draw(missing: int) -> tuple[Tensor, int]:
            tokens = self._any_examples(missing + missing // 4 + 8, generator)
            return tokens[self.batch(tokens).targets[:, -1, 0] >= 0], len(tokens)

        none = f"pairs must tell templates apart, got {self.pairs} that never do: use more, or fewer templates"
        return self.batch(redrawn(n, draw, none))

    def _any_examples(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        device = generator.device
        template = torch.randint(self.templates, (n, 1), generator=generator, device=device)
        shown = shuffled_order(n, self.symbols, generator)[:, : self.pairs + 1]
        value = self._table(device)[template, shown]
        return self.written(shown, value[:, :-1])

    def written(self, shown: Int[Tensor, "batch asked"], value: Int[Tensor, "batch pair"]) -> Int[Tensor, "batch pos"]:
        """The tokens of examples with these symbols, the last one asked about, and these values of the others."""
        tokens = torch.full((len(shown), self.n_ctx), self.begin, device=shown.device)
        tokens[:, -2], tokens[:, -1] = self.begin + 1, shown[:, -1]
        if self.layout == "statements":
            tokens[:, self.key_slots], tokens[:, self.value_slots] = shown[:, :-1], self.symbols + value
        else:
            tokens[:, self.value_slots] = self.symbols + shown[:, :-1] * self.values + value
        return tokens

    def read(self, tokens: Int[Tensor, "batch pos"]) -> tuple[Int[Tensor, "batch asked"], Int[Tensor, "batch pair"]]:
        """The symbols of the pairs and of the query, and the values of the pairs: what `written` was given."""
        said = tokens[:, self.value_slots] - self.symbols
        if self.layout == "statements":
            return torch.cat([tokens[:, self.key_slots], tokens[:, -1:]], dim=1), said
        return torch.cat([said // self.values, tokens[:, -1:]], dim=1), said % self.values

    def _table(self, device: torch.device) -> Int[Tensor, "template symbol"]:
        return torch.tensor(self.functions, device=device)

    def agreeing(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch asked template"]:
        """Which templates agree with all pairs before each symbol that may be asked about: the keys in turn, then the query."""
        shown, value = self.read(tokens)
        wrong = self._table(tokens.device).T[shown[:, :-1]] != value[..., None]  # [batch, pair, template]
        return torch.nn.functional.pad(wrong.long().cumsum(dim=1), (0, 0, 1, 0)) == 0

    def answers(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch asked"]:
        """What agreeing templates say of each symbol, NOWHERE where none is left, they differ, or what they would say is not
        to be asked about.
        """
        left, shown = self.agreeing(tokens), self.read(tokens)[0]
        said = self._table(tokens.device).T[shown]  # [batch, asked, template]
        low, high = said.where(left, self.values).amin(dim=2), said.where(left, NOWHERE).amax(dim=2)
        barred = torch.tensor(self.held, device=tokens.device).T[shown] != self.asks_held
        return low.where((low == high) & ~(left & barred).any(dim=2), NOWHERE)

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        answer, slots = torch.full_like(tokens, NOWHERE), torch.full_like(tokens, Slot.OTHER)
        slots[:, self.value_slots], slots[:, -1] = Slot.VALUE, Slot.QUERY
        slots[:, self.key_slots] = Slot.KEY
        answers = self.answers(tokens)
        answer[:, -1] = answers[:, -1]
        if self.supervision == "dense":
            answer[:, self.key_slots] = answers[:, :-1]
        asked, position = answer >= 0, torch.arange(self.n_ctx, device=tokens.device)
        places = torch.tensor([*self.value_slots, *self.key_slots], device=tokens.device)[:, None]
        ends = torch.tensor(self.value_slots, device=tokens.device).repeat(len(places) // self.pairs)[:, None]
        operands = places.where(ends < position, NOWHERE).expand(len(tokens), -1, -1)
        return Batch(
            tokens,
            answer.where(asked, IGNORE)[..., None],
            asked.long()[..., None],
            torch.full_like(tokens, NOWHERE)[:, None],
            slots,
            operands=operands,
            gates={"own symbol": tokens, "own template": self._template(tokens)},
        )

    def _template(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The template that alone agrees with all pairs up to each position, from 1; 0 where several do, or none."""
        left = self.agreeing(tokens)
        alone = (left.long().argmax(dim=2) + 1).where(left.sum(dim=2) == 1, 0)
        position = torch.arange(self.n_ctx, device=tokens.device)
        read = (torch.tensor(self.value_slots, device=tokens.device)[:, None] <= position).sum(dim=0)
        return alone[:, read]

    def readout(self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos readout value"]:
        """One readout: the value."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same examples with one pair's value replaced, so that the templates that agree with the pairs then, of which
        there must be some, give the query another answer.

        An example in which no one value can do that stays as it is. Raises `ConfigError` if hop is not 1.
        """
        if hop != 1:
            raise ConfigError(f"a counterfactual's hop must be 1, got {hop}: templates are asked for one hop")
        tokens, (shown, value) = batch.tokens, self.read(batch.tokens)
        before, instead, fits = self.answers(tokens)[:, -1], [], []
        for pair in range(self.pairs):
            for other in range(self.values):
                changed = value.clone()
                changed[:, pair] = other
                instead.append(self.written(shown, changed))
                after = self.answers(instead[-1])[:, -1]
                fits.append((after >= 0) & (after != before))
        fitting = torch.stack(fits, dim=1)  # [batch, replacement]
        changeable = fitting.any(dim=1, keepdim=True)
        drawn = torch.multinomial(torch.where(changeable, fitting, True).double(), 1, generator=generator)
        chosen = torch.stack(instead, dim=1)[torch.arange(len(tokens), device=tokens.device), drawn.squeeze(1)]
        return self.batch(chosen.where(changeable, tokens))


@cache
def draw_templates(templates: int, symbols: int, values: int, seed: int) -> Functions:
    """Functions of which as many give each value to a symbol; the same arguments give the same ones.

    Raises `ConfigError` for a seed that is none.
    """
    generator = stream(seed, Stream.TEMPLATES)
    columns = [(torch.randperm(templates, generator=generator) % values).tolist() for _ in range(symbols)]
    return tuple(zip(*columns, strict=True))


@cache
def draw_held(templates: int, symbols: int, share: float, seed: int) -> tuple[tuple[bool, ...], ...]:
    """The combinations (template, symbol) that are held out, the nearest whole number to the share.

    Raises `ConfigError` for a seed that is none.
    """
    order = torch.randperm(templates * symbols, generator=stream(seed, Stream.TEMPLATES, "held out"))
    held = (order < round(share * templates * symbols)).view(templates, symbols)
    return tuple(map(tuple, held.tolist()))
