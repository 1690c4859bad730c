"""k-hop induction (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268, §4): an induction head applied k times.

Token 0 is the number of hops k; a random string without immediate repeats follows. find^1(i) is the position after the last
earlier occurrence of the character at i, find^k its k-fold iteration, and the answer at i is the character at find^k(i).

Token ids, as theirs: 0..max_hops the numbers of hops, then the characters, then "does not exist" (the answer where find^k
leaves the string), then "blank" (the answer at token 0).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.types import IGNORE, NOWHERE, Slot

AT_ONCE = 64
"""Examples whose earlier occurrences, [example, position, position], are held at a time."""


class KHopInduction(StoredTask):
    """Strings of `context` - 1 characters out of `symbols`, asked for k in 1..max_hops hops; causal.

    `supervision`  `dense`: the answer at every position, theirs; `final`: at the last position only.

    The last position is the query, every other character a value slot. Raises `ConfigError` for max_hops < 1, symbols < 3 (two
    leave no choice after the first) or a context in which no hop fits.
    """

    kind: Literal["khop"] = "khop"
    context: int
    symbols: int
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "dense"

    def model_post_init(self, context: object) -> None:
        if self.max_hops < 1:
            raise ConfigError(f"max_hops must be at least 1, got {self.max_hops}: ask for one hop or more")
        if self.symbols < 3:
            raise ConfigError(f"strings without repeats need at least 3 symbols, got {self.symbols}: use more")
        if self.context < 4:
            raise ConfigError(f"the context must hold k and at least 3 characters, got {self.context}: make it longer")
        if self.attention_dir != "causal":
            raise ConfigError("k-hop induction looks back only, got attention_dir bidirectional: use causal")

    @property
    def name(self) -> str:
        return f"{self.max_hops}-hop induction, {self.symbols} symbols, context {self.context}, {self.supervision}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example: k and the string."""
        return self.context

    @property
    def d_vocab(self) -> int:
        """Numbers of hops, characters, "does not exist" and "blank"."""
        return self.max_hops + 1 + self.symbols + 2

    @property
    def d_vocab_out(self) -> int:
        """The same ids."""
        return self.d_vocab

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(1, self.max_hops + 1))

    @property
    def does_not_exist(self) -> int:
        """The answer where find^k leaves the string."""
        return self.d_vocab - 2

    @property
    def blank(self) -> int:
        """The answer at token 0."""
        return self.d_vocab - 1

    def chance(self, hop: int) -> float:
        """1 / (symbols - 1): a guesser who knows that no character repeats at once."""
        return 1 / (self.symbols - 1)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples, k uniform in 1..max_hops. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        device = generator.device
        hops = torch.randint(1, self.max_hops + 1, (n, 1), generator=generator, device=device)
        first = torch.randint(self.symbols, (n, 1), generator=generator, device=device)
        steps = torch.randint(1, self.symbols, (n, self.context - 2), generator=generator, device=device)
        string = torch.cat([first, steps], dim=1).cumsum(dim=1) % self.symbols
        return self.batch(torch.cat([hops, string + self.max_hops + 1], dim=1))

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        find = find_maps(tokens, self.max_hops)
        k = tokens[:, :1]
        chosen = torch.cat([self._itself(tokens)[:, None], find], dim=1)  # find^0 first
        source = chosen.gather(1, k[:, :, None].expand(-1, -1, tokens.shape[1])).squeeze(1)
        answer = tokens.gather(1, source.clamp(min=0)).where(source >= 0, self.does_not_exist)
        answer[:, 0] = self.blank
        slots = torch.full_like(tokens, Slot.VALUE)
        slots[:, 0], slots[:, -1] = Slot.OTHER, Slot.QUERY
        asked = torch.ones_like(slots, dtype=torch.bool) if self.supervision == "dense" else slots == Slot.QUERY
        hop = k.expand_as(tokens).where(slots != Slot.OTHER, 0)
        known = {"asked": k.expand_as(tokens), "own symbol": (tokens - self.max_hops - 1).clamp(min=0)}
        return Batch(tokens, answer.where(asked, IGNORE)[..., None], hop.where(asked, 0)[..., None], find, slots, gates=known)

    @staticmethod
    def _itself(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        return torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """One readout: the answer for the example's k."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same strings with the character at find^hop of the query replaced, so that link `hop` leads elsewhere.

        The replacement keeps the string free of immediate repeats, leaves the query's links before `hop` as they are, and
        changes the answers at hop `hop` and at k where k is larger. An example that has no such character, or in which find^hop
        does not exist, stays as it is. Raises `ConfigError` if hop is not in 1..max_hops.
        """
        if not 1 <= hop <= self.max_hops:
            raise ConfigError(f"a counterfactual's hop must be in 1..{self.max_hops}, got {hop}: name a link of the chain")
        tokens, place = batch.tokens, batch.find[:, hop - 1, -1]
        fits = torch.stack([self._fits(batch, hop, place, character) for character in range(self.symbols)], dim=1)
        changeable = fits.any(dim=1)
        drawn = torch.multinomial(torch.where(changeable[:, None], fits, True).double(), 1, generator=generator)
        where = place.clamp(min=1)[:, None]
        character = (drawn + self.max_hops + 1).where(changeable[:, None], tokens.gather(1, where))
        return self.batch(tokens.scatter(1, where, character))

    def _fits(self, batch: Batch, hop: int, place: Int[Tensor, "batch"], character: int) -> Bool[Tensor, "batch"]:
        """Whether this character may stand at `place` in each example."""
        where = place.clamp(min=1)[:, None]
        token = character + self.max_hops + 1
        other = self.batch(batch.tokens.scatter(1, where, torch.full_like(where, token)))
        string = other.tokens[:, 1:]
        repeats = (string[:, 1:] == string[:, :-1]).any(dim=1)
        same_before = (other.find[:, :hop, -1] == batch.find[:, :hop, -1]).all(dim=1)
        k = batch.tokens[:, 0]
        later = (other.targets[:, -1, 0] != batch.targets[:, -1, 0]) | (k < hop)
        changed = batch.tokens.gather(1, where).squeeze(1) != token
        return (place > 0) & changed & ~repeats & same_before & later


def find_maps(tokens: Int[Tensor, "batch pos"], max_hops: int) -> Int[Tensor, "batch hop pos"]:
    """find^1..find^max_hops of every position; NOWHERE where one does not exist. Token 0 is no character."""
    last = torch.cat([_one_more(part) for part in tokens.split(AT_ONCE)])
    once = last.where(last > 0, NOWHERE)
    maps = [once]
    for _ in range(max_hops - 1):
        maps.append(once.gather(1, maps[-1].clamp(min=0)).where(maps[-1] >= 0, NOWHERE))
    return torch.stack(maps, dim=1)


def _one_more(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """One more than the last earlier occurrence of each position's token, 0 without one."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    earlier = (tokens[:, :, None] == tokens[:, None, :]) & (position < position[:, None]) & (position > 0)
    return (earlier * (position + 1)).amax(dim=-1)
