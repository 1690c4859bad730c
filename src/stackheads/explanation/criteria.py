"""Faithfulness, completeness and minimality of a circuit (Wang et al. 2023, §4), in shares of the gap.

F(S) is the recovered share, averaged over the readouts that the model answers, with everything outside S at its positional mean
and S live; C is the set of confirmed cells, M all:

    faithfulness        F(C), where F(M) = 1
    incompleteness(K)   |F(C without K) - F(M without K)|, for K in C: ten random K (each cell with probability 1/2) and
                        a greedy one that adds, from ∅, the cell that raises it most, among ten candidates, while it rises
    minimality(v)       max over K of |F(C without K and v) - F(C without K)|, for each v in C; K: ∅, the other cells of the
                        role of v, five of the random sets and the greedy set, each without v

F of a set is the mean over those readouts of Σ (margin - chance) / Σ (clean margin - chance), so that F(M) = 1. Beside it stand
median and 10th percentile over the examples that ask one of them (for differences: median and 90th percentile), each example's
share being averaged over what it asks.

F of every set is computed once. Most sets differ from another one by a single cell, so the run of that one is recorded and
taken up at the cell (`interventions/onward.py`); a model that runs through its hooks takes each run from the start. Cost: one
forward pass for each set that others are compared with (two for each step of the greedy set and for each random K, one for each
other K), and less than half of one for each that differs from it by a cell.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.explanation.ideal import silent_rows
from stackheads.interventions import ABLATIONS, Recorded, destination_rows, edited_run, onward, replayable, run_variants
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.statistics import brought
from stackheads.models.hooks import HeadEdit
from stackheads.types import HeadId, Where

RANDOM_SETS = 10
MINIMALITY_SETS = 5
CANDIDATES = 10


class Criteria:
    """The three criteria on one bench. `labels` are all cells, `confirmed` those of the circuit; where `near`, runs are taken
    up from others.
    """

    def __init__(self, bench: Bench, labels: Sequence[Label], confirmed: Sequence[Label], generator: torch.Generator):
        self.bench, self.labels, self.confirmed, self.generator = bench, labels, list(confirmed), generator
        self.known: dict[frozenset[Label], Float[Tensor, "example open"]] = {}
        self.open = bench.baseline.open
        baseline = bench.baseline.on_cpu
        count = baseline.count[:, self.open].double()
        per_question = (baseline.chance.margin[:, self.open].double().sum(dim=0) / count.sum(dim=0)).expand(count.shape)
        self.chance = per_question * count  # [example, open readout]
        self.gap = (baseline.clean.margin[:, self.open].double() - self.chance).sum(dim=0)
        self.count = count
        self.rows: dict[Where, Bool[Tensor, "batch pos"]] = {
            label.where: destination_rows(bench.clean.batch, label.where) for label in labels
        }
        self.means: dict[HeadId, Float[Tensor, "batch pos d_head"]] = {}
        self.near = replayable(bench.model, bench.clean)

    def all(self) -> dict[str, Any]:
        """The three criteria."""
        circuit = frozenset(self.confirmed)
        random = [self._random_set() for _ in range(RANDOM_SETS)]
        greedy = self._greedy_set()
        minimality = self._minimality([frozenset[Label](), greedy, *random[:MINIMALITY_SETS]])
        scores = [self._incompleteness(chosen) for chosen in random]
        whole, worst = self._each(self._kept(circuit)), self._each(self._signed(greedy)).abs()
        return {
            "faithfulness": {
                "mean": self._share(self._kept(circuit)),
                "median": whole.quantile(0.5).item(),
                "tenth": whole.quantile(0.1).item(),
            },
            "completeness": {
                "random_mean": sum(scores) / len(scores),
                "random_worst": max(scores),
                "greedy": self._incompleteness(greedy),
                "greedy_median": worst.quantile(0.5).item(),
                "greedy_ninetieth": worst.quantile(0.9).item(),
            },
            "minimality": minimality,
        }

    def _kept(self, live: Iterable[Label]) -> Float[Tensor, "example open"]:
        """The margins beyond chance that are left where these cells are live, of the readouts that the model answers."""
        key = frozenset(live)
        if key not in self.known:
            self.known[key] = self._beyond(self._margin(self.bench.run([*self._edits(key)])).cpu())
        return self.known[key]

    def _margin(self, logits: Float[Tensor, "example pos d_vocab_out"]) -> Float[Tensor, "example readout"]:
        return self.bench.scorer.margin(logits)

    def _beyond(self, margin: Float[Tensor, "example readout"]) -> Float[Tensor, "example open"]:
        return margin[:, self.open].double() - self.chance

    def _share(self, beyond: Float[Tensor, "example open"]) -> float:
        """F of margins beyond chance, or of what two sets of them differ by."""
        return (beyond.sum(dim=0) / self.gap).mean().item()

    def _each(self, beyond: Float[Tensor, "example open"]) -> Float[Tensor, "some"]:
        """The share of each example that asks one of the readouts, averaged over those that it asks."""
        asked = self.count > 0
        share = beyond / (self.gap / self.count.sum(dim=0) * self.count.clamp(min=1))
        counted = asked.any(dim=1)
        return ((share * asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1))[counted]

    def _around(self, live: frozenset[Label], toggled: Collection[Label]) -> None:
        """Learn F of this set, and of each that differs from it by one of these cells, from the run of this set."""
        wanted = [label for label in toggled if live ^ {label} not in self.known]
        if not self.near or not wanted:
            return
        model, made = self.bench.model, self._edits(live)
        base = edited_run(model, self.bench.clean, made)
        wanted.sort(key=lambda label: (label.head.layer, str(label.where)))  # runs that begin alike stand together
        variants = [self._toggle(base, live, label, made) for label in wanted]
        runs = run_variants(model, base, variants, read=self.bench.scorer.read)
        own, *others = map(self._beyond, brought([self._margin(base.run.logits), *map(self._margin, runs)]))
        self.known.setdefault(live, own)
        self.known |= {live ^ {label}: beyond for label, beyond in zip(wanted, others, strict=True)}

    def _toggle(self, base: Recorded, live: frozenset[Label], label: Label, made: Sequence[HeadEdit]) -> list[HeadEdit]:
        """What makes the run with a cell more or less of the run of `live`, which is recorded."""
        before, after = (silent_rows(self.labels, some, self.rows).get(label.head) for some in (live, live ^ {label}))
        nowhere = torch.zeros_like(self.rows[label.where])
        before, after = (nowhere if rows is None else rows for rows in (before, after))
        pattern, v, _ = base.run.of(label.head)
        z = pattern @ v if label not in live else self._mean(label.head)  # what the head gives of itself, or its mean
        return onward(self.bench.model, HeadEdit(label.head, before ^ after, z), made)

    def _edits(self, live: Collection[Label]) -> list[HeadEdit]:
        """Everything outside a set at its positional mean."""
        silent = silent_rows(self.labels, live, self.rows)
        return [HeadEdit(head, rows, self._mean(head)) for head, rows in silent.items()]

    def _mean(self, head: HeadId) -> Float[Tensor, "batch pos d_head"]:
        if head not in self.means:
            self.means[head] = ABLATIONS["mean"](self.bench.clean, head)
        return self.means[head]

    def _signed(self, chosen: frozenset[Label]) -> Float[Tensor, "example open"]:
        return self._kept(set(self.confirmed) - chosen) - self._kept(set(self.labels) - chosen)

    def _incompleteness(self, chosen: frozenset[Label]) -> float:
        return abs(self._share(self._signed(chosen)))

    def _random_set(self) -> frozenset[Label]:
        picks = torch.rand(len(self.confirmed), generator=self.generator, dtype=torch.float) < 0.5
        return frozenset(label for label, picked in zip(self.confirmed, picks.tolist(), strict=True) if picked)

    def _greedy_set(self) -> frozenset[Label]:
        chosen: frozenset[Label] = frozenset()
        best = self._incompleteness(chosen)
        while len(chosen) < len(self.confirmed):
            rest = [label for label in self.confirmed if label not in chosen]
            order = torch.randperm(len(rest), generator=self.generator).tolist()[:CANDIDATES]
            for every in (self.confirmed, self.labels):
                self._around(frozenset(every) - chosen, [rest[index] for index in order])
            scored = [(self._incompleteness(chosen | {rest[index]}), index) for index in order]
            value, index = max(scored)
            if value <= best:
                break
            chosen, best = chosen | {rest[index]}, value
        return chosen

    def _minimality(self, sets: Sequence[frozenset[Label]]) -> dict[str, float]:
        """The largest difference that each cell makes."""
        circuit = frozenset(self.confirmed)
        of_role = {label: frozenset(other for other in self.confirmed if other.role == label.role) for label in self.confirmed}
        for chosen in sets:
            self._around(circuit - chosen, self.confirmed)
        for chosen in dict.fromkeys(of_role.values()):
            self._around(circuit - chosen, [label for label in self.confirmed if label in chosen])
        scores = {label: [self._difference(label, chosen) for chosen in [*sets, of_role[label]]] for label in self.confirmed}
        return {str(label): max(values) for label, values in scores.items()}

    def _difference(self, label: Label, chosen: frozenset[Label]) -> float:
        circuit = frozenset(self.confirmed)
        less, more = self._kept(circuit - (chosen | {label})), self._kept(circuit - (chosen - {label}))
        return abs(self._share(less - more))
