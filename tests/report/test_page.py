"""The offline page: complete, inert whatever names and tokens say, and usable in a real browser.

One analysis of a compiled circuit is shown under the worst names there are.
"""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import LAYERS, TASK
from PIL import Image
from report import every
from report.browser import Visit, chromium

from stackheads import Analysis, analyze
from stackheads.errors import ConfigError
from stackheads.explanation.circuit import no_circuit
from stackheads.labelling.roles import role_targets
from stackheads.models.hooks import record
from stackheads.programs.compiler import compile_layers
from stackheads.record import Missing
from stackheads.report.page import MAX_BYTES, data_block, page, to_html
from stackheads.report.page.attention import attention_data
from stackheads.report.page.content import ESSENTIAL, sentence
from stackheads.report.tokens import symbol_as_text, tokens_as_text
from stackheads.tables import records, with_gate
from stackheads.tasks import Cycle, Retrieval, labelling_batch
from stackheads.types import HeadId, Role, Status

SCRIPT = "</script><script>alert(1)</script>"
NASTY = [
    SCRIPT,
    "\"'<img src=x onerror=alert(1)>",
    "\u2028\u2029",
    "👩‍🔬",
    "שלום",
    "\u202eevil",
    "{{ 7*7 }}",
    "&lt;b&gt;",
    "<!--",
    "𝔘",
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Named(Retrieval):
    """The compiled circuit's task, with names that try to be something else than names."""

    @property
    def symbol_names(self) -> list[str]:
        return [NASTY[number % len(NASTY)] + str(number // len(NASTY) or "") for number in range(self.d_vocab)]


@pytest.fixture(scope="module")
def analysis():
    compiled, _ = compile_layers(LAYERS, TASK, rotation_seed=0)
    found = analyze(compiled, TASK, examples=64, progress=False)
    task = Named(**TASK.model_dump())
    model = {**found.model, "name": SCRIPT, "note": '"><script>alert(2)</script>'}
    return replace(found, subject=(compiled, task), weights=None, model=model, task={**found.task, "name": "a < b & 'c' שלום"})


@pytest.fixture(scope="module")
def trial(analysis):
    return analysis.trial(examples=64)


@pytest.fixture(scope="module")
def path(analysis, trial, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    to_html(analysis, target, trial, examples=3)
    return target


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


def test_tokens_are_written_as_statements():
    batch = Cycle(symbols=4, max_hops=1).batch(torch.tensor([[0, 1, 1, 2, 2, 3, 3, 0, 2]]))
    assert tokens_as_text(Cycle(symbols=4, max_hops=1), batch) == [["A =", "B", "B =", "C", "C =", "D", "D =", "A", "? C"]]
    pads = torch.arange(9)[None] < 2
    written = tokens_as_text(Cycle(symbols=4, max_hops=1), replace(batch, pads=pads))
    assert written == [["pad", "pad", "B =", "C", "C =", "D", "D =", "A", "? C"]]


def test_symbols_after_z_go_on_like_columns_of_a_sheet():
    task = Cycle(symbols=60, max_hops=1)
    assert [symbol_as_text(task, number) for number in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]


def test_a_name_that_is_missing_is_an_error(analysis):
    with pytest.raises(ConfigError, match="must name all"):
        symbol_as_text(analysis.subject[1], 10_000)


def test_the_page_is_small_and_the_same_each_time(analysis, trial, path):
    text = path.read_text()
    assert len(text) < MAX_BYTES
    assert text == page(analysis, trial, examples=3)


def test_names_and_tokens_stay_data(path):
    text = path.read_text()
    assert "alert(1)</script>" not in text
    assert "onerror=alert(1)>" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


@pytest.mark.parametrize("text", NASTY)
def test_the_data_block_says_the_same_and_can_not_be_left(text):
    block = data_block({text: [text]})
    assert json.loads(block) == {text: [text]}
    assert not re.search("[<>&\u2028\u2029]", block)


def test_the_policy_names_the_script_and_the_style_and_nothing_else(path):
    text = path.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    for tag in ("script", "style"):
        inner = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"https?://", text)
    assert not re.search(r"<[^>]* (style|on\w+)=", text)


def test_every_label_and_edge_is_in_the_markup(analysis, path):
    text = path.read_text()
    assert text.count("<tr data-status=") == len(analysis.labels)
    drawn = [edge for edge in analysis.circuit.edges(data="strength") if abs(edge[2]) >= 0.1]
    assert len(re.findall('<path class="edge [^"]*" data-from', text)) == len(drawn) > 0


def test_attention_is_the_models_and_targets_are_the_labels(analysis):
    model, task = analysis.subject
    data = attention_data(analysis, examples=2)
    batch = labelling_batch(task, analysis.examples, analysis.seed)[:2]
    run = record(model, batch.tokens)
    for shown in data["heads"]:
        head = HeadId.parse(shown["head"])
        pattern = run.pattern[head.layer, :, head.index]
        assert np.abs(np.array(shown["patterns"]) - 100 * pattern.numpy()).max() <= 0.51
        for row in records(analysis.labels.query("head == @shown['head'] and status == 'confirmed'")):
            target = role_targets(task, batch, [Role(row["role"], row["hop"])])[0]
            at = (batch.slots == {"key": 0, "value": 1, "query": 2}[row["destination"]]).nonzero().tolist()
            assert all(shown["targets"][e][p] == target[e, p].nonzero().flatten().tolist() for e, p in at)
    assert all(answer["right"] == answer["given"] for example in data["examples"] for answer in example["answers"])


def test_what_is_too_much_is_left_out_and_said(analysis, monkeypatch, tmp_path):
    cells, heads = analysis.subject[1].n_ctx ** 2, len(attention_data(analysis, examples=1)["heads"])
    for room, kept in ((2 * heads, (2, heads)), (heads - 1, (1, heads - 1))):
        monkeypatch.setattr("stackheads.report.page.attention.MAX_CELLS", room * cells)
        data = attention_data(analysis, examples=8)
        assert (len(data["examples"]), len(data["heads"])) == kept
        assert (f"first {kept[1]} of {heads} heads" in data["note"]) == (kept[1] < heads)
    monkeypatch.setattr("stackheads.report.page.MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="ask for fewer examples"):
        to_html(analysis, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_an_analysis_without_model_trial_or_circuit_has_a_page_that_says_so(analysis, tmp_path):
    analysis.save(tmp_path / "saved")
    loaded = replace(Analysis.load(tmp_path / "saved"), circuit=no_circuit(), reach=None, mechanism=None, program=None)
    text = page(loaded)
    for words in ("loaded without its model", "not put on trial", "the circuit was not looked for", "It was not looked for"):
        assert words in text


def test_a_page_says_why_a_trial_or_selectors_are_missing(analysis):
    text = page(analysis, Missing("for this reason"), selectors=Missing("for that reason"))
    for words in ("They could not be put on trial: for this reason.", "There are none: for that reason."):
        assert words in text


def test_mistakes_are_one_line(analysis, tmp_path):
    with pytest.raises(ConfigError, match="this output is a file"):
        analysis.to_html(tmp_path)
    with pytest.raises(ConfigError, match="at least 0"):
        analysis.to_html(tmp_path / "page.html", examples=-1)
    assert list(tmp_path.iterdir()) == []


def test_it_opens_without_a_word_and_without_a_request(browser, path):
    with Visit(browser, path) as visit:
        visit.page.wait_for_selector("#map td")
        assert visit.requests == [path.as_uri()]
        assert visit.complaints == []
        assert visit.page.inner_text("h1") == SCRIPT
        assert visit.page.title() == f"{SCRIPT}: attention heads"


def test_all_numbers_are_there_without_javascript(browser, path, analysis):
    with Visit(browser, path, java_script_enabled=False) as visit:
        assert visit.page.locator("#label-table tbody tr:visible").count() == len(analysis.labels)
        assert visit.page.locator("noscript p:visible").count() == 1
        assert visit.page.locator(".controls:visible").count() == 0


def test_the_policy_stops_what_is_not_the_pages_own(browser, path):
    with Visit(browser, path) as visit:
        failures = []
        visit.page.on("requestfailed", lambda request: failures.append(request.failure))
        visit.page.evaluate("""() => {
            document.body.append(Object.assign(document.createElement("script"), {textContent: "window.ran = 1"}));
            document.body.append(Object.assign(document.createElement("img"), {src: "https://example.org/x.png"}));
        }""")
        assert visit.page.evaluate("window.ran") is None
        assert visit.page.evaluate("fetch('https://example.org').then(() => 'fetched', () => 'stopped')") == "stopped"
        assert sum("Content Security Policy" in complaint for complaint in visit.complaints) >= 3
        assert set(failures) == {"csp"}


@pytest.mark.parametrize("column", ["effect", "layer", "null_p", "reason"])
def test_labels_sort_by_any_column_both_ways(browser, path, analysis, column):
    place = list(analysis.labels.columns.drop("hop")).index(column)  # the role's column says the hop too
    present = analysis.labels[column].dropna()
    with Visit(browser, path) as visit:
        visit.page.check("#all-columns")
        button = visit.page.locator("#label-table thead th").nth(place).locator("button")
        for direction, ascending in (("ascending", True), ("descending", False)):
            button.press("Enter")
            assert button.locator("..").get_attribute("aria-sort") == direction
            cells = visit.page.eval_on_selector_all(
                "#label-table tbody tr",
                f"rows => rows.map(row => [row.cells[{place}].dataset.value, row.cells[{place}].innerText])",
            )
            shown, missing = cells[: len(present)], cells[len(present) :]
            assert all(text == "–" for _, text in missing)
            if column == "reason":
                assert len({text for _, text in shown}) == present.nunique()
            else:
                assert [float(value) for value, _ in shown] == sorted(present.astype(float), reverse=not ascending)


def test_example_and_head_are_chosen_by_keyboard(browser, path, analysis):
    data = attention_data(analysis, examples=3)
    with Visit(browser, path) as visit:
        visit.page.focus("#head-choice")
        visit.page.keyboard.press("ArrowDown")
        visit.page.focus("#example-choice")
        visit.page.keyboard.press("ArrowDown")
        visit.page.keyboard.press("ArrowDown")
        cells = visit.page.eval_on_selector_all(
            "#map tbody tr", "rows => rows.map(row => [...row.cells].map(c => c.textContent))"
        )
        rings = visit.page.eval_on_selector_all(
            "#map tbody tr",
            "rows => rows.map(r => [...r.cells].slice(1).flatMap((c, n) => c.classList.contains('target') ? n : []))",
        )
        tokens = visit.page.eval_on_selector_all("#map tbody th bdi", "names => names.map(name => name.textContent)")
        assert visit.complaints == []
        assert visit.page.locator("#rows li").count() == len(tokens)
        assert data["heads"][1]["head"] in visit.page.inner_text("#attention-summary")
    assert tokens == data["examples"][2]["tokens"]
    assert [[int(text or 0) for text in row[1:]] for row in cells] == data["heads"][1]["patterns"][2]
    assert rings == data["heads"][1]["targets"][2]


def test_paths_of_one_head_stand_out(browser, path, analysis):
    cell = next(name for name, values in analysis.circuit.nodes(data=True) if values.get("layer") == 0)
    with Visit(browser, path) as visit:
        visit.page.select_option("#path-choice", cell)
        clear = visit.page.eval_on_selector_all("#diagram .edge:not(.faded)", "edges => edges.map(edge => edge.dataset.from)")
        faded = visit.page.locator("#diagram .edge.faded").count()
    assert set(clear) == {cell}
    assert faded > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_and_follows_the_colour_scheme(browser, path, size, scheme):
    with Visit(browser, path, viewport=size, color_scheme=scheme) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        pixels = np.array(Image.open(io.BytesIO(visit.page.screenshot())).convert("L"))
    background = np.bincount(pixels.flatten()).argmax()
    assert background > 200 if scheme == "light" else background < 60
    assert len(np.unique(pixels)) > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_role_and_status_fits_without_a_column_cut_off(browser, tmp_path, scheme):
    made = every.analysis()
    to_html(made, tmp_path / "every.html")
    with Visit(browser, tmp_path / "every.html", viewport=DESKTOP, color_scheme=scheme) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
        table = visit.page.get_by_role("region", name="Labels with evidence")
        assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
        assert [head.strip(" ↕") for head in visit.page.locator("#label-table thead th:visible").all_inner_texts()] == [
            *with_gate(ESSENTIAL, records(made.labels))
        ]
        colours = visit.page.eval_on_selector_all(
            "#label-table tbody tr",
            "rows => rows.map(row => [row.dataset.status, getComputedStyle(row).getPropertyValue('--status')])",
        )
        assert {status: colour.strip() for status, colour in colours} == {status.value: status.colour for status in Status}


def test_the_circuit_and_a_sentence_come_first(browser, path, analysis):
    with Visit(browser, path, viewport=DESKTOP) as visit:
        assert visit.page.inner_text("header .lead") == sentence(analysis)
        sections = visit.page.eval_on_selector_all("main > section", "all => all.map(section => section.id)")
        assert sections == ["circuit", "labels", "verdict", "attention", "reach", "trial", "provenance"]
        assert visit.page.locator("#diagram").bounding_box()["y"] < DESKTOP["height"]
    roles = "hop 1, hop 2, previous"
    assert sentence(analysis) == f"3 of 3 heads are confirmed in a role ({roles}); the mechanism is one hop per layer."


def test_axe_finds_no_issue(browser, path):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python: pip install '.[dev]'"
    )
    with Visit(browser, path, viewport=PHONE) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        visit.page.check("#all-columns")
        light = axe.Axe().run(visit.page).response
        visit.page.emulate_media(color_scheme="dark")
        dark = axe.Axe().run(visit.page, options={"runOnly": ["color-contrast"]}).response
    for found in (light, dark):
        assert "color-contrast" in {rule["id"] for rule in found["passes"]}
        assert [(rule["id"], rule["nodes"][0]["target"]) for rule in found["violations"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_are_readable_on_every_shade(browser, path, scheme):
    """WCAG contrast of at least 4.5 for every per cent, from painted pixels."""
    with Visit(browser, path, color_scheme=scheme) as visit:
        colours = visit.page.evaluate("""() => [...Array(101).keys()].map((share) => {
            const cell = document.createElement("td");
            cell.dataset.share = share;
            document.querySelector("#map tbody tr").append(cell);
            shade(cell);
            const style = getComputedStyle(cell), paint = new OffscreenCanvas(1, 1).getContext("2d");
            return [style.backgroundColor, style.color].map((colour) => {
                paint.fillStyle = colour;
                paint.fillRect(0, 0, 1, 1);
                return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
            });
        })""")
    light = np.array(colours) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    assert ((light.max(axis=1) + 0.05) / (light.min(axis=1) + 0.05)).min() >= 4.5
