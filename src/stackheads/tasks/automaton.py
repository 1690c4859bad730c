"""The state of an automaton after every prefix of a string (Adriaensen & Maene, arXiv 2410.06045: state prediction).

Token 0 begins the string; `context` - 1 symbols of a named regular language follow (`tasks/languages.py`). The answer at each
position is the state of the language's machine when it has read up to there; at token 0 it is the start state.

Strings of an example are drawn so that its last state is uniform among those that strings of this length reach (a guesser is
right in 1 of them), from symbols whose frequencies are drawn for each example (uniform on the simplex): long runs of one
symbol, which a fair coin hardly ever throws, are as common as mixed strings.

The one hop is what the state hangs on where one position decides it: find^1(i) is the last position up to i whose symbol
leads every state to one and the same, if no symbol since has changed the state. Elsewhere it is NOWHERE: before the first such
symbol, and in languages that have none.

Token ids: the symbols, then "begin". Answers: the states.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.tasks.languages import LANGUAGES, Language, Machine
from stackheads.types import IGNORE, NOWHERE, Slot


class Automaton(StoredTask):
    """Strings of `context` - 1 symbols of a language, and the state after each prefix; causal.

    `supervision`  `dense`: the state at every position; `final`: at the last position only.

    The last position is the query, every other symbol a value slot. Raises `ConfigError` for a language that is not in
    `LANGUAGES`, max_hops other than 1, a context of fewer than 4 tokens or attention that looks ahead.
    """

    kind: Literal["automaton"] = "automaton"
    language: str
    context: int
    max_hops: int = 1
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "dense"

    def model_post_init(self, context: object) -> None:
        if self.language not in LANGUAGES:
            raise ConfigError(f"a language is one of {', '.join(LANGUAGES)}, got {self.language!r}: name one of these")
        if self.max_hops != 1:
            raise ConfigError(f"the state of an automaton is one hop away, got max_hops {self.max_hops}: ask for 1")
        if self.context < 4:
            raise ConfigError(f"the context must hold its beginning and 3 symbols, got {self.context}: make it longer")
        if self.attention_dir != "causal":
            raise ConfigError("an automaton reads from left to right, got attention_dir bidirectional: use causal")

    @property
    def spoken(self) -> Language:
        """The language itself."""
        return LANGUAGES[self.language]

    @property
    def machine(self) -> Machine:
        """What reads the strings."""
        return self.spoken.machine

    @property
    def name(self) -> str:
        return f"automaton of {self.language}, context {self.context}, {self.supervision}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example: the beginning and the string."""
        return self.context

    @property
    def d_vocab(self) -> int:
        """Symbols, and "begin"."""
        return self.machine.symbols + 1

    @property
    def d_vocab_out(self) -> int:
        """States."""
        return self.machine.states

    @property
    def hops(self) -> tuple[int, ...]:
        return (1,)

    @property
    def begin(self) -> int:
        """The token before every string."""
        return self.machine.symbols

    @property
    def last_states(self) -> tuple[int, ...]:
        """The states that strings of this length end in."""
        reached = {0}
        for _ in range(self.context - 1):
            reached = {after for state in reached for after in self.machine.after[state]}
        return tuple(sorted(reached))

    def chance(self, hop: int) -> float:
        """One of the states that strings of this length end in."""
        return 1 / len(self.last_states)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples, their last states uniform. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        device = generator.device
        after, ends = self._after(device), torch.tensor(self.last_states, device=device)
        often = torch.empty(n, self.machine.symbols, dtype=torch.double, device=device).exponential_(generator=generator)
        often /= often.sum(dim=1, keepdim=True)
        last = ends[torch.randint(len(ends), (n,), generator=generator, device=device)]
        goes = torch.nn.functional.one_hot(last, self.machine.states).double()
        chances = [goes]  # up to a factor: that the rest of the string leads from each state to the last one
        for _ in range(self.context - 2):
            goes = (often[:, None] * goes[:, after]).sum(dim=2)  # [example, state, symbol] summed over symbols
            goes = goes / goes.sum(dim=1, keepdim=True)  # a product of many chances would vanish
            chances.append(goes)
        state, string = torch.zeros(n, dtype=torch.long, device=device), []
        for goes in reversed(chances):
            leads = after[state]  # [example, symbol]
            symbol = torch.multinomial(often * goes.gather(1, leads), 1, generator=generator)
            string.append(symbol)
            state = leads.gather(1, symbol).squeeze(1)
        begin = torch.full((n, 1), self.begin, device=device)
        return self.batch(torch.cat([begin, *string], dim=1))

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        states = self.states(tokens)
        slots = torch.full_like(tokens, Slot.VALUE)
        slots[:, 0], slots[:, -1] = Slot.OTHER, Slot.QUERY
        asked = torch.ones_like(slots, dtype=torch.bool) if self.supervision == "dense" else slots == Slot.QUERY
        hop = (slots != Slot.OTHER).long()
        find, known = self._sources(tokens, states)[:, None], {"own symbol": tokens}
        return Batch(tokens, states.where(asked, IGNORE)[..., None], hop.where(asked, 0)[..., None], find, slots, gates=known)

    def states(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The state after each token; the start state at token 0."""
        after, states = self._after(tokens.device), [torch.zeros_like(tokens[:, 0])]
        for symbol in tokens[:, 1:].unbind(dim=1):
            states.append(after[states[-1], symbol])
        return torch.stack(states, dim=1)

    def readout(self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> Float[Tensor, "batch pos readout state"]:
        """One readout: the state."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same strings with one symbol replaced, so that the last state is another.

        It is the symbol at find^1 of the query where there is one, and any symbol elsewhere. An example in which no replacement
        changes the last state stays as it is. Raises `ConfigError` if hop is not 1.
        """
        if hop != 1:
            raise ConfigError(f"a counterfactual's hop must be 1, got {hop}: the state of an automaton is one hop away")
        tokens, n_pos = batch.tokens, batch.tokens.shape[1]
        states, place = self.states(tokens), batch.find[:, 0, -1:]
        after, device = self._after(tokens.device), tokens.device
        rest = torch.arange(self.machine.states, device=device).expand(len(tokens), -1)  # where the rest leads each state
        changes = torch.zeros(len(tokens), n_pos, self.machine.symbols, dtype=torch.bool, device=device)
        for position in range(n_pos - 1, 0, -1):
            ends = rest.gather(1, after[states[:, position - 1]])  # the last state, for each symbol here
            changes[:, position] = ends != states[:, -1:]
            rest = rest.gather(1, after[:, tokens[:, position]].T)
        here = torch.arange(n_pos, device=device) == place
        fits = (changes & (here | (place < 0))[..., None]).flatten(1)
        changeable = fits.any(dim=1)
        drawn = torch.multinomial(torch.where(changeable[:, None], fits, True).double(), 1, generator=generator)
        where, symbol = drawn // self.machine.symbols, drawn % self.machine.symbols
        symbol = symbol.where(changeable[:, None], tokens.gather(1, where))
        return self.batch(tokens.scatter(1, where, symbol))

    def _after(self, device: torch.device) -> Int[Tensor, "state symbol"]:
        return torch.tensor(self.machine.after, device=device)

    def _sources(self, tokens: Int[Tensor, "batch pos"], states: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """find^1: the last symbol that resets, where nothing has changed the state since."""
        resets = torch.tensor([*self.machine.resets, NOWHERE], device=tokens.device)[tokens] >= 0  # "begin" does not
        position = torch.arange(tokens.shape[1], device=tokens.device)
        last = position.where(resets, NOWHERE).cummax(dim=1).values
        changed = torch.nn.functional.pad(states[:, 1:] != states[:, :-1], (1, 0)).long().cumsum(dim=1)
        since = changed - changed.gather(1, last.clamp(min=0))
        return last.where(since == 0, NOWHERE)
