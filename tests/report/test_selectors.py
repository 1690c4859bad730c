"""Selectors with many numbers, drawn: every number where it belongs."""

import pytest
from report import every

from stackheads.errors import ConfigError
from stackheads.report.figures import save_figures, selector_map


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
