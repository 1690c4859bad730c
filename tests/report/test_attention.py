"""Attention as CircuitsVis draws it: what the figure says, that it fetches nothing, and that tokens stay text."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from stackheads import Analysis
from stackheads.errors import ConfigError, InterventionError
from stackheads.report import attention
from stackheads.report.attention import AttentionView, _Page, marked_tokens, script_html, show
from stackheads.tasks import Cycle, Retrieval, labelling_batch

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = ["</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "\"'`${1}", "\u2028", "😀"]
HOSTILE += ["שלום", "<!--<script>", "\\u003c/script>"]


class Renamed(Cycle):
    """A cycle whose symbols have other names."""

    @property
    def symbol_names(self):
        return HOSTILE


@pytest.fixture(scope="module")
def hostile(analysis):
    model, task = analysis.subject
    return replace(analysis, subject=(model, Renamed(**task.model_dump())))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, tmp_path, body, head=""):
    """The page in a browser, with the errors and requests it made."""
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset='utf-8'>{head}<body>{body}</body>")
    page, trouble = browser.new_page(), []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: trouble.append(request.url) if "cell.html" not in request.url else None)
    page.goto((tmp_path / "cell.html").as_uri())
    return page, trouble


def test_heads_carry_their_labels_and_the_notes_name_the_source(analysis):
    view = analysis.show(example=1)
    assert view.props["attentionHeadNames"] == ["L1H0 hop 1 @query", "L2H0 hop 3 @query", "L2H1 hop 1 @query"]
    assert re.fullmatch(
        r"L2H0 hop 3 @query: 1.00 of attention on “[A-H] \[hop 3\]”, where the label says it looks", view.notes[1]
    )
    assert len(analysis.show(heads="all", destination=None).props["tokens"]) == 17
    assert [name.split()[0] for name in show(analysis, heads=["L0H0"]).props["attentionHeadNames"]] == ["L0H0"]


def test_the_attention_is_the_models(analysis):
    model, task = analysis.subject
    batch = labelling_batch(task, 64, 0)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
    expected = cache["pattern", 2][5, 1]
    drawn = analysis.show(example=5, heads=["L2H1"]).props["attention"][0]
    assert torch.allclose(drawn, expected, atol=1e-4)


@pytest.mark.parametrize("task", [Cycle(symbols=6, max_hops=2), Retrieval(chains=3, max_hops=3, attention_dir="causal")])
def test_marks_are_the_statements_on_the_asked_chain(task, generator):
    """Follow the chain in the written tokens: [hop j] stands at the statement whose value is f^j(query)."""
    batch = task.sample(1, generator)
    tokens = marked_tokens(task, batch)
    pairs = list(zip(tokens[:-1:2], tokens[1:-1:2], strict=True))
    links = {key.split()[0]: (value.split()[0], key, value) for key, value in pairs}
    symbol = tokens[-1].split()[1]
    for hop in range(1, task.max_hops + 1):
        symbol, key, value = links[symbol]
        assert key.endswith(f"[hop {hop}]")
        assert value.endswith(f"[hop {hop}]")
    marked = sum("[hop" in key for key, _ in pairs)
    assert marked == (6 if isinstance(task, Cycle) else task.max_hops)


def test_requests_that_cannot_be_met_are_refused(analysis, tmp_path):
    for arguments, says in [
        ({"example": 64}, r"0\.\.63, got 64"),
        ({"view": "rose"}, "got 'rose'"),
        ({"destination": "verb"}, "got 'verb'"),
        ({"heads": "best"}, "got 'best'"),
        ({"heads": []}, "got none"),
    ]:
        with pytest.raises(ConfigError, match=says):
            analysis.show(**arguments)
    with pytest.raises(InterventionError, match="got L9H0"):
        analysis.show(heads=["L9H0"])
    analysis.save(tmp_path / "a")
    loaded = Analysis.load(tmp_path / "a")
    with pytest.raises(ConfigError, match="loaded without its model"):
        loaded.show()
    page = loaded._repr_html_()
    assert "Attention is shown where the model is at hand" in page
    assert "<svg" in page


def test_a_notebook_holds_the_script_once_and_a_cell_run_again_brings_it_again(monkeypatch):
    running = ["a", 1]
    monkeypatch.setattr(attention, "_running_cell", lambda: tuple(running))
    page = _Page()
    asked = []
    for cell, count in [("a", 1), ("a", 1), ("b", 2), ("a", 3), ("a", 3), ("b", 4)]:
        running[:] = cell, count
        asked.append(page.needs_script())
    assert asked == [True, False, False, True, False, False]
    monkeypatch.setattr(attention, "_running_cell", lambda: None)
    assert page.needs_script()


def test_the_script_ends_where_it_should(hostile):
    assert script_html().count("</script") == 1
    page = hostile.show().html(script=False)
    assert page.count("</script") == 1
    assert "<img" not in page.replace("&lt;img", "")
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:|@import|import\s*\(", page)


def test_the_cell_draws_the_heads_and_asks_for_nothing(analysis, browser, tmp_path):
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'unsafe-inline'; img-src data:\">"
    second = analysis.show(destination="value", view="patterns").html(script=False)
    page, trouble = opened(browser, tmp_path, second + analysis._repr_html_(), policy)
    page.get_by_text("L2H0 hop 3 @query", exact=True).first.wait_for()
    shown = page.inner_text("body")
    assert "Head Selector" in shown
    assert attention.WAITING not in shown
    assert page.locator("canvas").count() + page.locator("svg").count() >= 4
    assert trouble == []


def test_hostile_tokens_stay_text(hostile, browser, tmp_path):
    views = [hostile.show(), hostile.show(view="patterns")]
    body = views[0].html() + views[1].html(script=False)
    page, trouble = opened(browser, tmp_path, body)
    page.get_by_text("L2H0 hop 3 @query", exact=True).first.wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert "😀" in page.inner_text("body")
    assert trouble == []


def test_a_figure_without_the_script_says_what_to_do(browser, tmp_path):
    view = AttentionView("AttentionPatterns", {"tokens": ["A"], "attention": [[[1.0]]]}, ("a note",))
    page, _ = opened(browser, tmp_path, view.html(script=False))
    assert attention.WAITING in page.inner_text("body")
