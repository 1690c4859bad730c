"""Case studies of depth (Chen & Zou 2024, arXiv 2404.01601): four tasks that are said to need one, two, two and three layers.

`memory`               sequence classification: a fixed set of strings, each with a label. One layer
`reasoning`            in-context question answering: questions and their answers, then one of the questions. Two layers
`template`             template matching: which template of equal and different symbols a string has (abab, aabb, …), also
                       for strings that were never shown. Two layers
`template-in-context`  strings and the labels of their templates, drawn anew for each example, then a string that shares the
                       template of one of them, but no symbol. Three layers

An example is `pairs` of a string of `length` symbols and its label, and at its end a string without one: the last symbol is
the query. Memory and templates have that string alone. The answer in context is the label of the one string of the same
*class*: in reasoning a string is one symbol, the question, and its own class; with templates the class is the template. The
classes in a context are different and drawn evenly, the query's is one of them; labels are drawn evenly, and may be the same.
With templates what is held out of small ones is a little more than of large ones, and so is how often each is drawn.

What is changed of the source's tasks. Memory: strings are drawn in pairs that differ in one symbol and in the label, so that
no single symbol tells and one token can be changed to another answer that there is. Templates: all of a length, and the answer
is the template itself. One in `strings.UNSEEN` strings of each template is held out from `part` seen, in whose examples it
stands nowhere; in `part` unseen the last string is always one of them. In-context templates: no symbol stands in two strings.

Find^1 of the query is the label that answers. Memory and templates have none: nothing but the string as a whole decides. Beside
it stand

    key j      the j-th symbol of the string that a position is in or just behind, unless it is `previous`, or the `start`
    duplicate  with templates, an equal symbol of the same string: there is none elsewhere

With `dense` supervision the class of each string is asked as well, where it ends and at its label, in a readout of its own.
That is part of the way to the answer, but no hop: a curriculum, which the source does without.

Token ids: the symbols, then the labels where a context shows them. Answers: the labels, of `template` the templates in the
order of `templates`. Where classes are asked there are as many answers of either kind, of which some may never be right, and
logits for both, one behind the other.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir, Batch, StoredTask
from stackheads.tasks.orders import shuffled_order
from stackheads.tasks.redrawn import redrawn
from stackheads.tasks.strings import held_out, memorised, template_of, templates
from stackheads.types import IGNORE, NOWHERE, Role, Slot

Case = Literal["memory", "reasoning", "template", "template-in-context"]
IN_CONTEXT = ("reasoning", "template-in-context")
LARGEST = 2**22
"""The most strings that there may be: tables hold a number for each."""
SIZES: dict[str, dict[str, int]] = {
    "memory": {"symbols": 8, "length": 6, "strings": 64},
    "reasoning": {"symbols": 16, "length": 1, "pairs": 8},
    "template": {"symbols": 16, "length": 4},
    "template-in-context": {"symbols": 15, "length": 3, "pairs": 4, "labels": 5},
}
"""Sizes of each case that train in a minute, which the command line takes where none are given."""


class DepthCases(StoredTask):
    """Strings of `length` out of `symbols`; causal, one hop.

    `pairs`        strings with labels before the last one: 1 or more in context, 0 for memory and templates alone.
    `labels`       labels to choose from; `template` has none.
    `strings`      how many are memorised; 0 for the other cases.
    `part`         `seen` or `unseen` strings, with templates.
    `case_seed`    what is memorised, or held out, is drawn with it.
    `supervision`  `final`: the question at the query; `dense`: in context also the class of each string, at its last symbol and
                   its label.

    Raises `ConfigError` for settings that do not fit the case, max_hops other than 1, fewer than 2 symbols or labels, more than
    `LARGEST` strings that could be, or a case_seed that is no seed.
    """

    kind: Literal["cases"] = "cases"
    max_hops: int = 1
    case: Case
    symbols: int
    length: int = 1
    pairs: int = 0
    labels: int = 4
    strings: int = 0
    part: Literal["seen", "unseen"] = "seen"
    case_seed: int = 0
    attention_dir: AttentionDir = "causal"
    supervision: Literal["final", "dense"] = "final"

    def model_post_init(self, context: object) -> None:
        if self.max_hops != 1:
            raise ConfigError(f"case studies of depth ask for one hop, got max_hops {self.max_hops}: use 1")
        if self.attention_dir != "causal":
            raise ConfigError("a string is read from left to right, got attention_dir bidirectional: use causal")
        if min(self.symbols, self.labels) < 2:
            raise ConfigError(f"there must be 2 symbols and 2 labels, got {self.symbols} and {self.labels}: use more")
        if self.length < 1 or (self.length == 1) != (self.case == "reasoning"):
            length = "1" if self.case == "reasoning" else "at least 2"
            raise ConfigError(f"length must be {length} for {self.case}, got {self.length}: use it, or another case")
        if self.pairs < 0 or (self.pairs > 0) != (self.case in IN_CONTEXT):
            pairs = "at least 1" if self.case in IN_CONTEXT else "0"
            raise ConfigError(f"pairs must be {pairs} for {self.case}, got {self.pairs}: use it, or another case")
        if self._by_template and self.symbols < self.length * (self.pairs + 1):
            needed = f"{self.length * (self.pairs + 1)} symbols, so that none need stand twice"
            raise ConfigError(f"{self.case} needs at least {needed}, got {self.symbols}: use more symbols or shorter strings")
        if self.length * math.log2(self.symbols) > math.log2(LARGEST):
            could_be = f"{self.symbols} to the power of {self.length}"
            raise ConfigError(
                f"at most {LARGEST} strings may be possible, got {could_be}: use shorter strings or fewer symbols"
            )
        if self.pairs > self._n_classes:
            kinds = "templates" if self._by_template else "symbols"
            raise ConfigError(
                f"strings in context have different {kinds}, got {self.pairs} of {self._n_classes}: use fewer pairs"
            )
        if self.case == "memory":
            most = self.symbols**self.length // 4
            if not 2 <= self.strings <= most or self.strings % 2:
                raise ConfigError(f"strings must be an even number in 2..{most}, got {self.strings}: use one of these")
        elif self.strings:
            raise ConfigError(f"strings are memorised in memory only, got {self.strings} for {self.case}: use 0")
        if self.part == "unseen" and not self._by_template:
            raise ConfigError(f"only templates have unseen strings, got part unseen for {self.case}: use seen")
        if self.supervision == "dense" and not self.pairs:
            raise ConfigError(f"{self.case} has no strings in context to ask about, got supervision dense: use final")
        if self.case == "template" and self.labels != type(self).model_fields["labels"].default:
            raise ConfigError(f"the answers to template are the templates, got labels {self.labels}: leave it out")
        if self.case == "reasoning" and self.case_seed:
            raise ConfigError(f"reasoning memorises and holds out nothing, got case_seed {self.case_seed}: leave it out")
        _ = self._table  # a seed that is none is told at once

    @property
    def name(self) -> str:
        what = f"{self.symbols} symbols, length {self.length}"
        more = f", {self.strings} strings" if self.case == "memory" else f", {self.pairs} pairs" if self.pairs else ""
        part = f", {self.part} strings" if self._by_template else ""
        labels = "" if self.case == "template" else f", {self.labels} labels"
        return f"depth case {self.case}, {what}{more}{labels}{part}, {self.supervision}"

    @property
    def n_ctx(self) -> int:
        """Tokens in an example: the strings in context with their labels, and the last string."""
        return self.pairs * (self.length + 1) + self.length

    @property
    def d_vocab(self) -> int:
        """Symbols, and the labels if they are shown."""
        return self.symbols + (self.labels if self.pairs else 0)

    @property
    def d_vocab_out(self) -> int:
        """Answers of each readout, one behind the other."""
        return (1 + self._asks_classes) * self._answers

    @property
    def _answers(self) -> int:
        """Labels, or as many as there are classes if these are asked and more; of `template` the templates."""
        if self.case == "template":
            return self._n_classes
        return max(self.labels, self._n_classes) if self._asks_classes else self.labels

    @property
    def hops(self) -> tuple[int, ...]:
        return (1,)

    @property
    def operands(self) -> tuple[Role, ...]:
        """`key j` for each j that is somewhere neither `previous` nor `start`."""
        return tuple(Role("key", place + 1) for place in self._keys)

    @property
    def _keys(self) -> range:
        """Places in a string that have a word of their own, counted from 0."""
        return range(self.length - 1) if self.pairs else range(1, self.length - 2)

    @property
    def _n_classes(self) -> int:
        return len(templates(self.length)) if self._by_template else self.symbols

    @property
    def _asks_classes(self) -> bool:
        return self.pairs > 0 and self.supervision == "dense"

    @property
    def _by_template(self) -> bool:
        return self.case in ("template", "template-in-context")

    @property
    def _table(self) -> Int[Tensor, "string"]:
        """What is memorised: the label of each string or IGNORE. With templates: 1 for strings that are held out, else 0."""
        if self.case == "memory":
            return memorised(self.symbols, self.length, self.strings, self.labels, self.case_seed)
        if self._by_template:
            return held_out(self.symbols, self.length, self.case_seed)
        return torch.zeros(self.symbols, dtype=torch.long)

    def chance(self, hop: int) -> float:
        """One of the labels, or the commonest template of this part: of few strings more than one in `UNSEEN` are held out,
        where their number is rounded up.
        """
        if self.case != "template":
            return 1 / self.labels
        strings = torch.arange(len(self._table))[:, None] // self._powers(self._table.device) % self.symbols
        template, part = template_of(strings), ((self._table > 0) == (self.part == "unseen")).double()
        there = template.bincount(part) / template.bincount()  # a template is drawn first, what is of the other part anew
        return (there.max() / there.sum()).item()

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples. Raises `ConfigError` if n < 1."""
        if n < 1:
            raise ConfigError(f"the number of examples must be at least 1, got {n}: ask for one or more")
        ahead = 4 if self._by_template else 1

        def draw(missing: int) -> tuple[Tensor, int]:
            tokens = self._tokens(ahead * missing, generator)
            return tokens[self._right_part(tokens)], len(tokens)

        none = f"examples must have strings of part {self.part}, got next to none with {self.pairs} pairs: use fewer pairs"
        return self.batch(redrawn(n, draw, none))

    def _tokens(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Examples of whichever part."""
        device = generator.device
        if self.case == "memory":
            members = (self._table != IGNORE).nonzero().squeeze(1).to(device)
            drawn = members[torch.randint(len(members), (n, 1), generator=generator, device=device)]
            return drawn // self._powers(device) % self.symbols
        mine = shuffled_order(n, self._n_classes, generator)[:, : max(self.pairs, 1)]
        if self.pairs:
            which = torch.randint(self.pairs, (n, 1), generator=generator, device=device)
            mine = torch.cat([mine, mine.gather(1, which)], dim=1)  # [batch, string]
        if not self._by_template:
            strings = mine[..., None]
        else:
            order = shuffled_order(n, self.symbols, generator)
            own = order[:, : (self.pairs + 1) * self.length].unflatten(1, (-1, self.length))  # [batch, string, letter]
            strings = own.gather(2, torch.tensor(templates(self.length), device=device)[mine])
        if not self.pairs:
            return strings[:, 0]
        label = torch.randint(self.labels, (n, self.pairs + 1, 1), generator=generator, device=device) + self.symbols
        labelled = torch.cat([strings, label], dim=2)
        return labelled.flatten(1)[:, :-1]  # the last string has no label

    def _powers(self, device: torch.device) -> Int[Tensor, "place"]:
        """What each place of a string counts in its number."""
        return self.symbols ** torch.arange(self.length, device=device)

    def _strings(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch string place"]:
        """The strings of each example without their labels."""
        filled = torch.nn.functional.pad(tokens, (0, 1)).unflatten(1, (self.pairs + 1, self.length + 1))
        return filled[..., :-1]

    def _looked_up(self, strings: Int[Tensor, "*rest place"]) -> Int[Tensor, "*rest"]:
        """What the table says of these strings."""
        return self._table.to(strings.device)[(strings * self._powers(strings.device)).sum(dim=-1)]

    def _classes(self, strings: Int[Tensor, "*rest place"]) -> Int[Tensor, "*rest"]:
        """The class of each string: its template, else its one symbol."""
        return template_of(strings) if self._by_template else strings[..., 0]

    def _right_part(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch"]:
        """Whether no string is held out but, in part unseen, the last one, which then is."""
        if not self._by_template:
            return torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        held = self._looked_up(self._strings(tokens)) > 0
        return ~held[:, :-1].any(dim=1) & (held[:, -1] == (self.part == "unseen"))

    def batch(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """The batch that these tokens mean. In memory nothing is asked of a string that is not memorised."""
        device, n_pos = tokens.device, self.n_ctx
        strings, position = self._strings(tokens), torch.arange(n_pos, device=device)
        number, place = position // (self.length + 1), position % (self.length + 1)
        slots = torch.where(place == self.length, Slot.VALUE, Slot.KEY).expand_as(tokens).clone()
        slots[:, -1] = Slot.QUERY
        query, classes = position == n_pos - 1, self._classes(strings)
        its_label = torch.arange(self.pairs, device=device) * (self.length + 1) + self.length
        same = classes[:, :-1, None] == classes[:, -1:, None]
        cases = its_label[:, None].where(same & query, NOWHERE)  # [batch, pair, pos]
        find = torch.nn.functional.pad(cases, (0, 0, 1, 0), value=NOWHERE).amax(dim=1)
        answer = (tokens.gather(1, find.clamp(min=0)) - self.symbols).where(find >= 0, IGNORE)
        if not self.pairs:
            answer[:, -1] = self._whole(strings[:, 0])
        targets, hops = [answer], [(answer != IGNORE).long()]
        if self._asks_classes:
            targets.append(classes[:, number].where(place >= self.length - 1, IGNORE))
            hops.append(torch.zeros_like(answer))
        key = number * (self.length + 1) + torch.tensor(self._keys, dtype=torch.long, device=device)[:, None]  # [key, pos]
        keys = key.where((key < position - 1) & (key > 0), NOWHERE).expand(len(tokens), -1, -1)
        known = {"own symbol": tokens, "place in string": place.expand_as(tokens)}
        return Batch(
            tokens,
            torch.stack(targets, dim=2),
            torch.stack(hops, dim=2),
            find[:, None],
            slots,
            operands=keys,
            gates=known,
        )

    def _whole(self, strings: Int[Tensor, "*rest place"]) -> Int[Tensor, "*rest"]:
        """The answer to a string that stands alone; IGNORE for one that is not memorised."""
        return self._looked_up(strings) if self.case == "memory" else template_of(strings)

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout answer"]:
        """The label, or the template; then the class, where it is asked."""
        return logits.unflatten(2, (-1, self._answers))

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same examples with one token replaced, so that the answer at the query is another.

        In context it is the label that answers. Else it is a symbol of the string, which stays among those memorised, or of its
        part; an example in which no symbol will do stays as it is. Raises `ConfigError` if hop is not 1.
        """
        if hop != 1:
            raise ConfigError(f"a counterfactual's hop must be in 1..1, got {hop}: name a link of the chain")
        tokens, device = batch.tokens, batch.tokens.device
        if self.pairs:
            where = batch.find[:, 0, -1:]
            step = torch.randint(1, self.labels, (len(tokens), 1), generator=generator, device=device)
            label = (tokens.gather(1, where) - self.symbols + step) % self.labels + self.symbols
            return self.batch(tokens.scatter(1, where, label))
        place = torch.arange(self.length, device=device).repeat_interleave(self.symbols)
        symbol = torch.arange(self.symbols, device=device).repeat(self.length)
        here = torch.arange(self.length, device=device) == place[:, None]
        instead = torch.where(here, symbol[:, None], tokens[:, None])  # [batch, replacement, pos]
        after, before = self._whole(instead), self._whole(tokens)[:, None]
        fits = (after != before) & (after != IGNORE)
        if self._by_template:
            fits &= self._looked_up(instead) == int(self.part == "unseen")
        changeable = fits.any(dim=1)
        drawn = torch.multinomial(torch.where(changeable[:, None], fits, True).double(), 1, generator=generator).squeeze(1)
        other = instead[torch.arange(len(tokens), device=device), drawn]
        return self.batch(other.where(changeable[:, None], tokens))
