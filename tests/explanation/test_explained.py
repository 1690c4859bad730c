"""Selectors of known circuits are their heads' roles, and explain the answer; other heads' selectors do not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from subjects import subject

from stackheads import analyze
from stackheads.errors import ConfigError, TaskError
from stackheads.explanation.examples import Examples
from stackheads.explanation.explained import in_words, looks_away
from stackheads.explanation.measuring import FITTED_TO, explain_heads
from stackheads.explanation.selected import LEVELS, offered
from stackheads.labelling.bench import make_bench
from stackheads.labelling.readouts import Readout
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tables import records
from stackheads.tasks import Batch, Cycle, check
from stackheads.types import Destination
from stackheads.validation.rarely import OneAsked

KNOWN = ("one hop per layer", "tripling", "cycle-d4-l3")
EXAMPLES = 256


@pytest.fixture(scope="module")
def explained():
    """Analysis and selectors of each known circuit."""
    found = {}
    for name in KNOWN:
        analysis = analyze(*subject(name), examples=EXAMPLES, explain=False, progress=False)
        found[name] = analysis, analysis.selectors(examples=EXAMPLES, progress=False)
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_circuit_is_explained_by_its_roles(explained, name):
    """Confirmed hop heads have their hop as their selector, and nothing else that anything is needed for.

    Of heads that only tell later ones where to look nothing is needed where patterns are given; some may look at the start.
    """
    analysis, selected = explained[name]
    labels = {row_of(row) for row in records(analysis.labels) if row["status"] == "confirmed"}
    needed = {row_of(row) for row in records(selected.table) if row["effect"] > 0.1}
    assert {row for row in labels if row[1] == "query" and row[2] == "hop"} <= needed <= labels
    assert {row_of(row) for row in records(selected.table)} - labels <= {
        row_of(row) for row in records(selected.table) if row["role"] == "start"
    }
    assert selected.levels == ["roles"]
    assert selected.worst > 0.97
    assert selected.worst_held > 0.95
    assert all(row["effect_low"] > 0 for row in records(selected.table) if row["role"] == "hop")
    said = [(row["status"], row["reason"]) for row in records(selected.table) if row["effect"] > 0.1]
    assert all(status == "confirmed" and "matter" not in reason and "undecided" not in reason for status, reason in said)


@pytest.mark.parametrize(("name", "mechanism"), list(zip(KNOWN, ("one hop per layer", "tripling", "tripling"), strict=True)))
def test_selectors_of_a_known_circuit_name_its_mechanism(explained, name, mechanism):
    """With the program that they and the labels make, which answers like the model."""
    selected = explained[name][1]
    assert selected.mechanism == mechanism
    assert selected.mechanism_reason.startswith("selectors let the query follow 0, 1, ")
    assert set(selected.program_agreement) == ({1, 2, 3} if name == "one hop per layer" else {1, 2, 3, 4})
    assert min(selected.program_agreement.values()) > 0.99
    assert "layer 1: hop 1 @query" in selected.program or "layer 1: hop -1 @value, hop 1 @query" in selected.program


def row_of(row):
    return row["head"], row["destination"], row["role"], row["hop"]


@pytest.mark.parametrize("name", KNOWN)
def test_selectors_of_other_heads_explain_nothing(explained, name):
    """The null: every head with the selectors of its neighbour."""
    assert explained[name][1].swapped["recovered"].max() < 0.5


@pytest.mark.parametrize("name", KNOWN)
def test_where_heads_look_in_another_example_explains_nothing(explained, name):
    """The other null: what the next example's selectors name."""
    assert explained[name][1].shuffled["recovered"].abs().max() < 0.2


def test_shared_jobs_are_groups(explained):
    """In the trained model two heads look at hop 1 at each destination, and both are needed."""
    groups = {(row["job"], row["destination"]): row for row in records(explained["cycle-d4-l3"][1].groups)}
    assert set(groups) == {("hop 1", "query"), ("hop 1", "value")}
    assert all(row["heads"] == "L1H0, L2H1" and row["joint"] > 0.5 for row in groups.values())


def test_in_words(explained):
    selected = explained["one hop per layer"][1]
    assert {"hop 1", "hop 2", "hop 3"} <= {words for said in selected.hops.values() for words in said}
    assert "recovered share of the gap per hop, 256 fresh examples" in repr(selected)


def test_every_part_can_be_dropped_alone():
    """Runs with one part dropped, taken up in its layer, are whole runs without it."""
    model, task = subject("cycle-d4-l3")
    bench = make_bench(model, task, 16, 0, Thresholds())
    examples = Examples(bench)
    chosen = examples.everything()
    chosen = chosen.offering(offered(examples, *LEVELS["content"]), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for weight in chosen.weights.values():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    parts = chosen.parts()[::37]
    for part, logits in zip(parts, examples.variants(chosen, parts), strict=True):
        torch.testing.assert_close(logits, examples.logits(chosen.without([part])), atol=1e-4, rtol=1e-4)


def test_the_same_selectors_again_whatever_surrounds_the_call(explained):
    analysis, selected = explained["tripling"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert analysis.selectors(examples=EXAMPLES, progress=False).to_dict() == selected.to_dict()


def test_a_model_in_double_precision_has_the_same_selectors(explained):
    model, task = subject("tripling")
    double = copy.deepcopy(model).double()
    double.cfg.dtype = torch.float64
    analysis, selected = explained["tripling"]
    found = analysis.selectors(double, task, examples=EXAMPLES, progress=False)
    assert found.hops == selected.hops
    assert found.worst == pytest.approx(selected.worst, abs=0.01)


class Gated(Cycle):
    """A cycle whose gates are put wrong."""

    spoil: Callable[[Batch], Any]

    def sample(self, n, generator):
        batch = super().sample(n, generator)
        return replace(batch, gates={"odd": self.spoil(batch)})


WRONG = {
    "range": (lambda batch: batch.tokens - 1, "whole numbers from 0"),
    "number": (lambda batch: torch.arange(batch.tokens.numel()).view_as(batch.tokens), "told apart"),
}


@pytest.mark.parametrize("fitted_to", FITTED_TO)
@pytest.mark.parametrize(("spoil", "rule"), WRONG.values(), ids=WRONG)
def test_gates_that_are_none_are_refused_before_the_work(explained, spoil, rule, fitted_to):
    analysis, _ = explained["cycle-d4-l3"]
    model, task = subject("cycle-d4-l3")
    wrong = Gated(spoil=spoil, **task.model_dump())
    with pytest.raises(TaskError, match=rule) as caught:
        analysis.selectors(model, wrong, examples=64, progress=False, fitted_to=fitted_to)
    assert "\n" not in str(caught.value)
    with pytest.raises(TaskError, match=rule):
        check(wrong)


@pytest.mark.parametrize("fitted_to", FITTED_TO)
@pytest.mark.parametrize(("examples", "rule"), [(0, "at least 1"), (3, "give more examples")])
def test_too_few_examples_are_refused(explained, examples, rule, fitted_to):
    with pytest.raises(ConfigError, match=rule):
        explained["one hop per layer"][0].selectors(examples=examples, progress=False, fitted_to=fitted_to)


def test_a_model_that_answers_nothing_has_nothing_to_explain():
    task = Cycle(symbols=6, max_hops=2)
    model = build(ModelConfig(layers=2, heads=2, d_model=32, d_head=8), task, seed=0)
    analysis = analyze(model, task, examples=64, explain=False, progress=False)
    for fitted_to in FITTED_TO:
        with pytest.raises(ConfigError, match="examples show none better than chance"):
            analysis.selectors(progress=False, fitted_to=fitted_to)


def test_a_table_does_not_say_where_a_head_does_not_look():
    """Whatever the sign of its largest number, since a constant on all of them changes nothing."""
    for kind, away in (("role", True), ("slot", True), ("position", False), ("content", False)):
        row = {"selector": kind, "what": "such", "weight": -2.0, "gate": None, "values": None}
        assert looks_away(row) == away
        assert in_words(row) == ("not such" if away else "such")
        assert not looks_away(row | {"weight": 2.0})
        assert not looks_away(row | {"weight": None})


def test_where_readouts_are_asked_too_rarely_the_cure_is_one_that_helps():
    """Of 256 examples each asks one of six hops; a trial of 30 is too small of itself."""
    task = OneAsked(chains=2, max_hops=6, supervision="chain", attention_dir="causal")
    model, _ = compile_layers(lower(doubling(6)), task, normalization=None)
    asked = [Readout(Destination.QUERY, hop) for hop in task.readout_hops]
    with pytest.raises(ConfigError, match=r"64 places or more, 256 examples .*: use labels, or a task that asks one") as found:
        explain_heads(model, task, asked, 1024, 0, Thresholds())
    assert "more examples" not in str(found.value)
    model, task = subject("cycle-d4-l3")
    with pytest.raises(ConfigError, match="30 examples have none that the model answers: give more examples"):
        explain_heads(model, task, [Readout(Destination.QUERY, hop) for hop in task.readout_hops], 30, 0, Thresholds())
