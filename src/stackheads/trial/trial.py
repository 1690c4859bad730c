"""Labels on trial: everything that could prove them wrong together, on examples that they were not made on.

`sufficiency` (do the labels explain the answer?), `unexplained` (which unlabelled heads carry the rest?), `redirection` (do
they predict what happens when heads are pointed elsewhere?), `interchange` (can heads with the same label take each other's
place?), `necessity` (do the answers need these heads and not just any?), and `fixed` (which heads need to look at their input
at all?). Each has its own module with the exact definitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stackheads.explanation.program import extract_program
from stackheads.labelling.bench import make_bench, read_labels
from stackheads.labelling.thresholds import Thresholds, default_or
from stackheads.limits import check_number
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, check_seed
from stackheads.tables import records
from stackheads.tasks import Task
from stackheads.trial.fixed import fixed_patterns
from stackheads.trial.interchange import interchange
from stackheads.trial.necessity import necessity
from stackheads.trial.redirection import redirection
from stackheads.trial.sufficiency import VARIANTS, sufficiency, unexplained


@dataclass(frozen=True, repr=False)
class Trial:
    """The result. Tables as their modules describe them; `seed` and `examples` say on what.

    `replaced_at_once` is the least recovered share of an answered readout with all replacements of `fixed` in place.
    """

    examples: int
    seed: int
    sufficiency: pd.DataFrame
    unexplained: pd.DataFrame
    redirection: pd.DataFrame
    interchange: pd.DataFrame
    necessity: pd.DataFrame
    fixed: pd.DataFrame
    replaced_at_once: float | None

    def recovered(self, variant: str = "ideal", destination: str = "query") -> dict[int, float]:
        """Recovered share of the gap per hop: (i) `ideal`, (ii) `resample`, (iii) `own`, (iv) `live`."""
        rows = self.sufficiency.query("variant == @variant and destination == @destination")
        return {int(hop): float(share) for hop, share in zip(rows["hop"], rows["recovered"], strict=True)}

    @property
    def redirected(self) -> float | None:
        """Of all examples for which the labels predict another answer, the share that gives it; None if there are none."""
        return _weighted(self.redirection, "fulfilled", "changed")

    @property
    def held(self) -> float | None:
        """Of all examples for which the labels predict the same answer, the share that keeps it; None if there are none."""
        return _weighted(self.redirection, "held", "kept")

    @property
    def unpredicted(self) -> list[int]:
        """Hops at the query about which the labels predict nothing."""
        rows = self.redirection[self.redirection["unpredicted"].astype(bool)]
        return sorted(set(rows["readout"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "examples": self.examples,
            "seed": self.seed,
            "recovered": {variant: {str(h): s for h, s in self.recovered(variant).items()} for variant in VARIANTS},
            "redirected": self.redirected,
            "held": self.held,
            "unpredicted": self.unpredicted,
            "replaced_at_once": self.replaced_at_once,
            "sufficiency": records(self.sufficiency),
            "unexplained": records(self.unexplained),
            "redirection": records(self.redirection),
            "interchange": records(self.interchange),
            "necessity": records(self.necessity),
            "fixed": records(self.fixed),
        }

    def __repr__(self) -> str:
        lines = [f"trial on {self.examples} fresh examples, seed {self.seed}"]
        for variant, what in VARIANTS.items():
            shares = " ".join(f"{hop}: {share:.2f}" for hop, share in self.recovered(variant).items())
            lines.append(f"{what}: {shares}")
        return "\n".join([*lines, self.prediction, *self.exchanged])

    @property
    def prediction(self) -> str:
        """What redirection found, in a sentence."""
        if self.redirection.empty:
            return "redirection: no program could be compiled from the labels, so they predict nothing"
        if self.redirected is None:
            return "redirection: the labels predict no other answer"
        text = f"redirection: the predicted new answer in {self.redirected:.1%} of {self.redirection['changed'].sum()}"
        if self.held is not None:
            text += f", the predicted old one in {self.held:.1%} of {self.redirection['kept'].sum()}"
        return text + (f"; nothing predicted for hops {self.unpredicted}" if self.unpredicted else "")

    @property
    def exchanged(self) -> list[str]:
        """What interchange found, in a sentence for heads with the same label and one for others, where there are any."""
        words = {True: "with the same label", False: "with different labels"}
        pairs = [(what, self.interchange[self.interchange["same"] == same]) for same, what in words.items()]
        return [
            f"interchange: {len(rows)} {'pair' if len(rows) == 1 else 'pairs'} of heads {what} keep at least "
            f"{rows['kept'].min():.2f} of the answer, at most {rows['kept'].max():.2f}"
            for what, rows in pairs
            if len(rows)
        ]


def put_on_trial(
    model: Model,
    task: Task,
    labels: pd.DataFrame,
    examples: int = 512,
    seed: int = 0,
    thresholds: Thresholds | None = None,
) -> Trial:
    """Put the labels of a model on trial. `labels` is `analysis.labels`; `seed` that of the analysis (others are drawn).

    Cost: about 8 + 3 × (head, destination) + 101 × roles + 2 × redirections forward passes on `examples` examples, fewer where
    there are fewer random sets of heads than 100 for a role, and
    one for each pair of labelled heads of a layer and destination.
    """
    thresholds, seed = default_or(thresholds), check_seed(seed)
    examples = check_number("examples", examples, 1)
    bench = make_bench(model, task, examples, seed, thresholds, Stream.TRIAL)
    parsed = read_labels(labels)
    extracted = extract_program(labels, task)
    looks_like: Sequence[str | None] = [row["looks_like"] for row in records(labels)]
    with analysing(model):
        fixed, at_once = fixed_patterns(bench, parsed, looks_like, thresholds.min_effect)
        return Trial(
            examples=examples,
            seed=seed,
            sufficiency=sufficiency(bench, parsed),
            unexplained=unexplained(bench, parsed),
            redirection=redirection(bench, parsed, extracted),
            interchange=interchange(bench, parsed),
            necessity=necessity(bench, parsed, extracted, seed),
            fixed=fixed,
            replaced_at_once=at_once,
        )


def _weighted(frame: pd.DataFrame, share: str, count: str) -> float | None:
    rows = [row for row in records(frame) if row[count]]
    total = sum(row[count] for row in rows)
    return sum(row[share] * row[count] for row in rows) / total if total else None
