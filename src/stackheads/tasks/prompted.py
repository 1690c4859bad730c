"""The retrieval problem in words, as a task that a language model's heads are labelled on: where each word's token stands.

A prompt is a question of `tasks/prompts.py`, the lead of its answer, and nothing after it; the next token is the answer. Its
last token is the query, since there the answer is read, though it is no symbol itself: it stands for the word asked about. The
places of that word, in the question and in the lead, are a destination of their own (`asked`). So are the keys and the values.

find^j   of the last token, of the word asked about and of values: the value of the j-th statement on from there, where
         attention can reach it.
key j    the key of that statement: on the last token j = 1..D, and on each value j = 0, its own. (Elsewhere: duplicate.)
asked    on the last token: the word asked about, where `previous` does not name it already.

Answers are the words that chains of this formulation can end with; of these only the ends of the example's own chains count.
The others are given the mean logit of these, so that they never win, and margins are those among the ends, up to a constant
factor. A counterfactual at hop j lets the j-th statement of the queried chain lead into another chain.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.seeds import Reserved, Stream, bare, stream
from stackheads.tasks.base import AttentionDir, Batch
from stackheads.tasks.formulations import CHAINED
from stackheads.tasks.prompts import CHAINS, Mention, Prompts, Question
from stackheads.types import IGNORE, NOWHERE, Role, Slot

Style = Literal["plain", "chat"]


@dataclass(frozen=True)
class _Layout:
    """Where the words stand, the same in every prompt: positions, statements in the order of the text."""

    keys: tuple[int, ...]
    values: tuple[int, ...]
    asked: tuple[int, ...]
    length: int


class Prompted:
    """Prompts of one formulation and D as a `Task`.

    `tokenizer`  a fast tokenizer of `transformers`, which says which characters a token comes from.
    `shots`      solved questions before each question, the same ones for all.
    `style`      `plain`: question, space, lead; `chat`: the question as a message by the tokenizer's chat template, lead.
    `d_vocab`    the model's number of tokens; None: the tokenizer's.

    Logits are expected for `answers` only, in this order: `bridge(hf_model, answers=task.answers)`. Raises `ConfigError` if a
    word or an answer is not one token, if the formulation's prompts differ in layout, or steps need two facts.
    """

    attention_dir: AttentionDir = "causal"

    def __init__(self, prompts: Prompts, tokenizer: Any, shots: int = 0, style: Style = "plain", d_vocab: int | None = None):
        if prompts.formulation not in CHAINED:
            raise ConfigError(
                f"a prompted task needs steps of one fact, got formulation {prompts.formulation!r}: "
                f"use one of {', '.join(CHAINED)}"
            )
        self.prompts, self.tokenizer, self.shots, self.style = prompts, tokenizer, shots, style
        self.d_vocab = d_vocab or len(tokenizer)
        solved = prompts.sample(shots, bare(Reserved.SHOTS)) if shots else ()
        self.before = "".join(f"{self._asked_in(question)} {question.answer}.\n\n" for question in solved)

    @property
    def name(self) -> str:
        shots = f", {self.shots} shots" if self.shots else ""
        return f"{self.prompts.formulation} in words, D = {self.prompts.hops}{shots}"

    @property
    def n_ctx(self) -> int:
        """Tokens in a prompt."""
        return self._layout.length

    @property
    def d_vocab_out(self) -> int:
        return len(self.answers)

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(1, self.prompts.hops + 1))

    @property
    def operands(self) -> tuple[Role, ...]:
        """What `Batch.operands` holds."""
        return Role("asked"), *(Role("key", hop) for hop in range(self.prompts.hops + 1))

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The tokens of the words that a chain can end with."""
        return tuple(self._token(word) for word in CHAINED[self.prompts.formulation].values)  # type: ignore[index]

    def chance(self, hop: int) -> float:
        """One of the ends."""
        return 1 / CHAINS

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n prompts. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        return self.batch(self.tokens(self.prompts.sample(n, generator)))

    def tokens(self, questions: tuple[Question, ...]) -> Int[Tensor, "batch pos"]:
        """The prompts of these questions."""
        rows = [self._placed(question) for question in questions]
        for ids, layout in rows:
            if layout != self._layout:
                raise ConfigError(
                    f"prompts must have one layout, those of {self.prompts.formulation} at D = {self.prompts.hops} have more "
                    f"({len(ids)} and {self.n_ctx} tokens): use a formulation whose statements have one form"
                )
        return torch.tensor([ids for ids, _ in rows])

    def text(self, question: Question) -> str:
        """The prompt as the model reads it."""
        return self.before + self._asked_in(question)

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean."""
        layout, device = self._layout, tokens.device
        find, keys = self._chains(tokens)
        slots = torch.full_like(tokens, Slot.OTHER)
        for slot, places in ((Slot.KEY, layout.keys), (Slot.VALUE, layout.values), (Slot.ASKED, layout.asked)):
            slots[:, list(places)] = slot
        slots[:, -1] = Slot.QUERY
        targets = torch.full((*tokens.shape, 1), IGNORE, device=device)
        end = tokens.gather(1, find[:, -1, -1:])
        targets[:, -1] = (end == torch.tensor(self.answers, device=device)).long().argmax(dim=1, keepdim=True)
        hop = torch.zeros_like(targets)
        hop[:, -1] = self.prompts.hops
        return Batch(tokens, targets, hop, find, slots, self._operands(tokens, keys))

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """One readout: the ends of the example's chains among all answers."""
        ends = self._ends(batch.tokens)[:, None].expand_as(logits)
        mean = (logits * ends).sum(dim=-1, keepdim=True) / ends.sum(dim=-1, keepdim=True)
        return logits.where(ends, mean)[:, :, None]

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same prompts with the value of the queried chain's statement `hop` replaced by another chain's at that step.

        Raises `ConfigError` if hop is not in 1..D.
        """
        if not 1 <= hop <= self.prompts.hops:
            raise ConfigError(f"a counterfactual's hop must be in 1..{self.prompts.hops}, got {hop}: name a link of the chain")
        tokens = batch.tokens.clone()
        depth = self._depths(tokens)
        for example in range(len(tokens)):
            place = int(batch.find[example, hop - 1, -1])
            mine = depth[example, self._layout.values.index(place)]
            others = (depth[example] == mine).nonzero().flatten().tolist()
            others = [self._layout.values[other] for other in others if self._layout.values[other] != place]
            chosen = others[int(torch.randint(len(others), (), generator=generator))]
            tokens[example, place] = batch.tokens[example, chosen]
        return self.batch(tokens)

    @cached_property
    def _layout(self) -> _Layout:
        return self._placed(self.prompts.sample(1, stream(0, Stream.LAYOUT))[0])[1]

    def _asked_in(self, question: Question) -> str:
        if self.style == "plain":
            return f"{question.text} {question.lead}"
        message = [{"role": "user", "content": question.text}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True) + question.lead

    def _placed(self, question: Question) -> tuple[list[int], _Layout]:
        """The prompt's tokens, and where its words stand."""
        text = self.text(question)
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        begins = len(self.before) + text[len(self.before) :].index(question.text), len(text) - len(question.lead)
        places: dict[str, list[int]] = {"key": [], "value": [], "query": []}
        for begin, mentions in zip(begins, (question.mentions, question.lead_mentions), strict=True):
            for mention in mentions:
                places[mention.role].append(self._place(mention, begin, encoded["offset_mapping"]))
        length = len(encoded["input_ids"])
        layout = _Layout(tuple(places["key"]), tuple(places["value"]), tuple(places["query"]), length)
        return list(encoded["input_ids"]), layout

    def _place(self, mention: Mention, begin: int, offsets: list[tuple[int, int]]) -> int:
        """The token of a word."""
        start, end = begin + mention.start, begin + mention.end
        found = [place for place, (left, right) in enumerate(offsets) if left < end and right > start]
        if len(found) != 1:
            raise ConfigError(f"every word must be one token, {mention.word!r} is {len(found)}: use another formulation")
        return found[0]

    def _token(self, word: str) -> int:
        """The token with which a word goes on from the lead."""
        found = self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise ConfigError(
                f"every answer must be one token after a space, {word!r} is {len(found)}: use another formulation"
            )
        return found[0]

    def _linked(self, tokens: Tensor, words: Int[Tensor, "batch some"]) -> Int[Tensor, "batch some"]:
        """The number of the statement whose key each word is, -1 for none."""
        same = tokens[:, list(self._layout.keys)][:, None] == words[:, :, None]
        return same.long().argmax(dim=-1).where(same.any(dim=-1), NOWHERE)

    def _chains(self, tokens: Tensor) -> tuple[Int[Tensor, "batch hop pos"], Int[Tensor, "batch hop pos"]]:
        """For each hop, value slot and key slot of the statement that a position leads to, as far as it sees them."""
        layout, position = self._layout, torch.arange(tokens.shape[1], device=tokens.device)
        values, keys = (torch.tensor(places, device=tokens.device) for places in (layout.values, layout.keys))
        word = tokens.clone()
        word[:, -1] = tokens[:, layout.asked[0]]
        leads = torch.zeros_like(tokens, dtype=torch.bool)
        leads[:, [*layout.values, *layout.asked, -1]] = True
        statement = self._linked(tokens, word).where(leads, NOWHERE)
        following = self._linked(tokens, tokens[:, values])
        found, named = [], []
        for _ in self.hops:
            exists = statement >= 0
            at = statement.clamp(min=0)
            found.append(values[at].where(exists & (values[at] <= position), NOWHERE))
            named.append(keys[at].where(exists & (keys[at] <= position), NOWHERE))
            statement = following.gather(1, at).where(exists, NOWHERE)
        return torch.stack(found, dim=1), torch.stack(named, dim=1)

    def _operands(self, tokens: Tensor, keys: Tensor) -> Int[Tensor, "batch operand pos"]:
        layout, last = self._layout, tokens.shape[1] - 1
        maps = torch.full((len(tokens), len(self.operands), tokens.shape[1]), NOWHERE, device=tokens.device)
        if layout.asked[0] != last - 1:
            maps[:, 0, last] = layout.asked[0]
        maps[:, 1, list(layout.values)] = torch.tensor(layout.keys, device=tokens.device)
        maps[:, 2:, last] = keys[:, :, last]
        return maps

    def _ends(self, tokens: Tensor) -> Bool[Tensor, "batch answer"]:
        """Which answers end a chain of the example."""
        values = tokens[:, list(self._layout.values)]
        return (values[:, :, None] == torch.tensor(self.answers, device=tokens.device)).any(dim=1)

    def _depths(self, tokens: Tensor) -> Int[Tensor, "batch statement"]:
        """How many statements each leads on to."""
        following = self._linked(tokens, tokens[:, list(self._layout.values)])
        depth, at = torch.zeros_like(following), following
        for _ in self.hops:
            depth = depth + (at >= 0)
            at = following.gather(1, at.clamp(min=0)).where(at >= 0, NOWHERE)
        return depth
