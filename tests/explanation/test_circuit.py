"""Circuits and reach of models whose wiring is known."""

import io
from dataclasses import replace

import pytest
import rewritten
import torch
from subjects import subject

from stackheads import Analysis, analyze
from stackheads.explanation.circuit import LOGITS, NO_HEAD, NOT_SOUGHT, find_circuit, no_circuit
from stackheads.explanation.mechanism import furthest, name_mechanism
from stackheads.explanation.reach import READABLE, reach
from stackheads.interventions import recorded
from stackheads.labelling.bench import make_bench, read_labels
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.models.trust import why_not_fused
from stackheads.programs.mechanisms import MECHANISMS
from stackheads.programs.program import possible_part
from stackheads.report.figures import circuit_diagram
from stackheads.report.terminal import print_analysis
from stackheads.tasks import Cycle, Retrieval
from stackheads.theory import layers_around, least_layers
from stackheads.types import Destination
from stackheads.validation.specimens import CIRCUITS, Guise, specimen


@pytest.fixture(scope="module")
def walk():
    """One hop per layer, with an idle head: previous @value, then hops 1, 2 and 3 @query."""
    made = specimen("one hop per layer", CIRCUITS["one hop per layer"](), Guise(seed=2, idle=1, normalization=None))
    return made, analyze(made.model, made.task, examples=128, progress=False)


def test_edges_are_the_wires(walk):
    """Each hop head finds its statement by the key that `previous` brought, and passes its symbol to the next head's query."""
    _, analysis = walk
    name = {
        row["role"] if row["hop"] is None else row["hop"]: f"{row['head']} @{row['destination']}" for row in cells(analysis)
    }
    edges = set(analysis.circuit.edges(keys=True))
    keys = {(name["previous"], name[hop], "k") for hop in (1, 2, 3)}
    queries = {(name[1], name[2], "q"), (name[2], name[3], "q")}
    answers = {(name[hop], LOGITS, LOGITS) for hop in (1, 2, 3)}
    assert edges == keys | queries | answers


def cells(analysis):
    rows = analysis.labels[analysis.labels["status"] == "confirmed"]
    return [{**row, "hop": None if row["role"] != "hop" else int(row["hop"])} for row in rows.to_dict(orient="records")]


def test_a_known_circuit_is_faithful_complete_and_minimal(walk):
    _, analysis = walk
    circuit = analysis.circuit
    assert circuit.faithfulness["mean"] == pytest.approx(1, abs=0.02)
    assert circuit.faithfulness["tenth"] == pytest.approx(1, abs=0.02)
    assert max(circuit.completeness.values()) < 0.02
    assert min(circuit.minimality.values()) > 0.2


def test_direct_and_total_effects(walk):
    """The last hop head acts on the logits alone; `previous` not at all, but through the others."""
    _, analysis = walk
    nodes = {values["hop"] or values["role"]: values for name, values in analysis.circuit.nodes(data=True) if name != LOGITS}
    assert nodes[3]["direct"] == pytest.approx(nodes[3]["total"], abs=1e-3)
    assert nodes["previous"]["direct"] == pytest.approx(0, abs=1e-3)
    assert nodes["previous"]["total"] > 0.8


def test_a_circuit_with_a_member_missing_is_not_complete():
    made = specimen("tripling", CIRCUITS["tripling"](), Guise(seed=2, normalization=None))
    analysis = analyze(made.model, made.task, examples=96, progress=False, explain=False)
    labels = analysis.labels.copy()
    labels.loc[(labels["hop"] == 3).fillna(False).astype(bool), "status"] = "none"
    bench = make_bench(made.model, made.task, 64, 0, Thresholds())
    circuit = find_circuit(bench, read_labels(labels), Thresholds(), 0)
    assert circuit.faithfulness["mean"] < 0.8
    assert circuit.completeness["greedy"] > 0.2


@pytest.mark.parametrize("name", ["one hop per layer", "tripling"])
def test_probes_read_what_the_program_knows(name):
    """Without noise a hop is readable exactly where the program's window holds it (and where it exists: not f^-1 if causal)."""
    made = specimen(name, CIRCUITS[name](), Guise(seed=4))
    found = reach(made.model, made.task, examples=2048)
    program = MECHANISMS[name](made.task.max_hops)
    windows = possible_part(program, made.task.same_offset)[2]
    for layer, known in enumerate(windows):
        for destination in (Destination.QUERY, Destination.VALUE):
            row = found[(found["layer"] == layer) & (found["destination"] == str(destination))].iloc[0]
            assert set(row["hops"]) == {hop for hop in known[destination] if hop in row["accuracy"]}
    assert not any(found[found["layer"] == -1]["hops"])


def test_depth_bounds_as_the_theory_says():
    """r' = 3r + 1 or 2r + 1 from r = 0, and hop j at radius 2j."""
    cycle, chain = Cycle(symbols=64, max_hops=30), Retrieval(chains=2, max_hops=20, attention_dir="causal")
    assert [furthest(layers, cycle) for layers in range(5)] == [0, 0, 2, 6, 20]
    assert [furthest(layers, chain) for layers in range(6)] == [0, 0, 1, 3, 7, 15]
    assert furthest(1000, cycle) == 30


@pytest.mark.parametrize("symbols", range(4, 13))
def test_round_a_cycle_nothing_is_further_than_the_other_way_round(symbols):
    """Looking both ways: hop j or hop j - n, whichever is nearer, or the one hop that all others leave."""
    task = Cycle(symbols=symbols, max_hops=symbols - 2)
    for layers in range(5):
        known = [layers_around(hop, Destination.QUERY, symbols) <= layers for hop in range(1, symbols)]
        if known.count(False) == 1:
            known = [True] * len(known)
        in_a_row = next((hop for hop, there in enumerate(known) if not there), len(known))
        assert furthest(layers, task) == min(in_a_row, task.max_hops)


@pytest.mark.parametrize(
    "task",
    [
        Cycle(symbols=10, max_hops=8),
        Cycle(symbols=6, max_hops=4, attention_dir="causal"),
        Cycle(symbols=9, max_hops=7, attention_dir="causal", order="sorted"),
        Retrieval(chains=2, max_hops=8),
        Retrieval(chains=3, max_hops=5, attention_dir="causal"),
        Retrieval(chains=2, max_hops=4, attention_dir="causal", order="shuffled"),
    ],
    ids=lambda task: task.name,
)
def test_what_the_exact_flow_lets_a_query_know_is_never_a_shortcut(task):
    found = [least for least in least_layers(task, 256) if least.destination == Destination.QUERY]
    for layers in range(len(found[0].shares)):
        known = [least.hop for least in found if least.shares[layers] >= READABLE]
        assert furthest(layers, task) >= max(known, default=0)


def test_a_hop_that_nothing_can_have_followed_to_is_a_shortcut(walk):
    made, analysis = walk
    found = analysis.reach.copy()
    at = found.index[(found["layer"] == 1) & (found["destination"] == "query")][0]
    found.at[at, "hops"] = (1, 2, 3)
    mechanism = name_mechanism(None, made.task, found)
    assert mechanism.name == "shortcut"
    assert "reaches hop 1 at most after layer 1" in mechanism.reason


def test_folded_norms_leave_the_circuit_as_it_is():
    """LayerNorms without weights ("LNPre") have the fast forward too."""
    model, task = subject("cycle-d4-l3")
    other = rewritten.folded(model, pre=True)
    assert other.cfg.normalization_type == "LNPre"
    one, same = (analyze(each, task, examples=64, progress=False) for each in (model, other))
    assert recorded(other, task.sample(4, torch.Generator().manual_seed(0))).hooked is None
    strengths = [{edge[:3]: edge[3] for edge in found.circuit.edges(keys=True, data="strength")} for found in (one, same)]
    for mine, theirs in (strengths, reversed(strengths)):
        strong = {edge: strength for edge, strength in mine.items() if abs(strength) >= 0.1}
        assert len(strong) > 3
        assert {edge: theirs.get(edge) for edge in strong} == pytest.approx(strong, abs=1e-3)
    assert same.circuit.faithfulness == pytest.approx(one.circuit.faithfulness, abs=1e-3)


def test_a_circuit_that_is_not_to_be_had_says_why(tmp_path):
    model, task = subject("cycle-d4-l3")
    found = analyze(model, task, examples=64, explain=False, progress=False)
    assert str(found.circuit) == f"no circuit: {NOT_SOUGHT}"
    made = build(ModelConfig(layers=1, heads=1), task)
    assert analyze(made, task, examples=64, progress=False).circuit.missing == NO_HEAD
    why = "path patching needs the hook blocks.0.hook_attn_out, Some does not run it: patch whole heads instead"
    other = replace(found, circuit=no_circuit(why))
    assert not other.circuit.edges
    assert other.circuit.faithfulness == {}
    other.save(tmp_path / "a")
    assert Analysis.load(tmp_path / "a").circuit.missing == why
    told = io.StringIO()
    print_analysis(other, told)
    assert why in " ".join(told.getvalue().split())
    assert "no circuit" in "".join(text.get_text() for text in circuit_diagram(other).texts)


def test_reach_and_circuit_are_saved(walk, tmp_path):
    _, analysis = walk
    analysis.save(tmp_path / "a")
    loaded = Analysis.load(tmp_path / "a")
    assert loaded.to_dict() == analysis.to_dict()
    assert loaded.circuit.faithfulness == analysis.circuit.faithfulness
    assert set(loaded.circuit.edges(keys=True)) == set(analysis.circuit.edges(keys=True))
    assert loaded.reach["hops"].tolist() == analysis.reach["hops"].tolist()


def test_reach_without_hooks_is_reach_with_them(monkeypatch):
    """To a row or two that stand between two symbols, rows being dropped where there are enough of a destination."""
    monkeypatch.setattr("stackheads.explanation.reach.MAX_ROWS", 900)
    monkeypatch.setattr("stackheads.explanation.reach.PART", 100)
    model, task = subject("chain-d4-l4")
    assert why_not_fused(model) is None
    fast = reach(model, task, examples=500)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: value)]):
        plain = reach(model, task, examples=500)
    assert fast[["layer", "destination"]].equals(plain[["layer", "destination"]])
    for one, other in zip(fast["accuracy"], plain["accuracy"], strict=True):
        assert one == pytest.approx(other, abs=0.01)
