"""Selectors of some heads are those that they have among all, and the others look as they do."""

from dataclasses import replace

import pytest
import torch
from subjects import subject

from stackheads import analyze
from stackheads.errors import ConfigError, InterventionError
from stackheads.explanation.asked import MATTERING
from stackheads.explanation.examples import Examples
from stackheads.explanation.measuring import rolled
from stackheads.labelling.bench import make_bench
from stackheads.labelling.screening import Screen
from stackheads.labelling.selectors import Selector
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.tables import records
from stackheads.tasks import Cycle
from stackheads.types import Destination, HeadId, Role

TOLD = ("head", "destination", "selector", "what", "gate", "values", "status")


@pytest.fixture(scope="module")
def tripling():
    analysis = analyze(*subject("tripling"), examples=128, explain=False, progress=False)
    return analysis, analysis.selectors(examples=128, fitted_to="attention", progress=False)


def told(selected, cells):
    rows = [row for row in records(selected.table) if f"{row['head']} @{row['destination']}" in cells]
    return [[row[name] for name in TOLD] for row in rows]


def test_some_heads_have_the_selectors_that_they_have_among_all(tripling):
    analysis, every = tripling
    cells = list(every.hops)
    asked = cells[::2]
    some = analysis.selectors(examples=128, fitted_to="attention", progress=False, heads=asked)
    assert list(some.hops) == asked
    assert told(some, asked) == told(every, asked)
    assert len(told(some, asked)) >= 3
    assert some.of_some
    assert some.mechanism is None
    assert some.worst > 0.97  # the others look as they do


def test_a_name_without_a_destination_means_all_of_them(tripling):
    analysis, every = tripling
    head = next(iter(every.hops)).split(" @")[0]
    for name in (head, HeadId.parse(head)):
        some = analysis.selectors(examples=128, fitted_to="attention", progress=False, heads=name)
        assert list(some.hops) == [cell for cell in every.hops if cell.startswith(head)]


def test_a_model_whose_heads_all_look_as_they_do_is_the_model():
    examples = Examples(make_bench(*subject("tripling"), 64, 0, Thresholds()))
    everything = examples.everything()
    untouched = replace(everything, own=everything.live)
    for shares in (examples.recovered(untouched), examples.recovered_by_another(untouched)):
        assert torch.allclose(shares[examples.open], torch.ones(1, dtype=torch.double), atol=1e-4)
    assert untouched.cells() == []
    assert all(bool(live.all()) for live in untouched.alone(set()).live.values())


@pytest.mark.parametrize("together", [[1], [1, 1], [2], [2, 1]])
def test_a_head_is_not_its_own_null(tripling, together):
    """So many heads of each destination are asked: those that are alone there have no next one."""
    analysis, every = tripling
    of_place: dict[str, list[str]] = {}
    for cell in every.hops:
        of_place.setdefault(cell.split("@")[1], []).append(cell)
    cells = sorted(of_place.values(), key=len, reverse=True)
    asked = [cell for some, number in zip(cells, together, strict=False) for cell in some[:number]]
    assert len(asked) == sum(together)
    some = analysis.selectors(examples=128, fitted_to="attention", progress=False, heads=asked)
    assert len(some.swapped) == len(some.shuffled) * (max(together) > 1)
    assert list(some.swapped) == list(some.shuffled)
    assert some.to_dict()["swapped"] == records(some.swapped)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 2), (2, 1)])
def test_a_model_of_one_head_has_no_next_one(layers, heads):
    task = Cycle(symbols=5, max_hops=2, supervision="dense")
    bench = make_bench(build(ModelConfig(layers=layers, heads=heads), task, seed=0), task, 64, 0, Thresholds())
    examples = Examples(replace(bench, baseline=replace(bench.baseline, open=torch.ones_like(bench.baseline.open))))
    previous = (Destination.VALUE, Selector("role", Role("previous")))
    chosen = examples.everything().offering({previous: (1, 1)}, examples.device)
    found = rolled(chosen.alone({(Destination.VALUE, 0)}), examples)
    assert [cell[:2] for cell in found.taken()] == [(Destination.VALUE, 1)] if layers * heads > 1 else found is None


def test_heads_that_are_none_are_refused(tripling):
    analysis, _ = tripling
    for heads, error, rule in (
        (["L9H9"], InterventionError, "heads that have labels"),
        (["L0H0 @condition"], InterventionError, "heads that have labels"),
        (["L0H0 @nowhere"], InterventionError, "a destination is one of"),
        (["first"], InterventionError, "a head is written like"),
        (["L0H0 @"], InterventionError, "a destination is one of"),
        ([], ConfigError, "one head or more"),
        (["7"], InterventionError, "a head is written like"),
    ):
        with pytest.raises(error, match=rule):
            analysis.selectors(examples=128, fitted_to="attention", heads=heads)
    with pytest.raises(ConfigError, match="fitted to attention"):
        analysis.selectors(examples=128, heads=["L0H0"])


def test_of_a_screened_model_those_are_asked_whose_ablation_matters():
    screened = analyze(*subject("tripling"), examples=128, explain=False, progress=False, screen=Screen(top=2))
    matter = {f"{row['head']} @{row['destination']}" for row in records(screened.labels) if row["status"] in MATTERING}
    selected = screened.selectors(examples=128, fitted_to="attention", progress=False)
    assert set(selected.hops) == matter
    assert matter
    with pytest.raises(ConfigError, match="fitted to attention"):
        screened.selectors(examples=128)
