"""Selectors with many numbers, drawn: every number where it belongs."""

from dataclasses import replace

import pytest
from report import every

from stackheads.analysis import Selectors
from stackheads.errors import ConfigError
from stackheads.explanation.explained import in_words
from stackheads.report.figures import save_figures, selector_map
from stackheads.report.notebook import selectors_html
from stackheads.tables import records


def test_a_panel_for_each_selector_with_its_numbers():
    figure = selector_map(every.explained().weights)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    symbols = panels["L1H1 @value\nown symbol × symbol of key"]
    (image,) = symbols.get_images()
    shown = image.get_array()
    assert shown.shape == (4, 4)
    assert all(shown[value, at] == pytest.approx(0.1 * (value - at)) for value in range(4) for at in range(4))
    assert (symbols.get_ylabel(), symbols.get_xlabel()) == ("own symbol", "symbol of key")
    gated = panels["L0H0 @value\nhop 12 by asked"]
    assert [label.get_text() for label in gated.get_yticklabels()] == ["1", "2", "12"]
    distances = panels["L1H0 @value\ndistance"]
    assert [label.get_text() for label in distances.get_xticklabels()] == ["-1", "0", "1"]


def test_one_head_alone():
    weights = every.explained().weights
    figure = selector_map(weights[weights["head"] == "L1H0"])
    assert figure.axes[0].get_title(loc="left") == "L1H0 @value\ndistance"


def test_where_there_is_nothing_to_draw():
    with pytest.raises(ConfigError, match=r"needs rows of Explained\.weights, got none"):
        selector_map(every.explained().weights.iloc[:0])


def test_it_is_among_the_figures(tmp_path):
    save_figures(every.analysis(), tmp_path, every.explained())
    assert {path.name for path in tmp_path.glob("selectors.*")} == {"selectors.png", "selectors.svg", "selectors.pdf"}


def test_a_notebook_shows_every_level_selector_and_number():
    found = every.explained()
    page = Selectors(**vars(found))._repr_html_()
    levels, looks = page.split("</table>")[:2]
    assert levels.count("<tr") == 1 + len(found.levels)
    assert looks.count("<tr") == 1 + len(found.table)
    assert all(f">{in_words(row)}</td>" in looks for row in records(found.table))
    assert ">0.90</td>" in levels
    assert "made &lt;up&gt;" in looks
    assert "<up>" not in page
    assert "doubling: selectors let the query follow 1, 12 hops" in page
    assert "layer 0: hop 12 @value when asked 1..4" in page
    assert page.count("<svg") == 1


def test_a_notebook_shows_selectors_of_which_nothing_is_drawn_or_named():
    page = selectors_html(replace(every.explained(), weights=every.weights().iloc[:0], mechanism=None, program=None))
    assert "<svg" not in page
    assert "<pre>" not in page
