"""How much of the answer a model's selectors explain, on examples that they were not fitted on, and what each is needed for.

`explain_heads` finds the selectors and puts them in tables, all measured on fresh examples. They are fitted to the answer, the
fewest by which it can be given (`selected.py`), or to attention alone, the fewest that tell it (`attended.py`):

`table`   a row for each selector of each head at each destination: what it looks at, when (`gate`, and the gate's values at
          which it acts), `share`, the part of the head's attention that would be elsewhere without it, and what is lost when it
          alone is taken out (`taken_out.py`): the share of the gap on the readout that shows it best, with its interval
          (simultaneous over open readouts), beside what is lost of the same without the head there (`head_effect`): taken out
          of the sum where selectors are fitted to the answer, of the model itself where to attention. `status` by the three
          channels (`judging.py`): `gain` is how many nats better the head's attention is told with it, `beyond` than with the
          same of another example, `write` what the head carries from there moves. A head that has none but is needed looks
          evenly ("uniform") and has no status.
`curve`   recovered shares per readout with roles only; with slots and positions; with gates; with content – as far as they were
          needed – and how many selectors and numbers each takes. What says together that a head looks at all sources of a
          kind but some counts as roles. Each level is what is left of the whole without the later kinds, fitted again.
          Fitted to attention, heads of which no selector does anything are silent in all of it, and where a gap is left two
          last levels have the same selectors, roles and all, with weights that are fitted to the answer.
          Two nulls: `swapped`, every head has the selectors of the next head of its layer, of some that are asked those of
          the next at its destination – without rows where there is no other –; `shuffled`, every example looks where the
          selectors say for the next one.
`weights` the numbers of selectors that have several (`weights.py`).
`held`    fitted to the answer: recovered shares with those selectors alone of which the first channel does not say that the
          head does not look there, fitted again: what is explained by the model's own looks, and not by others by which the
          answer could be given. Fitted to attention: with those alone that are confirmed or opposing.
`groups`  heads that share a job (`groups.py`).
`away`    heads that look at all sources of a kind but some, by their attention on the examples of the fit (`away.py`).

Cost: fitted to the answer that of `select`, and about 30 forward passes with gradients for each level; fitted to attention 40
of these at most. Then one without gradients for each selector, head and group, and what judging costs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from stackheads.explanation.attended import attended
from stackheads.explanation.attention_fit import STEPS, fitted_to_attention
from stackheads.explanation.away import KINDS, is_about, looking_away
from stackheads.explanation.examples import LEAST_ASKED, Examples
from stackheads.explanation.explained import Explained
from stackheads.explanation.groups import groups_table
from stackheads.explanation.judging import IDLE, acting_values, judged, peak
from stackheads.explanation.selected import AGAIN, GOOD, LEVELS, fitted_to_answers, select
from stackheads.explanation.sums import Part, Sum, only_ones
from stackheads.explanation.taken_out import OfModel, OfSum, TakenOut
from stackheads.explanation.weights import weights_table
from stackheads.interventions import Recorded
from stackheads.labelling.bench import make_bench, opened
from stackheads.labelling.cause import effects_on_open
from stackheads.labelling.readouts import Readout
from stackheads.labelling.rows import carried_share, selector_reason
from stackheads.labelling.selectors import Selector
from stackheads.labelling.statistics import Resampling, Shares, brought, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, SelectorEvidence, selector_answer, selector_status, telling
from stackheads.models.hooks import precise
from stackheads.models.memory import kept_memory
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task, check_gates
from stackheads.types import Destination, HeadId, Role, Status

FittedTo = Literal["answer", "attention"]
FITTED_TO: tuple[FittedTo, ...] = get_args(FittedTo)
FIT = 256
LEAST_FIT = LEAST_ASKED
"""Never fewer: of what is asked once in each example a share is too noisy."""
CURE = "use labels, or a task that asks one of its readouts more often"
"""Where the examples that selectors are fitted on are too few: they are as many as that takes memory for, or `FIT`."""
NUMBERS = 2**23
"""Scores of heads, rows and sources that are held at once while selectors are fitted: fewer examples where there are more."""
HELD = (Status.CONFIRMED, Status.OPPOSING)
TO_ANSWER = "weights fitted to the answer"
"""The last level where selectors that tell attention leave a gap: the same selectors, fitted to the answer."""
ROLES_TO_ANSWER = f"{next(iter(LEVELS))}, {TO_ANSWER}"
"""The level before: roles alone."""
TABLE = ["head", "layer", "destination", "selector", "what", "role", "hop", "gate", "values", "weight", "numbers", "share"]
EFFECT = ["effect", "effect_low", "effect_high", "readout", "head_effect"]
CHANNELS = ["status", "gain", "gain_low", "gain_high", "beyond", "write", "reason"]
SHARES = ["destination", "hop", "recovered"]
CURVE = ["level", "selectors", "numbers", *SHARES]


def explain_heads(
    model: Model,
    task: Task,
    readouts: Iterable[Readout],
    examples: int,
    seed: int,
    thresholds: Thresholds,
    progress: bool = False,
    fitted_to: FittedTo = "answer",
    cells: Collection[tuple[HeadId, Destination]] | None = None,
) -> Explained:
    """Find the selectors of a model's heads and measure what they explain; `readouts` are those that the model answers.

    With `cells`, those of these heads at these destinations alone, fitted to attention: in curves and nulls all others look as
    they do in the model, and no weights are fitted to the answer. Raises `ConfigError` if too few examples ask any of the
    readouts, `TaskError` for gates that are none.
    """
    readouts, size = list(readouts), _fitting(model, task, cells)

    def sample(name: Stream, n: int, like: Recorded | None = None) -> Examples:
        bench = opened(make_bench(model, task, n, seed, thresholds, name, like), readouts)
        return Examples(bench) if name == Stream.SELECTORS_TRIED else Examples(bench, CURE)

    with torch.inference_mode(False), precise(), kept_memory():  # whatever the caller is in: there are gradients to take
        fit = sample(Stream.SELECTORS, size)
        check_gates(task, fit.bench.clean.batch)
        trial, judge = (
            sample(name, n, fit.bench.clean)
            for name, n in ((Stream.SELECTORS_TRIED, examples), (Stream.SELECTORS_JUDGED, size))
        )
        if fitted_to == "answer":
            chosen = select(fit, judge, progress=progress)
        else:
            numbers = None if cells is None else [(place, trial.number(head)) for head, place in cells]
            chosen = attended(fit, judge, thresholds.min_gain, numbers, progress)
        return _Measured(fit, trial, seed, thresholds, fitted_to).all(chosen)


def _fitting(model: Model, task: Task, cells: Collection[tuple[HeadId, Destination]] | None) -> int:
    """How many examples to fit on."""
    heads = model.cfg.n_layers * model.cfg.n_heads if cells is None else len({head for head, _ in cells})
    each = heads * task.n_ctx**2
    return max(LEAST_FIT, min(FIT, NUMBERS // each))


class _Measured:
    """The tables of a selection."""

    def __init__(self, fit: Examples, trial: Examples, seed: int, thresholds: Thresholds, fitted_to: FittedTo):
        self.fit, self.trial, self.thresholds, self.seed = fit, trial, thresholds, seed
        self.fitted_to: FittedTo = fitted_to
        self.live = fitted_to == "attention"  # selectors are taken out of the model as it is
        self.taken_out: TakenOut = OfModel(trial) if self.live else OfSum(trial)
        self.bench, self.baseline = trial.bench, trial.bench.baseline
        self.away = looking_away(fit.bench.clean.run.pattern, fit.bench.clean.batch, fit.task)
        batch = trial.bench.clean.batch
        numbers = stream(seed, Stream.BOOTSTRAP, "selectors")
        self.n = len(batch)
        self.draws: Resampling = resampling(self.n, thresholds.resampling_draws, thresholds.confidence, numbers)

    def all(self, chosen: Sum) -> Explained:
        """Every table."""
        parts = self._named(chosen)
        alone = only_ones(parts) if self.live else set[Part]()
        measured = self._effects(chosen, [part for part in parts if part not in alone], parts)
        effects = measured | {part: measured[part[0], part[1], None] for part in alone}
        of_heads = {part: shares for part, shares in effects.items() if part[2] is None} if self.live else {}
        told = judged(chosen, self.fit, self.trial, effects, self.draws, self.thresholds, self.seed, of_heads)
        table = pd.DataFrame(self._rows(chosen, parts, effects, told), columns=[*TABLE, *EFFECT, *CHANNELS])
        acting = [part for part in chosen.taken() if not self.live or self._status(told[part]) not in IDLE]
        tried = chosen.alone({part[:2] for part in acting}) if self.live else chosen
        swapped = rolled(tried, self.trial)
        having = {part[:2] for part in chosen.taken()}
        return Explained(
            examples=self.n,
            seed=self.seed,
            fitted_to=self.fitted_to,
            of_some=bool(chosen.own),
            table=table.astype({"hop": "Int64"}),
            curve=pd.DataFrame(self._curve(tried), columns=CURVE),
            held=self._shares(self.trial.recovered(self._held(chosen, told))),
            groups=groups_table(chosen, acting, self.trial, self.taken_out, measured, self.draws, self.thresholds),
            swapped=pd.DataFrame(columns=SHARES) if swapped is None else self._shares(self.trial.recovered(swapped)),
            shuffled=self._shares(self.trial.recovered_by_another(tried)),
            weights=weights_table(chosen, self.trial),
            away=tuple(one for one in self.away if (one.at, self.trial.number(one.head)) in having),
        )

    def _curve(self, chosen: Sum) -> list[dict[str, Any]]:
        rows, fewer = [], 0
        for level, (kinds, gated) in LEVELS.items():
            part = chosen.only(kinds, gated, self._said_together(chosen))
            size = len(part.taken())
            if rows and size == fewer:
                continue  # nothing that this level allows was needed
            if size < len(chosen.taken()):
                part = self._fitted_again(part)
            rows += self._level(level, part)
            fewer = size
        if self.live and not chosen.own and min(row["recovered"] for row in rows if row["selectors"] == fewer) < GOOD:
            roles = chosen.only(*LEVELS["roles"], self._said_together(chosen)).without_bare()
            whole = fitted_to_answers(chosen, self.fit, STEPS)
            every = len(roles.taken()) == len(chosen.taken())
            rows += self._level(ROLES_TO_ANSWER, whole if every else fitted_to_answers(roles, self.fit, STEPS))
            rows += self._level(TO_ANSWER, whole)
        return rows

    def _said_together(self, chosen: Sum) -> list[Part]:
        """The selectors by which heads look at all sources of a kind but some: one for all, and some for or against one."""
        kinds = {(away.at, self.trial.number(away.head), away.kind) for away in self.away}
        return [
            (place, head, selector)
            for place, head, selector in chosen.taken()
            if any((place, head, kind) in kinds and is_about(*_in_words(selector), kind, place) for kind in KINDS)
        ]

    def _level(self, name: str, part: Sum) -> list[dict[str, Any]]:
        counts = {"level": name, "selectors": len(part.taken()), "numbers": part.numbers}
        return [counts | row for row in self._readouts(self.trial.recovered(part))]

    def _held(self, chosen: Sum, told: Mapping[Part, SelectorEvidence]) -> Sum:
        """Without selectors that say where heads do not look, or are not confirmed where they all say where heads look; silent
        where nothing is left of a head, fitted again.
        """
        if self.live:
            gone: list[Part] = [
                part for part, evidence in told.items() if selector_status(evidence, self.thresholds) not in HELD
            ]
        else:
            gone = [part for part, evidence in told.items() if selector_answer(evidence, self.thresholds) == Answer.NO]
        if not gone:
            return chosen
        left = {part[:2] for part in told if part not in gone}
        gone += [(*cell, None) for cell in dict.fromkeys(part[:2] for part in gone) if cell not in left]
        return self._fitted_again(chosen.without(gone))

    def _fitted_again(self, part: Sum) -> Sum:
        """A part of the selectors; fitted to attention, heads of which none is left are silent as at the beginning."""
        if self.live:
            return fitted_to_attention(part.without_bare(), self.fit)
        return fitted_to_answers(part, self.fit, 2 * AGAIN)

    def _status(self, evidence: SelectorEvidence) -> Status:
        return selector_status(evidence, self.thresholds)

    def _readouts(self, shares: Tensor) -> list[dict[str, Any]]:
        """The recovered share of each open readout."""
        asked = [(self.baseline.readouts[at], float(shares[at])) for at in self.bench.open_readouts]
        return [{"destination": str(one.destination), "hop": one.hop, "recovered": share} for one, share in asked]

    def _shares(self, shares: Tensor) -> pd.DataFrame:
        return pd.DataFrame(self._readouts(shares), columns=SHARES)

    def _rows(
        self, chosen: Sum, parts: Sequence[Part], effects: Mapping[Part, Shares], told: Mapping[Part, SelectorEvidence]
    ) -> list[dict[str, Any]]:
        patterns = self.trial.patterns(chosen)
        return [
            self._described(chosen, part, patterns) | self._lost(effects, part) | self._channels(told.get(part))
            for part in parts
        ]

    def _named(self, chosen: Sum) -> list[Part]:
        """Every selector, and every head that needs none, in the order of heads and destinations."""
        taken = chosen.taken()
        having = {(place, head) for place, head, _ in taken}
        bare: list[Part] = [(place, head, None) for place, head in chosen.cells() if (place, head) not in having]
        order = {place: number for number, place in enumerate(Destination)}
        return sorted([*taken, *bare], key=lambda part: (part[1], order[part[0]]))

    def _effects(self, chosen: Sum, some: Sequence[Part], parts: Sequence[Part]) -> dict[Part, Shares]:
        """What is lost of each open readout without each of some parts, and without each head of all."""
        every = list(dict.fromkeys([*some, *((place, head, None) for place, head, _ in parts)]))
        lost = brought(self.taken_out.each(chosen, every))
        return {part: effects_on_open(moved, self.baseline, self.draws) for part, moved in zip(every, lost, strict=True)}

    def _lost(self, effects: Mapping[Part, Shares], part: Part) -> dict[str, Any]:
        """What is lost of the readout that shows it best."""
        number = telling(effects[part], self.thresholds.min_effect)
        told, readout = effects[part].at(number), self.baseline.readouts[self.bench.open_readouts[number]]
        head = effects[part[0], part[1], None].at(number).value
        return dict(zip(EFFECT, (told.value, told.low, told.high, str(readout), head), strict=True))

    def _channels(self, evidence: SelectorEvidence | None) -> dict[str, Any]:
        """Status and what it rests on."""
        if evidence is None:
            return dict.fromkeys(CHANNELS)
        gain, beyond, write = evidence.gain, evidence.beyond, carried_share(evidence.write, self.thresholds)
        said = selector_reason(evidence, self.thresholds)
        values = (gain.value, gain.low, gain.high, None if beyond is None else beyond.value, write, said)
        return dict(zip(CHANNELS, (str(self._status(evidence)), *values), strict=True))

    def _described(self, chosen: Sum, part: Part, patterns: Mapping[Destination, Tensor]) -> dict[str, Any]:
        place, number, selector = part
        head = self.trial.head(number)
        row: dict[str, Any] = {"head": str(head), "layer": head.layer, "destination": str(place)}
        if selector is None:
            nothing = dict.fromkeys(("role", "hop", "gate", "values", "weight"))
            return row | {"selector": "slot", "what": "uniform", **nothing, "numbers": 0, "share": 0.0}
        weight = chosen.weights[place, selector][number]
        role = selector.what if isinstance(selector.what, Role) else None
        return row | {
            "selector": selector.kind,
            "what": _in_words(selector)[1],
            "role": role.name if role else None,
            "hop": role.hop if role else None,
            "gate": selector.gate,
            "values": acting_values(self.trial.rows[place], selector, weight),
            "weight": float(peak(weight)),
            "numbers": weight.numel(),
            "share": self.trial.share(chosen, part, patterns),
        }


def _in_words(selector: Selector) -> tuple[str, str]:
    """What kind of a selector it is, and what it names, whatever its gate; tables of symbols are named with theirs."""
    return selector.kind, str(selector if selector.kind == "content" else replace(selector, gate=None))


def rolled(chosen: Sum, examples: Examples) -> Sum | None:
    """The selectors of every head given to the next one in its layer, or in the model where it is alone in its layer; of some
    heads that are asked, to the next of these at their destination, where one that is alone keeps its own. None where all that
    have selectors would: that is no other head's.
    """
    numbers = torch.arange(chosen.heads, device=examples.device).unflatten(0, (examples.layers, examples.in_layer))
    before = numbers.roll(1, dims=int(examples.in_layer > 1)).flatten()
    order = dict.fromkeys(chosen.live, before)
    for place, own in chosen.own.items():
        asked = (~own).nonzero().flatten()
        order[place] = numbers.flatten().index_copy(0, asked, asked.roll(1))
    cells = chosen.cells()
    if cells and all(int(order[place][head]) == head for place, head in cells):
        return None
    return replace(
        chosen,
        weights={taken: weight[order[taken[0]]] for taken, weight in chosen.weights.items()},
        has={taken: marks[order[taken[0]]] for taken, marks in chosen.has.items()},
        live={place: marks[order[place]] for place, marks in chosen.live.items()},
    )
