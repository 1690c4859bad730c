"""`analyze()`: the whole method, readable as its table of contents."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from stackheads.errors import ConfigError, InterventionError
from stackheads.explanation.asked import Heads, asked_cells, asked_readouts
from stackheads.explanation.circuit import find_circuit, no_circuit
from stackheads.explanation.explained import Explained
from stackheads.explanation.measuring import FITTED_TO, explain_heads
from stackheads.explanation.mechanism import name_mechanism
from stackheads.explanation.program import agreement, extract_program
from stackheads.explanation.reach import reach
from stackheads.explanation.together import together
from stackheads.labelling.bench import make_bench, read_labels
from stackheads.labelling.carrying import carried_frame, with_carried
from stackheads.labelling.frames import effect_frame, readout_frame
from stackheads.labelling.gating import by_gate
from stackheads.labelling.measure import BUDGET, MIN_EXAMPLES, Look, Measured, measure, measure_until_decided
from stackheads.labelling.roles import candidate_roles
from stackheads.labelling.rows import label_row
from stackheads.labelling.screening import Screen
from stackheads.labelling.stability import bootstrap_jaccard
from stackheads.labelling.thresholds import Thresholds, default_or
from stackheads.limits import check_number
from stackheads.models import Checkpoint, check_fit, load, parse_device
from stackheads.models.config import moved
from stackheads.models.hooks import analysing
from stackheads.models.kinds import check_model
from stackheads.models.memory import given_back
from stackheads.models.protocol import Model
from stackheads.models.trust import fingerprint
from stackheads.record import Missing, Record, read_record
from stackheads.seeds import check_seed
from stackheads.tables import label_frame
from stackheads.tasks import StatementTask, Task, settings_of
from stackheads.trial.trial import Trial, put_on_trial

CIRCUIT_EXAMPLES = 192
"""Examples for the circuit: its quantities are means over many patched runs, and each run costs."""


@dataclass(frozen=True, repr=False)
class Selectors(Explained):
    """What `Analysis.selectors` returns: selectors and what they explain (`explanation/explained.py`), also in a notebook."""

    def _repr_html_(self) -> str:
        from stackheads.report.notebook import selectors_html

        return selectors_html(self)


@dataclass(frozen=True, repr=False)
class Analysis(Record):
    """What `analyze()` returns: the record of an analysis (`record.py`), which shows itself and can be put on trial."""

    @classmethod
    def load(cls, folder: Path | str) -> "Analysis":
        """Read what `save` wrote. Raises `CheckpointError` if it is missing, damaged or of another format."""
        return cls(**read_record(folder))

    def trial(self, model: Model | None = None, task: Task | None = None, examples: int = 512) -> Trial:
        """Put the labels on trial, on fresh examples: sufficiency, redirection, necessity, fixed patterns.

        `model` and `task` are needed only for an analysis that was loaded, or whose model was trained on since. Raises
        `ConfigError` without them, for one of other sizes, or for fewer than 16 examples. Cost: see `trial.trial.put_on_trial`.
        """
        subject = self._subject(model, task, "trial(model, task)")
        return put_on_trial(*subject, self.labels, check_number("examples", examples, MIN_EXAMPLES), self.seed, self.thresholds)

    def selectors(
        self,
        model: Model | None = None,
        task: Task | None = None,
        examples: int = 512,
        progress: bool = True,
        fitted_to: str = "answer",
        heads: Heads | None = None,
    ) -> Selectors:
        """What every head looks at, as a sum of selectors: the fewest by which all heads together still give the "answer", or
        the fewest that tell each head's "attention".

        The answers are those that the model gives nearly always (`emerged_accuracy`), or, where there are none, better than by
        chance. Fitted on examples of their own, measured on `examples` fresh ones (`explanation/measuring.py`). `model` and
        `task` are needed as in `trial`. Raises `ConfigError` without them, and where the model answers nothing. What selectors
        do together, mechanism and program, is said beside them.

        `heads` asks for some alone ("L2H0", or "L2H0 @query" at one destination), while all others look as they do; an analysis
        with `screen` asks for those whose ablation matters. Both are fitted to attention, which must be said. Raises
        `InterventionError` for a head or destination that the labels do not have, `ConfigError` if they are to be fitted to the
        answer. Cost: see `explanation/measuring.py`; seconds to some minutes for models of a few layers.
        """
        readouts = asked_readouts(self.readouts, self.thresholds)
        if not readouts:
            seen = f"{self.examples} examples show none better than chance: give more, or analyse another model"
            raise ConfigError(f"selectors explain answers that a model gives, {seen}")
        examples = check_number("examples", examples, 1)
        way: Any = fitted_to
        if way not in FITTED_TO:
            ways = " or ".join(FITTED_TO)
            raise ConfigError(f"selectors are fitted to {ways}, got {fitted_to!r}: choose one of these")
        subject, asked = self._subject(model, task, "selectors(model, task)")
        cells = asked_cells(self.labels, heads, way)
        found = explain_heads(subject, asked, readouts, examples, self.seed, self.thresholds, progress, way, cells)
        if cells is None:  # what heads do together is asked of all
            found = together(found, self.labels, subject, asked, self.reach, self.thresholds)
        return Selectors(**vars(found))

    def by_gate(self, model: Model | None = None, task: Task | None = None, examples: int = 512) -> pd.DataFrame:
        """Where every head looks, for each value of what a position may know: hop against hops asked, say.

        One row per (head, destination, gate, value, role), see `labelling.gating.by_gate`; without rows where the task
        names no gate. `report.figures.gate_map` draws it. `model` and `task` are needed as in `trial`. Raises `ConfigError`
        without them, or for fewer than 16 examples. Cost: one forward pass on `examples` examples.
        """
        subject, task = self._subject(model, task, "by_gate(model, task)")
        return by_gate(subject, task, check_number("examples", examples, MIN_EXAMPLES), self.seed, self.thresholds)

    def _subject(self, model: Model | None, task: Task | None, call: str) -> tuple[Any, Task]:
        """The model and task that are given, or, where one is not, that which was analysed.

        Raises `ConfigError` for a model of other sizes, or that was trained on since it was analysed, and for none.
        """
        if (model is None or task is None) and self.subject is None:
            got = "none" if model is task else "a task alone" if model is None else "a model alone"
            raise ConfigError(f"a loaded analysis has no model and task to go on with, got {got}: {call}")
        if model is None and self.changed:
            rule = "an analysis goes on with the model that it was made from, its weights have changed since"
            raise ConfigError(f"{rule}: analyze it again, or give a copy of it as it was, {call}")
        mine: Any = self.subject
        if model is None and task is None:
            return mine
        subject: Any = mine[0] if model is None else model
        asked: Any = mine[1] if task is None else task
        check_fit(subject, asked)
        named = {str(label.role) for label in read_labels(self.labels) if label.role is not None}
        named |= set(self.labels["looks_like"].dropna())
        if lost := sorted(named - set(map(str, candidate_roles(asked)))):
            rule = f"the labels of this analysis are of a task with {lost[0]}"
            raise ConfigError(f"{rule}, got {asked.name}, which has none: give the task that it was made with")
        wanted, got = (f"{it['layers']} layers of {it['heads']} heads" for it in (self.model, _sizes(subject)))
        if wanted != got:
            raise ConfigError(f"this analysis is of {wanted}, got a model of {got}: give the model that it was made from")
        return subject, asked

    def to_html(
        self,
        path: Path | str,
        trial: Trial | Missing | None = None,
        examples: int = 8,
        selectors: Explained | Missing | None = None,
    ) -> None:
        """Write one offline HTML page, with a trial, selectors and the attention on the first `examples` (`report/page`).

        Raises `ConfigError` if `path` is a folder, `examples` is negative, or the page would be larger than 3 MB.
        """
        from stackheads.report.page import to_html

        to_html(self, path, trial, examples, selectors)

    def show(
        self, example: int = 0, heads: str | list[str] = "confirmed", destination: str | None = "query", view: str = "heads"
    ) -> Any:
        """Attention on one example, drawn by CircuitsVis; see `report.attention.show`."""
        from stackheads.report.attention import show

        return show(self, example, heads, destination, view)

    def _repr_html_(self) -> str:
        from stackheads.report.notebook import analysis_html

        return analysis_html(self)


def analyze(
    model: Model | Checkpoint | Path | str,
    task: Task | None = None,
    examples: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: torch.device | str | int | None = None,
    progress: bool = True,
    thresholds: Thresholds | None = None,
    explain: bool = True,
    screen: Screen | None = None,
    budget: int = BUDGET,
    carried: bool = False,
) -> Analysis:
    """Label every (head, destination) of a model by the rules of evidence (docs/method/evidence.md).

    `model` is the path of a checkpoint or run folder, or what `load` gave (model and task come from it), or a
    `HookedTransformer` or `TransformerBridge` (`models.bridge`) with a `task`.
    `device` None means where the model is, CPU for a path; a model that is given is moved to a device that is given. Its
    weights, hooks and mode stay as they are. `examples`: a number, or `auto`: 512, and while rows are undecided that more would
    decide, twice as many for these rows, up to `budget` (`labelling/measure.py`).
    `explain` adds how the heads work together: mechanism, program, reach, circuit.
    `carried` adds what heads carry that matter and have no role, wherever they look (`labelling/scrubbed.py`): for each of
    these some ten forward passes, one for each role and for each that is a candidate.
    `screen` is for models of many heads: exact interventions for candidates only, and the column `evidence` of the labels says
    for which (`labelling/screening.py`); nothing is explained then.

    Cost: 1 + D + 3 × heads × destinations forward passes on `examples` examples, and up to D more for each pattern found;
    with `explain` one on 4,096 examples, and on 192 the circuit's (`explanation/circuit.py`).

    Raises `ConfigError` (examples, device, draws too few for the budget), `CheckpointError`, `TaskMismatchError`.
    """
    thresholds = default_or(thresholds)
    if not isinstance(screen, Screen | None):
        raise ConfigError(f"screen is a Screen(…), got {screen!r}: give one, or leave it out")
    if examples != "auto":
        examples = check_number("examples", examples, MIN_EXAMPLES, words=" for an interval, or 'auto'")
    budget, seed = check_number("a budget", budget, MIN_EXAMPLES), check_seed(seed)
    analysed, task, described = _resolve(model, task, device)
    if examples == "auto":
        found = measure_until_decided(analysed, task, seed, thresholds, budget, progress, screen)
    else:
        found = Measured(*measure(analysed, task, Look(examples, seed), thresholds, progress, screen), (examples,), thresholds)
    labels, brought = label_frame([label_row(item, found.thresholds) for item in found.evidence]), None
    if carried:
        brought = carried_frame(analysed, task, found.evidence, seed, found.thresholds)
        labels = with_carried(labels, brought)
    return Analysis(
        model=described,
        task={"name": task.name, **settings_of(task)},
        seed=seed,
        examples=found.examples,
        thresholds=found.thresholds,
        versions={name: version(name) for name in ("stackheads", "torch", "transformer-lens")},
        labels=labels,
        carried=brought,
        readouts=readout_frame(found.baseline),
        effects=effect_frame(found.evidence),
        bootstrap_jaccard=bootstrap_jaccard(found.evidence, found.thresholds),
        subject=(analysed, task),
        weights=fingerprint(analysed),
        **(_explanation(labels, analysed, task, seed, thresholds) if explain and screen is None else {}),
    )


def _explanation(labels: pd.DataFrame, model: Model, task: Task, seed: int, thresholds: Thresholds) -> dict[str, Any]:
    """How the heads work together. Mechanisms by labels exist for tasks made of statements, circuits where paths do."""
    given_back()  # what was measured, of which nothing is needed
    readable = reach(model, task, seed)
    given_back()
    explained: dict[str, Any] = {"reach": readable}
    try:
        bench = make_bench(model, task, CIRCUIT_EXAMPLES, seed, thresholds)
        with analysing(model):
            explained["circuit"] = find_circuit(bench, read_labels(labels), thresholds, seed)
    except InterventionError as error:  # of a model whose parts have no hooks to patch a path by
        explained["circuit"] = no_circuit(str(error))
    extracted = extract_program(labels, task)
    if extracted is not None:
        explained |= {"program": str(extracted), "program_agreement": agreement(extracted, model, task, seed=seed) or None}
    if isinstance(task, StatementTask):
        mechanism = name_mechanism(extracted, task, readable)
        explained |= {"mechanism": mechanism.name, "mechanism_reason": mechanism.reason}
    return explained


def _resolve(
    model: Model | Checkpoint | Path | str, task: Task | None, device: torch.device | str | int | None
) -> tuple[Any, Task, dict[str, Any]]:
    """The model on its device, the task, and how to name them."""
    if isinstance(model, (str, Path)):
        model = load(model, parse_device(device))
    given: Any = model
    described: dict[str, Any] = {}
    if isinstance(model, Checkpoint):
        given, task = model.model, task or model.task
        described = {"name": model.name, **model.config.model_dump()}
    check_model(given)
    if task is None:
        raise ConfigError("a model needs a task to be analysed on, got none: analyze(model, task)")
    check_fit(given, task)
    if device is not None:
        given = moved(given, parse_device(device))
    name = getattr(given.cfg, "model_name", None) or type(given).__name__
    return given, task, described or {"name": name, **_sizes(given)}


def _sizes(model: Model) -> dict[str, int]:
    return {"layers": model.cfg.n_layers, "heads": model.cfg.n_heads, "d_model": model.cfg.d_model}
