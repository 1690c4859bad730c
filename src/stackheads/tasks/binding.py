"""Variable binding in programs (Wu, Geiger & Millière 2025, arXiv 2505.20896): what is the queried variable's constant?

A program is `lines` statements of two tokens, "variable value", and the variable that is asked about, the query. The value is a
constant or a variable of an earlier line, so each variable leads to one constant, its root, over 1..max_hops hops; the query's
*depth* is how many. The answer is the root, whatever the depth: a constant at the query, and nothing of the way.

Programs grow line by line. A line defines a variable that is new, by a constant with probability `fresh` (the first line
always), else by a variable v of an earlier line, drawn with weight depth(v) ^ `growth` among those above which there is room:
chains branch, and long ones grow longer, so that roots of deep variables stand in early lines. Who answers with the constant of
the first line is right in 56 % of the examples at the default settings and at depth 4 in 74 %, a shallow heuristic.
All depths are asked equally often, all variables of that depth in a program.

Token ids: the variables, then the constants.

Not as there: a statement has two tokens, without "=" and newline, and nothing is predicted but the answer; constants of
different lines differ, so that it can be told which one an answer is; a line's variable is new; `fresh` is ours, and chains end
at depth max_hops.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.tasks.links import Links, find_maps, read_links, statement_slots
from stackheads.tasks.orders import shuffled_order
from stackheads.tasks.statements import OWN
from stackheads.types import IGNORE, Slot

TRIES = 2000
"""Times that programs, one or more, are drawn in a row of which none is as deep as is asked, before that is said."""
OWN_DEPTH = "own depth"
"""The gate of how many hops a position's symbol is from its constant, 0 for a constant."""


class Binding(StoredTask):
    """Programs of `lines` statements over `variables` variables (0: as many as lines) and `constants` constants; causal.

    Context: 2 × lines + 1. `supervision`: `final`, the answer at the query, theirs; `dense`, also at each value slot that holds
    a variable.

    Raises `ConfigError` for max_hops < 1, lines < max_hops, fewer variables than lines, constants < 2 (one would always be
    right) or not more than lines where max_hops is 1, `fresh` outside (0, 1], or of 1 where chains must grow, growth < 0, or
    bidirectional attention. There is a counterfactual where some constant stands in no line: with two or three constants in
    many lines there is none.
    """

    kind: Literal["binding"] = "binding"
    max_hops: int = 4
    lines: int = 16
    variables: int = 0
    constants: int = 10
    fresh: float = 0.4
    growth: int = 3
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "final"

    def model_post_init(self, context: object) -> None:
        if self.max_hops < 1:
            raise ConfigError(f"max_hops must be at least 1, got {self.max_hops}: ask for one hop or more")
        if self.lines < self.max_hops:
            raise ConfigError(f"{self.max_hops} hops need as many lines or more, got {self.lines}: write more lines")
        if self.variables and self.variables < self.lines:
            raise ConfigError(
                f"{self.lines} lines need as many variables, got {self.variables}: raise variables or leave it out"
            )
        if self.constants < 2:
            raise ConfigError(f"an answer needs at least 2 constants to choose from, got {self.constants}: use more")
        if not 0 < self.fresh <= 1:
            raise ConfigError(f"fresh must be a probability in (0, 1], got {self.fresh:g}: correct it")
        if self.fresh == 1 and self.max_hops > 1:
            raise ConfigError(f"{self.max_hops} hops need lines without a constant, got fresh 1: lower it")
        if self.max_hops == 1 and self.constants <= self.lines:
            raise ConfigError(f"one hop needs more constants than the {self.lines} lines, got {self.constants}: use more")
        if self.growth < 0:
            raise ConfigError(f"growth is an exponent of 0 or more, got {self.growth}: use 0 for even weights")
        if self.attention_dir != "causal":
            raise ConfigError("programs are read forwards, got attention_dir bidirectional: use causal")

    @property
    def name(self) -> str:
        what = f"{self.lines} lines, {self.n_variables} variables, {self.constants} constants"
        return f"variable binding, {what}, D = {self.max_hops}, {self.supervision}"

    @property
    def n_variables(self) -> int:
        """The number of variables, which are the first tokens."""
        return self.variables or self.lines

    @property
    def n_ctx(self) -> int:
        """Tokens in an example: two for each line, and the query."""
        return 2 * self.lines + 1

    @property
    def d_vocab(self) -> int:
        """Variables and constants."""
        return self.n_variables + self.constants

    @property
    def d_vocab_out(self) -> int:
        """The same ids."""
        return self.d_vocab

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(-self.max_hops, self.max_hops + 1))

    def chance(self, hop: int) -> float:
        """1 / constants: a guesser who knows only that the answer is a constant."""
        return 1 / self.constants

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples on the generator's device; the same generator state gives the same examples.

        Raises `ConfigError` if n < 1, or if next to no program reaches as far as is asked.
        """
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        device = generator.device
        wanted = torch.randint(1, self.max_hops + 1, (n,), generator=generator, device=device)
        tokens = torch.empty(n, self.n_ctx, dtype=torch.long, device=device)
        missing, tries = torch.arange(n, device=device), 0
        while len(missing):  # a program may have no variable of the depth that is to be asked
            programs, depth = self._programs(len(missing), generator)
            fits = depth == wanted[missing, None]
            line = torch.multinomial(torch.where(fits.any(dim=1, keepdim=True), fits, True).float(), 1, generator=generator)
            tokens[missing] = torch.cat([programs, programs.gather(1, 2 * line)], dim=1)
            tries = 0 if bool(fits.any()) else tries + 1
            if tries == TRIES:
                raise ConfigError(
                    f"programs must reach {self.max_hops} hops, got none of {self.lines} lines with fresh {self.fresh:g}: "
                    "use more lines, fewer hops or a smaller fresh"
                )
            missing = missing[~fits.any(dim=1)]
        return self.batch(tokens)

    def _programs(self, n: int, generator: torch.Generator) -> tuple[Int[Tensor, "batch place"], Int[Tensor, "batch line"]]:
        """The tokens of n programs without query, and the depth of each line's variable."""
        device = generator.device

        keys = shuffled_order(n, self.n_variables, generator)[:, : self.lines]
        constants = shuffled_order(n, self.constants, generator) + self.n_variables
        depth, values = torch.ones(n, self.lines, dtype=torch.long, device=device), torch.empty_like(keys)
        values[:, 0] = constants[:, 0]
        used = torch.ones(n, 1, dtype=torch.long, device=device)
        drawn = torch.rand(n, self.lines, generator=generator, device=device, dtype=torch.float) < self.fresh
        for line in range(1, self.lines):
            new = (used < self.constants) & drawn[:, line, None] if self.max_hops > 1 else torch.ones_like(used) > 0
            before = depth[:, :line]
            weight = (before.double() ** self.growth).masked_fill((before >= self.max_hops) & ~new, 0)
            earlier = torch.multinomial(weight, 1, generator=generator)
            constant = constants.gather(1, used.clamp(max=self.constants - 1))
            values[:, line, None] = torch.where(new, constant, keys.gather(1, earlier))
            depth[:, line, None] = torch.where(new, 1, before.gather(1, earlier) + 1)
            used = used + new
        return torch.stack([keys, values], dim=2).flatten(1), depth

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        links, slots = read_links(tokens, self.d_vocab), statement_slots(tokens)
        root, depth = self._roots(links)
        at_root, own_depth = root.gather(1, tokens), depth.gather(1, tokens)
        asked = (slots == Slot.QUERY) | ((slots == Slot.VALUE) & (own_depth > 0) & (self.supervision == "dense"))
        return Batch(
            tokens,
            at_root.where(asked, IGNORE)[..., None],
            own_depth.where(asked, 0)[..., None],
            find_maps(links, tokens, slots, self.hops, causal=True),
            slots,
            gates={OWN: tokens, OWN_DEPTH: own_depth},
        )

    def _roots(self, links: Links) -> tuple[Int[Tensor, "batch symbol"], Int[Tensor, "batch symbol"]]:
        """The constant that each symbol leads to and the hops on the way; what no line defines leads to itself in none."""
        root = torch.arange(self.d_vocab, device=links.forward.device).expand(len(links.forward), -1)
        depth = torch.zeros_like(root)
        for _ in range(self.max_hops):
            further = links.forward.gather(1, root)
            goes_on = further != links.none
            root, depth = further.where(goes_on, root), depth + goes_on
        return root, depth

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """One readout: the root."""
        return logits[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same programs with link `hop` of the queried chain rewired: one token, the value of that line.

        Instead stands a variable of the same depth and another root that an earlier line defines or, at the end of the chain,
        a constant that no line has. So the answer differs and needs as many hops. An example without such a variable, or
        with a shorter chain, stays as it is. Raises `ConfigError` if hop is not in 1..max_hops.
        """
        if not 1 <= hop <= self.max_hops:
            raise ConfigError(f"a counterfactual's hop must be in 1..{self.max_hops}, got {hop}: name a link of the chain")
        where = batch.find[:, self.hops.index(hop), -1:]
        reached, where = where >= 0, where.clamp(min=0)
        fits = self._replacements(batch, where) & reached
        changeable = fits.any(dim=1, keepdim=True)
        drawn = torch.multinomial(torch.where(changeable, fits, True).double(), 1, generator=generator)
        return self.batch(batch.tokens.scatter(1, where, drawn.where(changeable, batch.tokens.gather(1, where))))

    def _replacements(self, batch: Batch, where: Int[Tensor, "batch one"]) -> Bool[Tensor, "batch symbol"]:
        """Which symbols may stand instead of the value at each place."""
        links, value = read_links(batch.tokens, self.d_vocab), batch.tokens.gather(1, where)
        root, depth = self._roots(links)
        symbol = torch.arange(self.d_vocab, device=value.device)
        defined = (links.keyed[:, :-1] >= 0) & (links.keyed[:, :-1] < where)
        stands = torch.zeros_like(root).scatter_add(1, batch.tokens, torch.ones_like(batch.tokens)) > 0
        allowed = torch.where(symbol < self.n_variables, defined, ~stands)
        return allowed & (depth == depth.gather(1, value)) & (root != root.gather(1, value))
