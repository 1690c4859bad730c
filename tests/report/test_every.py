"""Every role and every status through every report: each is shown by its own name, and none is taken for another."""

import ast
import html
import io
import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from report import every

import stackheads
from stackheads import Analysis, Emergence, orders_agree
from stackheads.explanation.circuit import no_circuit
from stackheads.explanation.explained import in_words
from stackheads.record import VERDICT_ORDER
from stackheads.report.attention import head_name, show
from stackheads.report.emergence import print_emergence
from stackheads.report.figures import circuit_diagram, evidence_map, save_figures, timeline
from stackheads.report.figures.style import COLOURS, MARKERS
from stackheads.report.notebook import analysis_html
from stackheads.report.page import page
from stackheads.report.terminal import print_analysis, print_selectors
from stackheads.tables import natural, place_of, records, role_of
from stackheads.timeline.result import OTHER_ROLE, SYMBOLS
from stackheads.types import HeadId, Role, RoleName, Status

NAMES = [str(role) for role in every.ROLES]


@pytest.fixture(scope="module")
def made():
    return every.analysis()


@pytest.fixture(scope="module")
def run():
    return every.emergence()


def printed(show, what):
    out = io.StringIO()
    show(what, out)
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    return out.getvalue()


def cell(row):
    return f"{row['head']} @{row['destination']}"


def test_there_is_every_role_and_every_status(made):
    assert {role.name for role in every.ROLES} == set(get_args(RoleName)) == set(VERDICT_ORDER)
    assert set(made.labels["status"]) == set(Status)
    assert len(set(NAMES)) == len(NAMES)


def test_heads_stand_in_their_order_and_roles_in_theirs():
    heads = [HeadId(layer, index) for layer in range(3) for index in range(12)]
    assert sorted(map(str, reversed(heads)), key=natural) == list(map(str, heads))
    assert sorted(["hop 10", "hop 2", "hop -1", "hop -12"], key=natural) == ["hop -12", "hop -1", "hop 2", "hop 10"]
    assert natural("L0H10 @value hop 2") > natural("L0H9 @value hop 12")


def test_a_row_names_its_role(made):
    for row, (*_, role, status) in zip(records(made.labels), every.cells(), strict=True):
        assert role_of(row) == (None if status in (Status.NONE, Status.UNDECIDED) else role)


def test_the_verdict_names_each_role_with_its_heads(made):
    lines = dict(line.split(": ") for line in made.verdict.splitlines())
    assert set(lines) == set(NAMES)
    for row in records(made.labels[made.labels["status"] == "confirmed"]):
        assert row["head"] in lines[str(role_of(row))]
        assert (row["gate"] or "") in lines[str(role_of(row))]
    for hop, heads in made.hops.items():
        assert heads == sorted(heads, key=natural)
        rows = [
            row for row in records(made.labels) if row["status"] == "confirmed" and row["role"] == "hop" and row["hop"] == hop
        ]
        assert set(heads) == {row["head"] if row["gate"] is None else f"{row['head']} when {row['gate']}" for row in rows}


def test_the_terminal(made):
    lines = printed(print_analysis, made).splitlines()
    for row in records(made.labels):
        shown = [row["head"], row["destination"], str(role_of(row) or "–"), Status(row["status"]).symbol, row["status"]]
        below = [""] if row["gate"] is None else textwrap.wrap(f"when {row['gate']}", 19)
        assert any(
            line.split()[:5] == " ".join(shown).split()[:5]
            and all(part in next_line for part, next_line in zip(below, lines[number + 1 :], strict=False))
            for number, line in enumerate(lines)
        )
    reasons = [row["reason"] for row in records(made.labels) if row["status"] != Status.NONE]
    column = next(line.index(reasons[0]) for line in lines if reasons[0] in line)
    text = " ".join(" ".join(line[column:] for line in lines).split())
    assert all(reason in text for reason in reasons)


def test_the_evidence_map(made):
    where = evidence_map(made).axes[0]
    columns = [tick.get_text() for tick in where.get_xticklabels()]
    assert columns == sorted(NAMES, key=natural)
    at = {
        int(line.get_ydata()[0]): columns[int(line.get_xdata()[0])] for line in where.get_lines() if line.get_marker() != "None"
    }
    assert at == dict(enumerate(made.labels["looks_like"]))
    legend = [text.get_text() for text in where.figure.legends[0].get_texts()]
    assert legend[: len(Status)] == list(Status)


def test_the_circuit(made):
    shown = [text.get_text() for text in circuit_diagram(made).axes[0].texts]
    assert set(NAMES) <= set(shown)
    assert {"asked 1..3, 7", "… symbol 0, 2, …"} <= set(shown)


def test_all_figures_are_written(made, tmp_path):
    save_figures(made, tmp_path)
    assert len(list(tmp_path.iterdir())) == 9


def test_the_page(made):
    text = page(made)
    rows = re.findall(r'<tr data-status="([^"]*)">(.*?)</tr>', text, re.DOTALL)
    assert len(rows) == len(made.labels)
    for (status, inner), row in zip(rows, records(made.labels), strict=True):
        assert status == row["status"]
        assert Status(status).symbol in inner
        assert f">{role_of(row) or '–'}<" in inner
        assert f">{row['gate'] or '–'}<" in inner
    drawn = re.findall('<text class="role"[^>]*>([^<]*)<', text)
    assert set(NAMES) <= set(drawn)
    assert all(status.colour in text for status in Status)


def test_the_page_with_selectors(made):
    explained = every.explained()
    text = page(made, selectors=explained)
    assert '<a href="#selectors">' in text
    words = {html.escape(in_words(row)) for row in records(explained.table)}
    assert all(f">{word}<" in text for word in words)
    assert "made &lt;up&gt;" in text
    assert "With those alone at which heads do look 0.75 of the weakest is kept." in text
    for what in ("L0H0 @value: hop 12 by asked", "L1H0 @value: distance", "L1H1 @value: own symbol × symbol of key"):
        assert f"Weights of {what}" in text
    assert all(f">{level}<" in text for level in explained.levels)
    assert "#selectors" not in page(made)


def test_the_notebook(made):
    text = analysis_html(made)
    assert all(f">{name}</td>" in text for name in NAMES)
    assert all(f">{status}</td>" in text for status in Status)
    assert all(f">{gate}</td>" in text for gate in every.GATES)


def test_the_attention_view(made, analysis):
    for row in records(made.labels):
        name = head_name(row)
        role = role_of(row)
        assert name.startswith(" ".join(filter(None, (row["head"], role and str(role), f"@{place_of(row)}"))))
        assert (f"({row['status']})" in name) == (row["status"] not in ("confirmed", "none"))
    labels = made.labels.assign(head="L0H0", layer=0)
    labels = labels[labels["destination"].isin(["query", "value", "key"]) & (labels["gate"] != str(every.GATES[0]))]
    view = show(replace(analysis, labels=labels), heads="all", destination=None)
    assert len(view.props["attentionHeadNames"]) == len(labels)
    for name in NAMES:
        row = next((row for row in records(labels) if str(role_of(row)) == name), None)
        assert row is None or any(note.startswith(head_name(row)) for note in view.notes)


def test_the_emergence_printer(run):
    text = printed(print_emergence, run)
    for name in NAMES:
        assert any(re.search(rf" {re.escape(name)}  +\S{{10}} ", line) for line in text.splitlines())
    legend = " ".join(text[text.index("heads: ") :].split())
    assert all(f"{symbol} {status}" in legend for status, symbol in SYMBOLS.items())
    assert SYMBOLS.keys() - set(Status) == {OTHER_ROLE}


def test_the_timeline(run):
    bottom = timeline(run).axes[1]
    assert [label.get_text().split("@")[1].split(" ", 1)[1] for label in bottom.get_yticklabels()] == NAMES
    assert [text.get_text() for text in bottom.get_legend().get_texts()] == list(SYMBOLS)


def test_orders_keep_roles_apart(run):
    assert orders_agree([run, run])["roles"].shared == len(NAMES)


def test_json_and_back(made, run, tmp_path):
    made.save(tmp_path / "analysis")
    loaded = Analysis.load(tmp_path / "analysis")
    assert json.loads(loaded.to_json()) == json.loads(made.to_json())
    assert loaded.verdict == made.verdict
    assert printed(print_analysis, loaded) == printed(print_analysis, made)
    assert page(loaded) == page(made)
    run.save(tmp_path / "run")
    assert Emergence.load(tmp_path / "run").to_dict() == run.to_dict()
    assert printed(print_emergence, Emergence.load(tmp_path / "run")) == printed(print_emergence, run)


def test_labels_that_were_saved_before_there_were_gates_are_read_and_shown(made, tmp_path):
    kept = made.labels[made.labels["gate"].isna()]
    before = replace(made, labels=kept.drop(columns=["selector", "gate", "share"]), circuit=no_circuit())
    before.save(tmp_path / "before")
    loaded = Analysis.load(tmp_path / "before")
    after = replace(made, labels=kept, circuit=no_circuit())
    assert loaded.verdict == after.verdict
    assert printed(print_analysis, loaded) == printed(print_analysis, after)
    assert "<table" in page(loaded)
    assert "<table" in analysis_html(loaded)
    save_figures(loaded, tmp_path / "figures")


def test_statuses_look_different_in_every_way():
    for looks in (COLOURS, SYMBOLS, MARKERS):
        assert len(set(looks.values())) == len(looks)
    assert set(MARKERS) == set(Status)
    assert set(COLOURS) == {*Status, OTHER_ROLE}
    assert str(Role("condition", 1)) == "condition 1"


def test_a_role_is_printed_by_itself_alone():
    """No text is put together from a row's `role` and `hop`, or a role's name and number; stability joins them as a key."""
    for path in Path(stackheads.__file__).parent.rglob("*.py"):
        if path.name in ("types.py", "stability.py"):
            continue
        for text in ast.walk(ast.parse(path.read_text())):
            if isinstance(text, ast.JoinedStr):
                assert not by_hand(text), f"{path.name}:{text.lineno}: use str(role_of(row))"


def by_hand(text):
    """Whether an f-string shows `row["role"]`, or `.hop` or `.name` of something called role."""
    for part in ast.walk(text):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant) and part.slice.value == "role":
            return True
        if isinstance(part, ast.Attribute) and part.attr in ("hop", "name") and ast.unparse(part.value).endswith("role"):
            return True
    return False


def test_every_selector_is_printed_in_its_own_words():
    explained = every.explained()
    text = printed(print_selectors, explained)
    flat = " ".join(text.split())
    for name in NAMES:
        assert f"value {name} " in flat
        assert f"value not {name} " in flat
    for words in ("value uniform – 0.25", "value not value slots ", "value distance ", "value own symbol × symbol of key "):
        assert words in flat
    assert all(f"{status.symbol} {status} 0.25" in flat for status in Status)
    assert "when asked 1..4, 7" in flat
    assert "with those alone at which heads do look 0.75 of the weakest is kept" in flat
    assert "hop 12 @value is shared by L0H0, L0H10 (L0H0 asked 1..4): together 0.50" in flat
    assert "@value 1: 0.90 2: 0.90 12: 0.90" in flat
    assert all(words in repr(explained) for words in ("L0H0 @value", "not hop 12", "uniform", "@query  1: 0.90"))


def test_selectors_are_plain_data():
    content = json.loads(json.dumps(every.explained().to_dict(), allow_nan=False))
    rows = content["table"]
    assert {(row["role"], row["hop"]) for row in rows if row["selector"] == "role"} == {
        (role.name, role.hop) for role in every.ROLES
    }
    assert all(isinstance(row["hop"], int | None) for row in rows)
    assert rows[-1]["weight"] is None


def test_what_heads_carry_is_said_in_the_terminal_and_on_the_page(made):
    """Of each role, and nowhere where it was not asked."""
    told, shown = printed(print_analysis, made), html.unescape(page(made, examples=0))
    title = "What heads carry that no label explains"
    assert title.lower() in told.lower()
    assert title in shown
    for row in records(made.carried):
        assert row["reason"] in shown
        assert row["reason"] in " ".join(told.split())
    unasked, nobody = replace(made, carried=None), replace(made, carried=made.carried[:0])
    assert "none was asked" in printed(print_analysis, nobody)
    assert title.lower() not in printed(print_analysis, unasked).lower()
    assert title not in page(unasked, examples=0)
