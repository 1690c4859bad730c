"""The figures of an analysis against the data that they draw."""

import warnings
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib._pylab_helpers import Gcf

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.explanation.circuit import LOGITS, Circuit
from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.models.hooks import record
from stackheads.report.attention import head_name
from stackheads.report.figures import attention_maps, circuit_diagram, evidence_map, reach_map, save_figures
from stackheads.report.figures.circuit import PORTS
from stackheads.report.figures.layout import LETTERS, WIDTH, gate_in_box, layered, strong
from stackheads.report.figures.style import MARKERS
from stackheads.tables import records, role_of
from stackheads.tasks import labelling_batch
from stackheads.types import HeadId


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_diagram_names_every_confirmed_cell_and_every_input(analysis):
    shown = texts(circuit_diagram(analysis))
    assert set(analysis.circuit.nodes) <= set(shown)
    fed = {(receiver, key) for _, receiver, key in strong(analysis.circuit, 0.1) if receiver != LOGITS}
    assert sum(text in PORTS for text in shown) == len(fed)
    assert {"layer 0", "layer 1", "layer 2", "previous", "hop -1", "hop 1", "hop 3"} <= set(shown)


def test_edges_are_drawn_from_the_given_strength_on(analysis):
    def drawn(least):
        return len(circuit_diagram(analysis, least).axes[0].patches)

    for least in (0.0, 0.1, 0.5):
        assert drawn(least) - drawn(9.0) == len(strong(analysis.circuit, least))


@settings(max_examples=40)
@given(
    layers=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    edges=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from("qkv")), max_size=20),
)
def test_no_box_or_line_stands_in_another_and_edges_pass_every_row(layers, edges):
    circuit = Circuit()
    names = [f"L{layer}H{number} @value" for number, layer in enumerate(layers)]
    circuit.add_node(LOGITS)
    for name, layer in zip(names, layers, strict=True):
        circuit.add_node(name, layer=layer)
        circuit.add_edge(name, LOGITS, LOGITS, strength=0.5)
    for one, other, key in edges:
        if max(one, other) < len(layers) and layers[one] < layers[other]:
            circuit.add_edge(names[one], names[other], key, strength=-0.3)
    layout = layered(circuit, 0.1)
    rows = {}
    for item in layout.x:
        row = layout.rows.index(circuit.nodes[item]["layer"]) if isinstance(item, str) else item[2]
        rows.setdefault(row, []).append(item)
    for row in rows.values():
        for one, other in combinations(row, 2):
            room = (WIDTH[isinstance(one, str)] + WIDTH[isinstance(other, str)]) / 2
            assert abs(layout.x[one] - layout.x[other]) >= room - 1e-9
    for route in layout.routes.values():
        at = [next(row for row, items in rows.items() if item in items) for item in route]
        assert all(after == before + 1 for before, after in pairwise(at))
    assert layered(circuit, 0.1) == layout


def test_the_map_has_a_row_for_each_cell_at_its_numbers(analysis):
    where, pattern, effect, _ = evidence_map(analysis).axes
    rows = [f"{head} @{place}" for head, place in zip(analysis.labels["head"], analysis.labels["destination"], strict=True)]
    assert [label.get_text() for label in where.get_yticklabels()] == rows
    at = rows.index("L2H0 @query")
    label = analysis.labels.iloc[at]
    columns = [tick.get_text() for tick in where.get_xticklabels()]

    def marks(axes):
        return [
            line.get_xdata()[0]
            for line in axes.get_lines()
            if list(line.get_ydata()) == [at] and line.get_marker() == MARKERS["confirmed"]
        ]

    assert [columns[int(x)] for x in marks(where)] == ["hop 3"]
    assert marks(pattern) == [label["pattern"]]
    assert marks(effect) == [label["effect"]]
    spans = [list(line.get_xdata()) for line in effect.get_lines() if list(line.get_ydata()) == [at, at]]
    assert spans == [[label["effect_low"], label["effect_high"]]]


def test_reach_marks_what_is_readable(analysis):
    panels = reach_map(analysis).axes
    for axes in panels[:3]:
        destination = axes.get_title(loc="left").removeprefix("@")
        rows = analysis.reach[analysis.reach["destination"] == destination]
        assert len([line for line in axes.get_lines() if line.get_marker() == "o"]) == sum(map(len, rows["hops"]))


def test_without_a_circuit_or_probes_the_figures_say_so(checkpoints, tmp_path):
    nothing = analyze(checkpoints / "cycle-d4-l4-final", examples=32, progress=False, explain=False)
    assert "not looked for" in circuit_diagram(nothing).texts[0].get_text()
    assert "not measured" in reach_map(nothing).texts[0].get_text()
    for name in ("gates.png", "selectors.svg", "thesis.png"):
        (tmp_path / name).touch()
    save_figures(nothing, tmp_path)
    there = {path.name for path in tmp_path.iterdir()}
    assert {"circuit.png", "attention.svg", "thesis.png"} <= there
    assert not there & {"gates.png", "selectors.svg"}, "what an earlier call wrote may be another model's"


def test_where_no_hop_can_be_probed_figure_and_page_say_so(checkpoints, tmp_path):
    """A task of one answer at one place, whose tokens are no links: rows are there, and none has a hop."""
    found = analyze(checkpoints / "cases-template-l2", examples=32, progress=False)
    assert not found.reach.empty
    assert not any(found.reach["accuracy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = "".join(text.get_text() for text in reach_map(found).texts)
    assert "no hop can be probed" in said
    page = tmp_path / "page.html"
    found.to_html(page)
    assert "No hop can be probed" in page.read_text(encoding="utf-8")


def test_attention_is_drawn_with_the_sources_that_labels_name(analysis):
    """In every panel the boxes are the role's sources at the destination's rows, and the picture is the head's attention."""
    model, task = analysis.subject
    batch = labelling_batch(task, analysis.examples, analysis.seed)[2:3]
    run = record(model, batch.tokens)
    rows = [row for row in records(analysis.labels) if row["status"] == "confirmed"]
    figure = attention_maps(analysis, example=2)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [head_name(row) for row in rows]
    for axes, row in zip(panels, rows, strict=True):
        head = HeadId.parse(row["head"])
        shown = torch.tensor(axes.images[0].get_array().data)
        torch.testing.assert_close(shown, run.pattern[head.layer, 0, head.index])
        boxes = {(round(box.get_y() + 0.5), round(box.get_x() + 0.5)) for box in axes.patches}
        targets = role_targets(task, batch, [role_of(row)])[0, 0] & destination_rows(batch, row["destination"])[0][:, None]
        assert boxes == set(map(tuple, targets.nonzero().tolist()))
    with pytest.raises(ConfigError, match="an example is one of"):
        attention_maps(analysis, example=-1)


def test_all_are_written_as_png_svg_and_pdf_and_leave_nothing_open(analysis, tmp_path):
    save_figures(analysis, tmp_path / "figures")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [
        f"{name}.{ending}" for name in ("attention", "circuit", "evidence", "reach") for ending in ("pdf", "png", "svg")
    ]
    for path in (tmp_path / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert Gcf.get_all_fig_managers() == []


@pytest.mark.parametrize(
    ("gate", "shown"),
    [
        (None, ""),
        ("asked 1..3", "asked 1..3"),
        ("place of own kind 1, 3..4", "… kind 1, 3..4"),
        ("own symbol 0..5, 7", "… symbol 0..5, 7"),
        ("own symbol 0, 2, 4, 6, 8, 10, 12", "… symbol 0, 2, …"),
    ],
)
def test_a_gate_that_is_too_long_for_a_box_keeps_its_values(gate, shown):
    assert gate_in_box({"gate": gate}) == shown
    assert len(shown) <= LETTERS
