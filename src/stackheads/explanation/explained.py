"""What a model's selectors are and explain: the tables that `measuring.py` makes, to be looked at and handed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stackheads.explanation.away import Away
from stackheads.tables import natural, records


@dataclass(frozen=True, repr=False)
class Explained:
    """Selectors and what they explain, on `examples` fresh examples; tables as `measuring.py` describes them.

    `fitted_to` says what they are: the fewest by which the "answer" can be given, or those that tell heads' "attention";
    `of_some` that only some heads were asked, while all others look as they do in the model. `swapped` has no rows where no
    head has a next one.
    `away` are the heads that look at all sources of a kind but some, and bring what they leave out (`away.py`).
    `mechanism` by which depth buys hops and why, by selectors (`mechanism.py`); `program`, the steps of confirmed heads and of
    selectors together, compiled where that is possible, and `program_agreement` with the model's answers (`program.py`).
    """

    examples: int
    seed: int
    table: pd.DataFrame
    curve: pd.DataFrame
    held: pd.DataFrame
    groups: pd.DataFrame
    swapped: pd.DataFrame
    shuffled: pd.DataFrame
    weights: pd.DataFrame
    mechanism: str | None = None
    mechanism_reason: str | None = None
    program: str | None = None
    program_agreement: Mapping[int, float] = field(default_factory=dict)
    fitted_to: str = "answer"
    of_some: bool = False
    away: tuple[Away, ...] = ()

    @property
    def levels(self) -> list[str]:
        """The levels of the curve that were needed, in their order."""
        return list(dict.fromkeys(self.curve["level"]))

    def recovered(self, level: str | None = None, destination: str = "query") -> dict[int, float]:
        """Recovered share of the gap per hop, with all selectors or on one of `levels`."""
        rows = self.curve[(self.curve["level"] == (level or self.levels[-1])) & (self.curve["destination"] == destination)]
        return {int(hop): float(share) for hop, share in zip(rows["hop"], rows["recovered"], strict=True)}

    def in_numbers(self, level: str) -> str:
        """What a level recovers, per hop, at every destination where something is asked."""
        places = dict.fromkeys(self.curve["destination"])
        parts = [(place, self.recovered(level, place)) for place in places]
        return "\n".join(
            f"@{place}  " + "  ".join(f"{hop}: {share:.2f}" for hop, share in found.items()) for place, found in parts
        )

    @property
    def title(self) -> str:
        """What they are, and what is measured of them."""
        whose = "the answer" if self.fitted_to == "answer" else "attention"
        others = ", all other heads looking as they do" if self.of_some else ""
        return f"selectors fitted to {whose}: recovered share of the gap per hop{others}, {self.examples} fresh examples"

    @property
    def worst_held(self) -> float:
        """The least recovered share of an open readout with those selectors alone at which heads do look, or, fitted to
        attention, that are confirmed or opposing.
        """
        return min(row["recovered"] for row in records(self.held))

    @property
    def in_short(self) -> str:
        """`worst_held` in words."""
        alone = "at which heads do look" if self.fitted_to == "answer" else "that are confirmed or opposing"
        return f"with those alone {alone} {self.worst_held:.2f} of the weakest is kept"

    @property
    def worst(self) -> float:
        """The least recovered share of an open readout, with all selectors."""
        last = self.levels[-1]
        return min(row["recovered"] for row in records(self.curve) if row["level"] == last)

    @property
    def hops(self) -> dict[str, list[str]]:
        """What each head does, in words, by head and destination: "L2H0 @value": ["hop 1 when asked 1..4"]."""
        found: dict[str, list[str]] = {}
        for row in records(self.table):
            found.setdefault(f"{row['head']} @{row['destination']}", []).append(in_words(row))
        return dict(sorted(found.items(), key=lambda item: natural(item[0])))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tables = ("table", "weights", "curve", "held", "groups", "swapped", "shuffled")
        frames = {name: records(getattr(self, name)) for name in tables}
        words = {name: getattr(self, name) for name in ("mechanism", "mechanism_reason", "program")}
        agreement = {str(hop): share for hop, share in self.program_agreement.items()} or None
        made = {"examples": self.examples, "seed": self.seed, "fitted_to": self.fitted_to, "of_some": self.of_some}
        return {**made, **words, "program_agreement": agreement, "away": list(map(str, self.away)), **frames}

    def __repr__(self) -> str:
        lines = [f"{level}\n{self.in_numbers(level)}" for level in self.levels]
        heads = [f"{name}: {'; '.join(words)}" for name, words in self.hops.items()]
        lines.append(self.in_short)
        heads += [f"{each}: brings what it leaves out" for each in self.away]
        named = [] if self.mechanism is None else ["", f"{self.mechanism}: {self.mechanism_reason}"]
        return "\n".join([self.title, *lines, "", *heads, *named])


def looks_away(row: Mapping[str, Any]) -> bool:
    """Whether a selector says where its head does not look: a role or a slot with a weight below zero. The sign of a table's
    largest number says nothing.
    """
    return row["selector"] in ("role", "slot") and (row["weight"] or 0.0) < 0


def in_words(row: Mapping[str, Any]) -> str:
    """A selector as a person says it: "hop 1 when asked 1..4", "not key slots"."""
    text = f"not {row['what']}" if looks_away(row) else str(row["what"])
    return text if row["values"] is None else f"{text} when {row['gate']} {row['values']}"
