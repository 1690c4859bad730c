"""The common part of tasks made of statements: everything but which statements, in which order, and which query.

A subclass draws tokens and says which symbols may replace a link's value in a counterfactual; targets, find maps and
counterfactual batches follow from the tokens alone (`tasks/links.py`), so they cannot disagree with them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError, StackheadsError
from stackheads.tasks.base import AttentionDir, Batch, Operand, StoredTask
from stackheads.tasks.links import Links, answers, find_maps, read_links, rerouted, statement_slots
from stackheads.types import NOWHERE, Role, Slot

Supervision = Literal["final", "chain", "dense"]


OWN = "own symbol"
"""The gate that every position of a statement task has: the symbol that it stands for."""

MAX_ARRANGEMENTS = 45_000
"""More examples than this, up to a renaming of the symbols, are not listed: to go through them would take more than seconds."""


@dataclass(frozen=True)
class Arrangements:
    """Every example of a task up to a renaming of its symbols, one example for each class, with the class's probability."""

    tokens: Int[Tensor, "arrangement pos"]
    probability: Float[Tensor, "arrangement"]


class StatementTask(StoredTask, ABC):
    """A task whose examples are S statements, two tokens each, and a query: n_ctx = 2 S + 1.

    `max_hops`       D, the number of hops asked for (≥ 1).
    `supervision`    `final`: hop D at the query; `chain`: hops 1..D at the query, the paper's concatenated target and
                     implicit curriculum; `dense`: hops 1..D at the query and at every value slot that can see the answer.
    `attention_dir`  `causal` or `bidirectional`.
    `answers`        `shuffled` gives each sampled example another example's targets: nothing can be learned (a null).
    """

    supervision: Supervision = "dense"
    attention_dir: AttentionDir = "bidirectional"
    answers: Literal["true", "shuffled"] = "true"

    def model_post_init(self, context: object) -> None:
        if self.max_hops < 1:
            raise ConfigError(f"max_hops must be at least 1, got {self.max_hops}: ask for one hop or more")

    @property
    @abstractmethod
    def n_statements(self) -> int:
        """S, the statements in each example."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """The number of tokens."""

    @property
    def d_answer(self) -> int:
        """The number of symbols, which are the first tokens; the rest cannot be an answer."""
        return self.d_vocab

    @property
    @abstractmethod
    def hops(self) -> tuple[int, ...]:
        """The offsets j of the find maps, in the order of `Batch.find`."""

    @property
    def operands(self) -> tuple[Role, ...]:
        """Sources beside the find maps, in the order of `Batch.operands`; a role that stands there twice has two sources."""
        return ()

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name that says task, depth and what else tells it apart."""

    @property
    def period(self) -> int | None:
        """The number of hops after which every symbol comes back to itself, if there is one."""
        return None

    def same_offset(self, offset: int) -> int:
        """The name of a number of hops: of those that lead to the same symbol the one with the smaller absolute value."""
        if self.period is None:
            return offset
        least = -((self.period - 1) // 2)
        return (offset - least) % self.period + least

    @property
    def n_ctx(self) -> int:
        """Tokens in an example, 2 S + 1."""
        return 2 * self.n_statements + 1

    @property
    def readout_hops(self) -> tuple[int, ...]:
        """The hops that are read out, in the order of the readout axis."""
        return (self.max_hops,) if self.supervision == "final" else tuple(range(1, self.max_hops + 1))

    @property
    def d_vocab_out(self) -> int:
        """Readouts × symbols: readout r's logits are the r-th block."""
        return len(self.readout_hops) * self.d_answer

    @abstractmethod
    def chance(self, hop: int) -> float:
        """Accuracy on this hop of a guesser who follows no link; see the subclass for what the guesser knows."""

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Draw the tokens of n examples."""

    @abstractmethod
    def _replacements(self, links: Links, key: Int[Tensor, "batch"], steps: int) -> Bool[Tensor, "batch symbol"]:
        """Which symbols may replace f(key) so that the example stays one of this task; `steps` hops are still asked."""

    def arrangements(self) -> Arrangements | None:
        """All examples up to a renaming of symbols; None where there are more than MAX_ARRANGEMENTS, or no list is known."""
        return None

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples on the generator's device; the same generator state gives the same examples.

        Raises `ConfigError` if n < 1.
        """
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        batch = self.batch(self._draw(n, generator))
        if self.answers == "true":
            return batch
        return replace(batch, targets=batch.targets.roll(1, dims=0), target_hop=batch.target_hop.roll(1, dims=0))

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean: targets, find maps and slots are read off the statements."""
        links = self._links(tokens)
        causal = self.attention_dir == "causal"
        slots, symbols = self._slots(tokens), self._symbols(tokens)
        asked = slots == Slot.QUERY
        if self.supervision == "dense":
            asked = asked | (slots == Slot.VALUE)
        targets, target_hop = answers(links, symbols, asked, self.readout_hops, causal)
        find, operands = find_maps(links, symbols, slots, self.hops, causal), self._operands(links, tokens)
        if causal and operands is not None:
            operands = operands.where(operands <= torch.arange(tokens.shape[1], device=tokens.device), NOWHERE)
        return Batch(tokens, targets, target_hop, find, slots, operands, self._gates(links, symbols))

    def _links(self, tokens: Int[Tensor, "batch pos"]) -> Links:
        """What the statements say."""
        return read_links(tokens, self.d_vocab)

    def _slots(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """What each position holds."""
        return statement_slots(tokens)

    def _symbols(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The symbol that each position stands for: the one that it holds."""
        return tokens

    def _operands(self, links: Links, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch operand pos"] | None:
        """Source position of each of `operands`, -1 where there is none; None for a task without any."""
        return None

    def _gates(self, links: Links, symbols: Int[Tensor, "batch pos"]) -> dict[str, Int[Tensor, "batch pos"]]:
        """What each position may know that decides where a head looks, by name; `symbols` are those that they stand for."""
        return {OWN: symbols}

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """Split the concatenated logits into one block of d_answer for each readout hop."""
        return logits.unflatten(-1, (len(self.readout_hops), self.d_answer))

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator, operand: Operand = "value") -> Batch:
        """The same examples with link `hop` of the queried chain rewired: one token, that link's value or its condition.

        The replacement is drawn among those that keep the example one of this task and change the answers of all hops
        from `hop` to max_hops. Raises `ConfigError` if hop is not in 1..max_hops or the task has no such operand,
        `StackheadsError` if an example has no replacement.
        """
        if not 1 <= hop <= self.max_hops:
            raise ConfigError(f"a counterfactual's hop must be in 1..{self.max_hops}, got {hop}: name a link of the chain")
        links = self._links(batch.tokens)
        key = batch.tokens[:, -1]
        for _ in range(hop - 1):
            key = links.forward.gather(1, key[:, None]).squeeze(1)
        where, possible = self._rewirings(links, key, self.max_hops - hop + 1, operand)
        if not bool(possible.any(dim=1).all()):
            first = int((~possible.any(dim=1)).nonzero()[0])
            raise StackheadsError(
                f"every link needs a token that can replace its {operand}, example {first} has none for hop {hop}: "
                "sample examples from the task, or use more chains or symbols"
            )
        token = torch.multinomial(possible.float(), 1, generator=generator)
        return self.batch(batch.tokens.scatter(1, where[:, None], token))

    def _rewirings(
        self, links: Links, key: Int[Tensor, "batch"], steps: int, operand: Operand
    ) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch token"]]:
        """Where an operand of the link from `key` stands, and which tokens there change all answers of the next `steps` hops.

        Raises `ConfigError` for an operand that the task does not have.
        """
        if operand != "value":
            raise ConfigError(f"{self.name} has no conditions to rewire, got operand {operand!r}: use 'value'")
        where = links.keyed.gather(1, key[:, None]).squeeze(1)
        return where, rerouted(links, key, steps) & self._replacements(links, key, steps)
